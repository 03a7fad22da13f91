"""What `gloveflow inspect` says of a corpus, and mistakes in inputs that are told before any server starts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli import inputs
from flows.cli.inputs import check_inputs
from flows.cli.inspection import Tokens, estimate_seconds
from flows.cli.main import run_command
from pipeline_config.errors import ConfigError, InputError
from pipeline_config.resolve import resolve_config
from pipeline_config.settings import PipelineConfig
from tests.small_run import write_corpus, write_vectors

ARTICLES = "subject,body,queue\n"


@pytest.fixture(autouse=True)
def nothing_starts(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fail a test in which a command starts a server, a flow or an MLflow run; returns the artifacts directory."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was started")

    for name in (
        "flows.cli.session.run_flow",
        "flows.cli.servers.running_servers",
        "flows.cli.server_process.Server.start",
    ):
        monkeypatch.setattr(name, refuse)
    return artifacts


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    """A CSV of two classes with two text columns, a copy, a conflict, a row without a text, and one without a label."""
    lines = [f"Parcel {i} is late,my parcel number {i} has not come,shipping\n" for i in range(30)]
    lines += [f"Invoice {i},the invoice number {i} is wrong,billing\n" for i in range(30)]
    lines += [lines[0], lines[31].replace("billing", "shipping"), ",,billing\n", "No queue,text alone,\n"]
    path = tmp_path / "Our Tickets.csv"
    path.write_text(ARTICLES + "".join(lines), "utf-8")
    return path


def inspect_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run_command(["inspect", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_inspect_describes_rows_classes_copies_and_examples(
    tickets: Path, capsys: pytest.CaptureFixture[str], nothing_starts: Path
) -> None:
    found = inspect_json(capsys, str(tickets), "--text", "subject,body", "--label", "queue")
    profile = found["profile"]
    totals = {
        label: sum(counts.get(label, 0) for counts in profile["documents"].values())
        for label in ("billing", "shipping")
    }
    assert totals == {"billing": 30, "shipping": 32}
    assert (profile["rows"], profile["duplicates"], profile["conflicting_labels"]) == (64, 2, 1)
    assert (profile["unlabelled"], profile["rejected"]) == (1, {"null_text": 1})
    assert found["rejected"]["null_text"] == [{"file": tickets.name, "line": 64, "row": 63, "text": ""}]
    assert found["unlabelled"] == [{"file": tickets.name, "line": None, "row": 64, "text": "No queue\ntext alone"}]
    assert found["files"][0]["path"] == str(tickets)
    assert profile["readings"]["csv"]["text_column"] == ["subject", "body"]
    assert not nothing_starts.exists()


def test_inspect_prints_the_same_for_people(tickets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [str(tickets), "--text", "subject,body", "--label", "queue", "--set", "training.epochs=2"]
    assert run_command(["inspect", *options]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "rows 64: 62 documents, 1 rejected, 1 unlabelled" in lines
    assert f"1 null_text: {tickets.name} line 64 ''" in lines
    assert "copies 2 documents repeat a text, 1 texts have several labels" in lines
    assert "train validation test" in lines
    command = f"gloveflow run '{tickets}' --text subject,body --label queue --set training.epochs=2"
    assert lines[-1].endswith(command[len("gloveflow ") :])


def test_inspect_counts_tokens_and_coverage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.csv"
    rows = [f"the {'rain' if i % 2 else 'bread'} qq{i}zz,{i % 2}\n" for i in range(400)]
    path.write_text("text,label\n" + "".join(rows))
    tokens = inspect_json(capsys, str(path))["tokens"]
    assert (tokens["sample"], tokens["train"], tokens["per_document"], tokens["cut"]) == (320, 960, 3.0, 0.0)
    assert tokens["covered"] == pytest.approx(2 / 3)
    assert len(tokens["misses"]) == 10
    assert all(token.startswith("qq") for token in tokens["misses"])
    tokens = inspect_json(capsys, str(path), "--set", "bucketing.max_length=2")["tokens"]
    assert (tokens["train"], tokens["cut"]) == (640, 1.0)


def test_inspect_says_where_coverage_is_if_it_is_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, vectors = write_corpus(tmp_path / "c.csv"), write_vectors(tmp_path / "v.txt")
    tokens = inspect_json(capsys, str(corpus), "--set", f"embeddings.source={vectors}")["tokens"]
    assert (tokens["covered"], tokens["misses"]) == (None, {})
    assert tokens["vectors"] == f"{vectors}: a run measures it (stage align_embeddings)"


def test_a_sample_of_the_texts_is_spread_over_the_corpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.cli.inspection.SAMPLE", 50)
    path = tmp_path / "c.csv"
    path.write_text("text,label\n" + "".join(f"one two{' three' * (i >= 200)} {i},{i % 2}\n" for i in range(400)))
    tokens = inspect_json(capsys, str(path))["tokens"]
    assert 50 <= tokens["sample"] <= 60
    assert tokens["per_document"] == pytest.approx(3.5, abs=0.2)


def test_the_estimate_grows_with_tokens_epochs_seeds_and_the_network() -> None:
    tokens = Tokens(
        tokenizer="t", sample=1, train=750_000, per_document=1, cut=0, covered=None, misses={}, vectors="none"
    )

    def seconds(**sections: Any) -> float:
        sections["training"] = {"epochs": 8, **sections.get("training", {})}
        return estimate_seconds(tokens, PipelineConfig.model_validate(sections))

    default = seconds()
    assert default == pytest.approx(8 * 10)
    assert seconds(training={"epochs": 4, "seeds": (1, 2, 3)}) == pytest.approx(default * 3 / 2)
    assert seconds(model={"bidirectional": False}) == pytest.approx(default / 2)
    assert seconds(model={"num_layers": 2}) > 2 * default


def test_findings_of_a_run_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.csv"
    labels = ["good"] * 150 + ["Good"] * 12 + ["bad"] * 20
    path.write_text("text,label\n" + "".join(f"text {i},{label}\n" for i, label in enumerate(labels)))
    assert run_command(["inspect", str(path)]) == 0
    output = capsys.readouterr().out
    assert "note       class names are nearly equal: 'Good' is nearly 'good'" in output
    assert 'corpus.label_map={"Good": "good"}' in output


COMMANDS = [["run"], ["inspect"], ["serve", "--cron", "0 3 * * *"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent.csv"], 3, "absent.csv: no such file or folder"),
        (["small.csv", "--label", "queue"], 3, "small.csv: expected a column 'queue'"),
        (["small.csv", "--text", "label"], 2, "corpus: "),
        (["small.csv", "--text", "text,"], 2, "corpus.text_column: should have at least 1 character"),
        (["small.csv"], 3, "got: 'rare' with 2"),
        (["small.csv", "--set", "corpus.source=a.csv"], 2, "corpus.source: expected one value, got FILE small.csv"),
        (["small.csv", "--set", "tokenization.tokenizer=os:system"], 2, "tokenization.tokenizer: "),
    ],
)
def test_a_mistake_in_the_input_is_told_before_anything_starts(
    command: list[str],
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    nothing_starts: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(60))
    Path("small.csv").write_text(f"text,label\n{rows}one,rare\ntwo,rare\n")
    assert run_command([*command, *arguments]) == code
    output = capsys.readouterr()
    assert message in output.err
    assert "Traceback" not in output.err
    assert not nothing_starts.exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("embeddings.source=absent.txt", r"^embeddings\.source: absent\.txt: expected a file or an https URL"),
        ("embeddings.keep=absent.parquet", r"^embeddings\.keep: absent\.parquet: no such file"),
    ],
)
def test_missing_files_of_vectors_are_told_before_anything_starts(tmp_path: Path, setting: str, message: str) -> None:
    corpus = write_corpus(tmp_path / "c.csv")
    with pytest.raises(InputError, match=message):
        check_inputs(resolve_config(overrides=[f"corpus.source={corpus}", setting]).config)


def test_vectors_that_a_run_can_do_without_may_be_missing(tmp_path: Path) -> None:
    settings = ["embeddings.source=absent.txt", "embeddings.on_failure=train_from_scratch"]
    check_inputs(resolve_config(overrides=[f"corpus.source={write_corpus(tmp_path / 'c.csv')}", *settings]).config)


def test_of_a_large_corpus_only_the_beginning_is_read_before_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "c.csv")
    corpus.write_text(corpus.read_text() + "one,rare\n")
    given = [f"corpus.source={corpus}"]
    with pytest.raises(InputError, match="'rare' with 1"):
        check_inputs(resolve_config(overrides=given).config)
    monkeypatch.setattr(inputs, "SMALL_BYTES", corpus.stat().st_size - 1)
    check_inputs(resolve_config(overrides=given).config)
    with pytest.raises(InputError, match="expected a column 'queue'"):
        check_inputs(resolve_config(overrides=[*given, "corpus.label_column=queue"]).config)


def test_a_corpus_that_has_to_be_fetched_is_left_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "locate_corpus", lambda _: pytest.fail("it was fetched"))
    monkeypatch.setenv("PLACE", "s3://bucket")
    for source in ("https://example.org/c.csv", "${PLACE}/c.csv"):
        check_inputs(resolve_config(overrides=[f"corpus.source={source}"]).config)
    with pytest.raises(ConfigError, match="ABSENT is not set"):
        check_inputs(resolve_config(overrides=["corpus.source=${ABSENT}/c.csv"]).config)


def test_looking_at_inputs_imports_neither_prefect_nor_torch() -> None:
    source = (
        "import sys\nimport flows.cli.inspection_lines\n"
        "print([name for name in ('prefect', 'torch', 'mlflow', 'pandas') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_inspect_refuses_texts_that_the_tokenizer_does_not_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.csv"
    rows = [f"{'这个产品很好用我喜欢' * (2 + i % 2)}{chr(0x4E00 + i)},{i % 2}\n" for i in range(60)]
    path.write_text("text,label\n" + "".join(rows), "utf-8")
    assert run_command(["inspect", str(path)]) == 3
    assert "set tokenization.tokenizer=" in capsys.readouterr().err
