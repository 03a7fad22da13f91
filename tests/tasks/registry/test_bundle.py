import hashlib
import inspect
import json

import pytest

from pipeline_config.contracts.evaluation import Combination
from pipeline_config.contracts.reading import Reading
from pipeline_config.contracts.training import Architecture, ServedDescription
from pipeline_config.schemas import DOCUMENTS_FILE, MODEL_FILE, WEIGHTS_FILE
from tasks.monitoring.sample import SAMPLE
from tasks.registry.bundle import build_bundle, pip_requirements
from tasks.registry.seen import hash_training_texts
from tasks.served.network import TextClassifier
from tasks.tokens.vocabulary import Vocabulary

BOTH = Combination(candidate="hybrid", share=0.5, network_temperature=1.25, linear_temperature=0.75)


def build(toy, folder, config=None, combination=None):
    build_bundle(
        folder,
        classifier=toy.classifier,
        vocabulary=toy.vocabulary,
        baseline=toy.baseline,
        training_texts=hash_training_texts(toy.documents.read_table(DOCUMENTS_FILE)),
        reference=SAMPLE.empty_table(),
        config=config or toy.config,
        combination=combination or BOTH,
        card="# toy\n",
    )


class TestBundle:
    def test_same_inputs_give_the_same_bytes(self, toy, tmp_path):
        for name in ("one", "two"):
            build(toy, tmp_path / name)
        one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
        assert one == two
        assert one["weights.safetensors"] == toy.classifier.path(WEIGHTS_FILE).read_bytes()

    def test_description_holds_what_scoring_needs(self, toy, tmp_path):
        build(toy, tmp_path / "bundle")
        description = json.loads((tmp_path / "bundle" / "model.json").read_text("utf-8"))
        assert description["text"] == {
            "tokenizer": "basic_english",
            "tokenizer_version": "basic_english 1",
            "max_length": 12,
            "truncation": "head",
            "padding_idx": 0,
            "unk_idx": 1,
            "specials": 2,
        }
        assert description["labels"] == ["food", "météo", "sport"]
        assert description["temperature"] == 1.25
        options = {"ngrams": toy.config.baseline.ngram_max, "pieces": True}
        assert description["linear"] == {"options": options, "temperature": 0.75}
        assert description["vocabulary_digest"] == Vocabulary.read(toy.vocabulary).digest
        vocabulary = json.loads((tmp_path / "bundle" / "vocabulary.json").read_text("utf-8"))
        assert vocabulary[:2] == ["<pad>", "<unk>"]
        assert len(vocabulary) == description["architecture"]["num_embeddings"]

    def test_description_has_the_digest_of_every_other_file(self, toy, tmp_path):
        folder = tmp_path / "bundle"
        build(toy, folder)
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        del files["model.json"]
        assert json.loads((folder / "model.json").read_text("utf-8"))["files"] == files
        assert {"weights.safetensors", "vocabulary.json", "network.py", "card.md"} < files.keys()
        assert (folder / "card.md").read_text("utf-8") == "# toy\n"

    @pytest.mark.parametrize(
        ("tokenizer", "needed"),
        [
            ("basic_english", False),
            ("treebank", False),
            ("whitespace", False),
            ("toktok", True),
            ("my.module:f", False),
        ],
    )
    def test_torchtext_is_required_only_by_tokenizers_of_its_own(self, tokenizer, needed):
        requirements = pip_requirements(tokenizer)
        assert ("torchtext==0.6.0" in requirements) is needed
        assert all("==" in requirement and "+" not in requirement for requirement in requirements)

    def test_the_distribution_of_a_users_tokenizer_is_required(self):
        assert "nltk" in {
            requirement.partition("==")[0] for requirement in pip_requirements("nltk.tokenize:wordpunct_tokenize")
        }
        assert pip_requirements("no_such_module:f") == pip_requirements("basic_english")

    def test_description_keeps_that_of_the_classifier_and_is_read_back_by_its_model(self, toy, tmp_path):
        build(toy, tmp_path / "bundle")
        content = (tmp_path / "bundle" / "model.json").read_bytes()
        assert json.loads(content).items() >= toy.classifier.read_json(MODEL_FILE).items()
        assert json.loads(ServedDescription.model_validate_json(content).model_dump_json()) == json.loads(content)

    def test_description_carries_how_the_corpus_was_read(self, toy, tmp_path):
        corpus = toy.config.corpus.model_copy(update={"encoding": "latin-1", "text_column": ("subject", "body")})
        config = toy.config.model_copy(update={"corpus": corpus})
        build(toy, tmp_path / "bundle", config)
        description = ServedDescription.model_validate_json((tmp_path / "bundle" / "model.json").read_bytes())
        assert description.reading == corpus.reading
        assert (description.reading.encoding, description.reading.quoting) == ("latin-1", "auto")

    def test_a_description_of_an_older_release_has_the_default_reading(self, toy, tmp_path):
        build(toy, tmp_path / "bundle")
        old = json.loads((tmp_path / "bundle" / "model.json").read_text("utf-8"))
        del old["reading"], old["temperature"]
        assert ServedDescription.model_validate(old).reading == Reading()


def test_the_architecture_has_every_argument_of_the_network_but_the_vectors():
    arguments = set(inspect.signature(TextClassifier).parameters) - {"embeddings", "freeze_embeddings"}
    assert set(Architecture.model_fields) == arguments
