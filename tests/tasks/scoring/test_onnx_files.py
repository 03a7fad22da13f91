"""A model as ONNX answers as the model does, whatever its network is; what cannot be exported is refused by name."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline_config.errors import InputError, UnusableModelError
from tasks.served import tokenizers
from tasks.served.network import POOLINGS, TextClassifier
from tasks.tracking.loaded import LoadedModel
from tasks.tracking.loading import load_model
from tests.campaigns.scored_files import PIECES
from tests.registrations import MODEL

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
from tasks.scoring.onnx_files import EXPORTED, compare, describe_tokenizer, write_files  # noqa: E402
from tasks.scoring.onnx_graph import build_model  # noqa: E402
from tasks.scoring.onnx_runner import Classifier  # noqa: E402

SETTINGS = {"max_length": 5, "padding_idx": 0, "unk_idx": 1, "specials": 2, "truncation": "head_tail"}


@pytest.fixture
def loaded(registered: object) -> LoadedModel:
    return load_model(MODEL, "champion")


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_graph_is_the_network(pooling: str, bidirectional: bool) -> None:
    generator = np.random.default_rng(1)
    for layers, norm, pool, buckets in [(1, False, False, 0), (2, True, False, 64), (1, False, True, 64)]:
        network = TextClassifier(
            num_embeddings=20, embedding_dim=4, num_classes=3, padding_idx=0, hidden_size=3, num_layers=layers,
            bidirectional=bidirectional, pooling=pooling, unk_idx=1, layer_norm=norm, pool_embeddings=pool,
            bigram_buckets=buckets,
        ).eval()  # fmt: skip
        if network.bigrams is not None:
            torch.nn.init.normal_(network.bigrams.weight)
        session = ort.InferenceSession(build_model(network, 0.5).SerializeToString())
        for texts, longest in itertools.product((1, 7), (1, 9)):
            lengths = generator.integers(1, longest + 1, texts)
            ids = generator.integers(2, 20, (texts, lengths.max()))
            ids[np.arange(lengths.max()) >= lengths[:, None]] = 0
            with torch.inference_mode():
                logits = network(torch.from_numpy(ids), torch.from_numpy(lengths)).double() / 0.5
            (found,) = session.run(None, {"ids": ids, "lengths": lengths})
            np.testing.assert_allclose(found, logits.softmax(dim=1).numpy(), atol=1e-5)


@pytest.mark.parametrize("name", EXPORTED)
def test_the_runner_finds_the_tokens_of_the_model(name: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    parts = [
        *PIECES,
        *"aZ9.,:;!?()[]'\"-/&\u2019\u2026\u2013\u00a0\u0130\u03a3\n\x1c",
        "n't",
        "'s",
        "mr.",
        "1,000",
        "cannot",
        "u.s.",
    ]
    texts = ["".join(draw.choice(parts, draw.integers(1, 30))) for _ in range(3000)]
    runner = Classifier.__new__(Classifier)
    settings = describe_tokenizer(tokenizers, {**SETTINGS, "tokenizer": name, "max_length": 99})
    words: dict[str, int] = {}
    expected = [
        [words.setdefault(word, len(words) + 2) for word in found] for found in tokenizers.tokenize_texts(texts, name)
    ]
    runner.read_settings(json.loads(json.dumps(settings)), words)
    for text, ids in zip(texts, expected, strict=True):
        assert runner.encode(runner.tokenize(text)) == (ids[:50] + ids[-49:] if len(ids) > 99 else ids or [1]), repr(
            text
        )


def test_a_registered_model_is_exported_and_runs_without_torch(loaded: LoadedModel, tmp_path: Path) -> None:
    folder, texts = tmp_path / "made" / "exported", ["the bread was soup", "", "Storm and a GOAL, rain!", "words " * 40]
    write_files(loaded, folder)
    assert compare(loaded, folder, texts) < 1e-6
    code = (
        "import sys, json; sys.argv[1:] = json.loads(sys.argv[1]); import runpy; runpy.run_path('classify.py', "
        "run_name='__main__'); assert not {'torch', 'tasks', 'pyarrow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(texts)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in loaded.classify(texts)]
    assert len((folder / "classify.py").read_text().splitlines()) <= 90
    with pytest.raises(InputError, match="expected a new or empty directory"):
        write_files(loaded, folder)


def test_files_that_answer_otherwise_are_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    write_files(loaded._replace(temperature=loaded.temperature * 2), tmp_path / "exported")
    with pytest.raises(UnusableModelError, match="does not answer as version 1: probabilities differ by up to"):
        compare(loaded, tmp_path / "exported", ["the bread was soup"])


@pytest.mark.parametrize("name", ["unicode_words", "characters", "chinese", "toktok", "mine:split"])
def test_a_tokenizer_that_needs_more_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"the tokenizer '{name}' cannot be exported; expected one of basic_english"):
        describe_tokenizer(tokenizers, {**SETTINGS, "tokenizer": name})
