"""Scoring files of texts with the champion."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flows.scoring import ScoringResult, read_texts, score_file, score_texts, write_frame
from pipeline_config.errors import ConfigError, InputError, ServiceError, StoreError
from tasks.tracking.models import find_alias

TEXTS = ["the goal of the match", "", "bread and cheese"]


def score_tiny(source: Path, output: Path, alias: str = "champion") -> ScoringResult:
    return score_texts.fn(source=str(source), output=str(output), model="gloveflow-tiny", alias=alias, column="text")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".txt"])
def test_every_kind_of_file_is_scored_row_by_row(on_finished: Any, tmp_path: Path, suffix: str) -> None:
    source, output = tmp_path / f"texts{suffix}", tmp_path / "scored.parquet"
    frame = pd.DataFrame({"text": TEXTS})
    {
        ".csv": lambda: frame.to_csv(source, index=False),
        ".tsv": lambda: frame.to_csv(source, index=False, sep="\t"),
        ".jsonl": lambda: frame.to_json(source, orient="records", lines=True),
        ".parquet": lambda: frame.to_parquet(source),
        ".txt": lambda: source.write_text("\n".join(TEXTS) + "\n"),
    }[suffix]()
    result = score_tiny(source, output)
    scored = pd.read_parquet(output)
    if suffix in (".csv", ".tsv"):  # in a one-column table, a blank line is not a row
        assert scored["text"].tolist() == [TEXTS[0], TEXTS[2]] or scored["text"].tolist() == TEXTS
    assert [label for label in scored["label"] if isinstance(label, str)] == ["sports", "food"]
    assert result.labels == {"food": 1, "sports": 1}
    assert result.rows == len(scored)
    assert {"score", "p_food", "p_sports", "p_weather"} <= set(scored.columns)


def test_the_flow_returns_the_version_it_used(on_finished: Any, tmp_path: Path) -> None:
    source = tmp_path / "texts.txt"
    source.write_text("rain\n")
    champion = find_alias("gloveflow-tiny", "champion")
    assert champion is not None
    result = score_file(source=str(source), output=str(tmp_path / "scored.csv"), model="gloveflow-tiny")
    assert (result.version, result.rows, result.skipped) == (str(champion.version), 1, 0)
    assert pd.read_csv(tmp_path / "scored.csv")["label"].tolist() == ["weather"]


@pytest.mark.parametrize(("name", "value"), [("alias", "latest"), ("alias", "v1"), ("alias", "a'b"), ("model", "a/b")])
def test_names_in_the_parameters_of_the_flow_follow_the_rules_of_the_configuration(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: should .*, got "):
        score_file.fn(**{"source": "x.csv", "output": "y.csv", "model": "gloveflow-tiny", name: value})


def test_columns_of_the_input_are_kept_when_names_clash(on_finished: Any, tmp_path: Path) -> None:
    source, output = tmp_path / "texts.csv", tmp_path / "scored.csv"
    pd.DataFrame({"text": ["rain"], "label": ["mine"]}).to_csv(source, index=False)
    score_tiny(source, output)
    scored = pd.read_csv(output)
    assert (scored["input_label"][0], scored["label"][0]) == ("mine", "weather")


def test_an_unknown_alias_is_an_error(on_finished: Any, tmp_path: Path) -> None:
    source = tmp_path / "texts.txt"
    source.write_text("rain\n")
    with pytest.raises(ServiceError, match="models:/gloveflow-tiny@nobody: no such registered model"):
        score_tiny(source, tmp_path / "scored.csv", alias="nobody")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("texts.doc", "a", "got .doc, expected one of .csv"),
        ("texts.csv", "words\na\n", "no column 'text'; it has 'words'"),
        ("texts.parquet", "no parquet", "is not a readable .parquet file"),
        ("texts.csv", "", "is not a readable .csv file"),
    ],
)
def test_unusable_files_are_errors(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_texts(tmp_path / name, "text")


def test_a_name_that_is_neither_parquet_nor_csv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.parquet or \.csv"):
        write_frame(pd.DataFrame(), tmp_path / "scored.xls")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_cells_that_a_spreadsheet_would_run_are_texts_in_csv_and_unchanged_in_parquet(
    tmp_path: Path, suffix: str
) -> None:
    path, formula = tmp_path / f"scored{suffix}", '=HYPERLINK("https://attacker.example")'
    frame = pd.DataFrame(
        {
            "text": [formula, "-0.5", "plain"],
            "label": ["@SUM(A1)", None, "a"],
            "score": np.array([-0.1, np.nan, 0.3], np.float32),
            "p_=1": [1, -2, 3],
        }
    )
    frame["=head"] = frame["label"].astype("category")
    write_frame(frame, path)
    if suffix == ".parquet":
        assert pd.read_parquet(path).equals(frame)
        return
    assert path.read_text("utf-8").splitlines() == [
        "text,label,score,p_=1,'=head",
        '"\'=HYPERLINK(""https://attacker.example"")",\'@SUM(A1),-0.1,1,\'@SUM(A1)',
        "-0.5,,,-2,",
        "plain,a,0.3,3,a",
    ]


def test_a_table_without_rows_is_written_with_its_header(tmp_path: Path) -> None:
    write_frame(pd.DataFrame({"text": [], "score": []}), tmp_path / "scored.csv")
    assert (tmp_path / "scored.csv").read_text("utf-8") == "text,score\n"


def test_an_output_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        write_frame(pd.DataFrame({"a": [1]}), tmp_path / "absent" / "scored.csv")
    assert list(tmp_path.iterdir()) == []
