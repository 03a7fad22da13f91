"""The command line: what it prints, its exit codes, and that its help imports nothing heavy."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli.main import build_parser, run_command
from pipeline_config.preset_files import DEFAULT_PRESET, list_presets
from tests.small_run import write_corpus


def test_help_imports_nothing_heavy() -> None:
    source = (
        "import sys\nfrom flows.cli.main import build_parser\nbuild_parser().format_help()\n"
        "print([name for name in ('torch', 'mlflow', 'prefect', 'pandas', 'pyarrow', 'pydantic', 'numpy', 'yaml', "
        "'urllib.request', 'http.client', 'importlib.metadata') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_version_is_that_of_the_installed_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"gloveflow {metadata.version('gloveflow')}\n"


def test_help_lists_the_presets_and_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command(["run", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"one of {', '.join(list_presets())} (default: {DEFAULT_PRESET}, or none if you name a corpus)" in text


@pytest.mark.parametrize(
    "command", ["run", "inspect", "serve", "ui", "predict", "score", "export", "config", "models", "doctor"]
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command([command, "--help"])
    assert ended.value.code == 0
    assert f"gloveflow {command}" in capsys.readouterr().out


def test_config_shows_each_value_and_its_origin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("training: {epochs: 5}\n")
    code = run_command(["config", "--config", str(file), "--set", "model.hidden_size=7"])
    lines = {line.split()[0]: line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()}
    assert code == 0
    assert lines["training.epochs"][1:] == ["5", f"file {file}"]
    assert [part.strip() for part in lines["model.hidden_size"][1:]] == ["7", "--set model.hidden_size=7"]
    assert lines["name"][2].strip() == "preset sentiment"
    assert lines["training.clip_norm"][2].strip() == "default"


def test_config_shows_what_arguments_set(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["a.csv", "b.csv", "--text", "subject, body", "--label", "1", "--set", "seed=3", "--yaml"]
    assert run_command(["config", *arguments]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["name"], shown["seed"], shown["bucketing"]["max_length"]) == ("a", 3, "auto")
    corpus = {key: shown["corpus"][key] for key in ("source", "text_column", "label_column", "encoding")}
    assert corpus == {
        "source": ["a.csv", "b.csv"], "text_column": ["subject", "body"], "label_column": "1", "encoding": "auto"
    }  # fmt: skip


def test_config_shows_what_the_rules_choose_for_a_small_corpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_corpus(tmp_path / "corpus.csv")
    assert run_command(["config", str(path), "--set", "training.epochs=3"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["bucketing.batch_size"].split(maxsplit=2)[1:] == ["8", "by the rule: 192 train documents"]
    assert lines["training.epochs"].split(maxsplit=2)[1:] == ["3", "--set training.epochs=3"]
    monkeypatch.setattr("flows.cli.inputs.SMALL_BYTES", 10)  # then it is left to `inspect`
    assert run_command(["config", str(path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    expected = ["auto", "a rule chooses it, as `gloveflow inspect` shows"]
    assert lines["bucketing.batch_size"].split(maxsplit=2)[1:] == expected


def test_config_of_a_corpus_that_cannot_be_read_says_so_and_shows_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["config", "missing.csv"]) == 0
    told = capsys.readouterr()
    assert "settings that are auto depend on the corpus, which cannot be read: " in told.err
    assert "training.clip_norm" in told.out


def test_config_as_yaml_can_be_used_as_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["config", "--preset", "smoke", "--yaml"]) == 0
    file = tmp_path / "smoke.yaml"
    file.write_text(capsys.readouterr().out)
    assert run_command(["config", "--config", str(file), "--yaml"]) == 0
    assert capsys.readouterr().out == file.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["run", "--set", "training.epochs=0"],
            2,
            "training.epochs: Input should be greater than or equal to 1, got 0",
        ),
        (["run", "--set", "training.epoch=1"], 2, "training.epoch: unknown key; expected one of seeds, epochs"),
        (
            ["run", "--preset", "none"],
            2,
            "--preset: got 'none', expected one of bbc-news, custom, imdb, sentiment, smoke, sst2",
        ),
        (["run", "--config", "/absent.yaml"], 2, "--config /absent.yaml: cannot be read"),
        (["run", "--preset", "custom"], 2, "corpus.source: not set; name your corpus with --set corpus.source=FILE"),
        (["serve", "--preset", "custom", "--cron", "0 3 * * *"], 2, "corpus.source: not set"),
        (["serve", "--cron", "never"], 2, "--cron: got 'never'"),
        (["serve", "--cron", "0 3 * * *", "--timezone", "Mars/Base"], 2, "--timezone: got 'Mars/Base'"),
        (["score", "/absent.csv"], 3, "/absent.csv: no such file"),
    ],
)
def test_mistakes_get_a_message_and_a_code(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(arguments) == code
    output = capsys.readouterr()
    assert f"gloveflow: {message}" in output.err
    assert "Traceback" not in output.err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOVEFLOW_DEBUG", "")
    assert run_command(["run", "--preset", "none", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_missing_corpus_ends_the_run_with_a_message(command_line: Any) -> None:
    code, output = command_line.run("run", "--preset", "smoke", "--set", "corpus.source=/absent.csv")
    assert code == 3
    assert "gloveflow: corpus.source: /absent.csv: no such file or folder" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_a_precision_that_the_machine_lacks_is_an_error_before_anything_is_computed(
    command_line: Any, overrides: list[str], precision: str
) -> None:
    command_line.environment["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    settings = [*overrides, "training.device=cpu", f"training.precision={precision}"]
    code, output = command_line.run(
        "run", "--preset", "smoke", *(part for text in settings for part in ("--set", text))
    )
    assert code == 2
    assert f"gloveflow: training.precision: got {precision}, " in output
    assert "use auto or fp32" in output
    assert "Traceback" not in output
    assert not (command_line.artifacts / "store").exists()


def test_a_store_that_cannot_be_written_ends_the_run_with_a_message(command_line: Any, overrides: list[str]) -> None:
    command_line.artifacts.mkdir()
    (command_line.artifacts / "store").write_text("in the way")
    options = [part for text in overrides for part in ("--set", text)]
    code, output = command_line.run("run", "--preset", "smoke", *options)
    assert code == 4
    assert "cannot be written" in output
    assert "set GLOVEFLOW_ARTIFACTS to a writable directory" in output
    assert "Traceback" not in output


def test_predict_answers_with_label_and_probabilities(on_finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["predict", "--json", "--set", "name=tiny", "the goal of the match", "rain and wind and cloud"]
    assert run_command(arguments) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["label"] for answer in answers] == ["sports", "weather"]
    assert all(abs(sum(answer["probabilities"].values()) - 1) < 1e-6 for answer in answers)


def test_predict_explains_and_marks_answers_below_a_threshold(
    on_finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "the goal of the match"
    assert run_command(["predict", "--json", "--explain", "--threshold", "1", "--set", "name=tiny", text]) == 0
    (answer,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [token["token"] for token in answer["tokens"]] == text.split()
    assert answer["abstained"] is (answer["score"] < 1)
    heaviest = max(answer["tokens"], key=lambda token: token["weight"])
    assert heaviest["token"] in ("goal", "match")


@pytest.mark.parametrize("threshold", ["1.5", "-1", "nan", "high"])
def test_predict_refuses_a_threshold_that_is_no_probability(threshold: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command(["predict", f"--threshold={threshold}", "a text"])
    assert "--threshold" in capsys.readouterr().err


def test_predict_without_a_model_says_how_to_get_one(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["predict", "a text"]) == 5
    assert "no such registered model; `gloveflow run` makes one" in capsys.readouterr().err


def test_export_without_its_packages_says_what_to_install(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tasks.scoring.onnx_packages.PACKAGES", ("numpy", "onnx_of_nobody"))
    assert run_command(["export", "--output", str(artifacts / "exported")]) == 2
    assert "onnx_of_nobody not installed; `pip install 'gloveflow[onnx]'`" in capsys.readouterr().err


def test_score_with_onnx_runtime_and_without_its_packages_says_what_to_install(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = artifacts.with_name("a.csv")
    source.write_text("text\nrain\n")
    monkeypatch.setattr("tasks.scoring.onnx_packages.PACKAGES", ("numpy", "onnx_of_nobody"))
    assert run_command(["score", str(source), "--set", "scoring.runtime=onnx"]) == 2
    assert "scoring.runtime onnx: onnx_of_nobody not installed; `pip install" in capsys.readouterr().err


def test_score_says_where_the_files_go_if_one_stands_behind_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert build_parser().parse_args(["score", "a.csv", "--explain"]).explain == 5
    assert build_parser().parse_args(["score", "--explain", "3", "a.csv"]).explain == 3
    with pytest.raises(SystemExit):
        build_parser().parse_args(["score", "--explain", "a.csv"])
    assert "got a.csv; give the files before this option" in capsys.readouterr().err


def test_doctor_finds_nothing_wrong_with_this_installation(
    on_finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_command(["doctor"])
    output = capsys.readouterr().out
    assert "BAD" not in output
    assert code == 0
    assert "prefect server can be imported" in " ".join(output.split())
    assert "9 stage outputs" in output or "stage outputs" in output
