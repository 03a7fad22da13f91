"""Scoring files of texts with the champion."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey

import tasks.reading.byte_stream
from flows.scoring import make_request, score_file, score_texts
from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import ConfigError, InputError, ServiceError, StoreError
from tasks.scoring.request import ScoringResult, change_reading
from tasks.tracking import loading
from tasks.tracking.loaded import LoadedModel
from tasks.tracking.models import find_alias
from tasks.tracking.server import open_client

TEXTS = ["the goal of the match", "", "bread and cheese"]
LABELS = ("food", "sports", "weather")
OWN = ["label", "score", "p_food", "p_sports", "p_weather", "model", "version"]


def answer(text: str) -> dict[str, Any]:
    """Answer as a model would that goes by one word, so that every row shows whose answer it has."""
    label = next((name for name, word in zip(LABELS, ("bread", "goal", "rain"), strict=True) if word in text), "food")
    return {"label": label, "score": 0.5, "probabilities": {name: 0.5 if name == label else 0.25 for name in LABELS}}


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Have a model answer that goes by words; what the test enters here is the reading that it carries."""
    carried: dict[str, Any] = {}

    def load(_name: str, _alias: str, _number: int | None) -> LoadedModel:
        return LoadedModel("7", lambda texts: [answer(text) for text in texts], LABELS, Reading(**carried))

    monkeypatch.setattr("flows.scoring.load_model", load)
    return carried


def score(
    source: Path | list[Path], output: Path | str, *, reading: dict[str, Any] | None = None, **options: Any
) -> ScoringResult:
    sources = source if isinstance(source, list) else [source]
    request = make_request(list(map(str, sources)), str(output), **options)
    return score_texts.fn(request, model="gloveflow-tiny", alias="champion", reading=reading)


def rejected(output: Path) -> list[tuple[Any, ...]]:
    """Return line and reason of the rows without an answer."""
    rows = pd.read_csv(output.with_name(f"{output.stem}-rejected.csv"))
    return list(zip(rows["line"], rows["reason"], strict=True))


@pytest.mark.usefixtures("on_copy")
class TestRegisteredModel:
    def test_a_file_is_scored_row_by_row(self, tmp_path: Path) -> None:
        source, output = tmp_path / "texts.txt", tmp_path / "scored.parquet"
        source.write_text("\n".join(TEXTS) + "\n")
        champion = find_alias("gloveflow-tiny", "champion")
        assert champion is not None
        result = score_file(source=str(source), output=str(output), model="gloveflow-tiny")
        assert pq.read_table(output)["label"].to_pylist() == ["sports", None, "food"]
        assert (result.version, result.rows, result.skipped) == (str(champion.version), 3, 1)
        assert result.labels == {"food": 1, "sports": 1}
        assert rejected(output) == [(2, "empty_text")]

    def test_one_mlflow_run_and_the_page_of_the_flow_run_tell_what_was_scored(self, tmp_path: Path) -> None:
        source, output = tmp_path / "texts.txt", tmp_path / "scored.jsonl"
        source.write_text("\n".join(TEXTS) + "\n")
        result = score_file(
            source=str(source), output=str(output), model="gloveflow-tiny", version=1, threshold=1.0, top_k=2, explain=2
        )
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        assert [row["version"] for row in rows] == ["1"] * 3
        assert [row["abstained"] for row in rows] == [True, None, True]
        assert "label_2" in rows[0]
        assert len(rows[0]["explanation"]) == 2
        assert {token["token"] for token in rows[0]["explanation"]} & {"goal", "match"}
        assert rows[1]["explanation"] is None
        assert "p_food" not in rows[0]
        client = open_client()
        experiment = client.get_experiment_by_name("gloveflow/scoring/gloveflow-tiny").experiment_id
        (run,) = client.search_runs([experiment], f"params.output = '{output}'")
        assert (run.info.status, run.data.params["version"]) == ("FINISHED", "1")
        assert run.data.metrics["rows"] == 3.0
        assert run.data.metrics["rows_without_answer"] == 1.0
        assert run.data.metrics["abstained"] == 2.0
        digests = {found.dataset.name: {tag.value for tag in found.tags} for found in run.inputs.dataset_inputs}
        assert result.digest == hashlib.sha256(output.read_bytes()).hexdigest()
        assert result.digest in digests["output"]
        assert result.input_digest in digests["input"]
        assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
            "profile.parquet",
            "sample.parquet",
            "tables",
        }
        assert pq.read_table(tmp_path / "scored-profile.parquet").to_pylist() == result.profile
        identity = run.data.tags["prefect.flow_run_id"]
        with get_client(sync_client=True) as prefect:
            assert prefect.read_flow_run(UUID(identity)).state.is_completed()
            (table,) = prefect.read_artifacts(
                artifact_filter=ArtifactFilter(
                    flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(identity)]),
                    key=ArtifactFilterKey(any_=["scored-texts"]),
                )
            )
        assert json.loads(table.data)[-1] == {"label": "(no answer: empty_text)", "rows": 1, "share": ""}

    def test_it_carries_the_configured_reading_of_its_corpus(self) -> None:
        loaded = loading.load_model("gloveflow-tiny", "champion")
        assert loaded.reading == Reading(encoding="utf-8")
        assert loaded.labels == LABELS

    def test_an_unknown_alias_is_an_error_and_leaves_nothing(self, tmp_path: Path) -> None:
        source = tmp_path / "texts.txt"
        source.write_text("rain\n")
        with pytest.raises(
            ServiceError, match="models:/gloveflow-tiny@nobody: no version has this alias; there are challenger"
        ):
            score_file(source=str(source), output=str(tmp_path / "scored.csv"), model="gloveflow-tiny", alias="nobody")
        assert [path.name for path in tmp_path.glob("*scored*")] == []


@pytest.mark.parametrize(("name", "value"), [("alias", "latest"), ("alias", "v1"), ("alias", "a'b"), ("model", "a/b")])
def test_names_in_the_parameters_of_the_flow_follow_the_rules_of_the_configuration(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: should .*, got "):
        score_file.fn(**{"source": "x.csv", "output": "y.csv", "model": "gloveflow-tiny", name: value})


@pytest.mark.parametrize("changes", [{"no_such_field": 1}, {"quoting": "double"}])
def test_a_wrong_reading_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^corpus\.(no_such_field|quoting): "):
        change_reading(Reading(), changes)


@pytest.mark.usefixtures("reading")
class TestFormats:
    @pytest.mark.parametrize("block_bytes", [None, 40])
    @pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.tsv", "a.jsonl", "a.json", "a.parquet", "a.txt", "a.csv.gz"])
    def test_every_format_is_scored_in_order(
        self, name: str, block_bytes: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if block_bytes:
            monkeypatch.setattr(tasks.reading.byte_stream, "BLOCK_BYTES", block_bytes)
        source, output = tmp_path / name, tmp_path / "scored.parquet"
        texts = [f"{word} number {i}" for i, word in enumerate(["goal", "rain", "bread", "goal", "rain"] * 4)]
        frame = pd.DataFrame({"text": texts})
        content = {
            "csv": frame.to_csv(index=False),
            "tsv": frame.to_csv(index=False, sep="\t"),
            "jsonl": frame.to_json(orient="records", lines=True),
            "json": frame.to_json(orient="records"),
            "txt": "\n".join(texts) + "\n",
        }
        if name.endswith("parquet"):
            frame.to_parquet(source)
        elif name.endswith("gz"):
            source.write_bytes(gzip.compress(content["csv"].encode()))
        else:
            source.write_text(content[source.suffix[1:].lower()])
        result = score(source, output)
        scored = pd.read_parquet(output)
        assert scored.columns.tolist() == ["text", *OWN]
        assert scored["text"].tolist() == texts
        assert scored["label"].tolist() == [answer(text)["label"] for text in texts]
        assert (result.rows, result.skipped, result.rejected_output) == (20, 0, None)

    def test_a_workbook_keeps_its_types(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"text": ["goal", "rain"], "n": [1, 2], "mixed": [1, "x"], "day": ["2024-01-02"] * 2})
        frame["day"] = pd.to_datetime(frame["day"])
        frame.to_excel(tmp_path / "a.xlsx", index=False)
        score(tmp_path / "a.xlsx", tmp_path / "scored.parquet")
        table = pq.read_table(tmp_path / "scored.parquet")
        assert table.column_names == ["text", "n", "mixed", "day", *OWN]
        assert table["n"].to_pylist() == [1, 2]
        assert table["mixed"].to_pylist() == ["1", "x"]
        assert table["day"].to_pylist() == frame["day"].tolist()

    def test_a_directory_of_files_is_one_output(self, tmp_path: Path) -> None:
        folder = tmp_path / "week"
        folder.mkdir()
        (folder / "a.csv").write_text("text,id\ngoal,1\n")
        (folder / "b.csv").write_text("id,text,note\n2,rain,new\n")
        score(folder, tmp_path / "scored.parquet")
        scored = pq.read_table(tmp_path / "scored.parquet").to_pylist()
        assert [(row["id"], row["text"], row["note"], row["label"]) for row in scored] == [
            ("1", "goal", None, "sports"),
            ("2", "rain", "new", "weather"),
        ]

    def test_a_folder_per_class_is_scored_with_the_names_of_its_files(self, tmp_path: Path) -> None:
        for name, text in (("x/1.txt", "goal"), ("y/1.txt", "rain")):
            (tmp_path / "docs" / name).parent.mkdir(parents=True)
            (tmp_path / "docs" / name).write_text(text)
        score(tmp_path / "docs", tmp_path / "scored.csv")
        scored = pd.read_csv(tmp_path / "scored.csv")
        assert scored[["file", "text", "label"]].to_numpy().tolist() == [
            ["x/1.txt", "goal", "sports"],
            ["y/1.txt", "rain", "weather"],
        ]

    def test_files_whose_columns_do_not_fit_are_named(self, tmp_path: Path) -> None:
        pd.DataFrame({"text": ["goal"], "n": [1]}).to_parquet(tmp_path / "a.parquet")
        pd.DataFrame({"text": ["goal"], "n": ["x"]}).to_parquet(tmp_path / "b.parquet")
        with pytest.raises(InputError, match=r"b\.parquet: its columns do not fit those of the other files"):
            score([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "scored.parquet")


@pytest.mark.usefixtures("reading")
class TestReading:
    def test_the_encoding_of_the_corpus_is_used(self, reading: dict[str, Any], tmp_path: Path) -> None:
        reading["encoding"] = "latin-1"
        (tmp_path / "a.csv").write_bytes("text\nthé goal\n".encode("latin-1"))
        score(tmp_path / "a.csv", tmp_path / "scored.parquet")
        assert pd.read_parquet(tmp_path / "scored.parquet")[["text", "label"]].to_numpy().tolist() == [
            ["thé goal", "sports"]
        ]

    @pytest.mark.parametrize(("encoding", "told"), [("utf-8", True), ("latin-1", False)])
    def test_utf_8_that_is_read_as_latin_1_is_told(
        self, encoding: str, told: bool, reading: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        reading["encoding"] = "latin-1"
        (tmp_path / "a.csv").write_bytes("text\nthé goal\nrain\n".encode(encoding))
        score(tmp_path / "a.csv", tmp_path / "scored.parquet")
        assert ("looks like UTF-8" in caplog.text) is told

    def test_several_text_columns_are_joined(self, reading: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
        reading.update(text_column=("subject", "body"), text_joiner=" | ", label_column="queue")
        asked: list[str] = []
        loaded = LoadedModel(
            "7", lambda texts: [asked.append(t) or answer(t) for t in texts], LABELS, Reading(**reading)
        )
        monkeypatch.setattr("flows.scoring.load_model", lambda *_: loaded)
        (tmp_path / "a.csv").write_text("body,subject\nre\u0301,go\nb,\n,\n")
        score(tmp_path / "a.csv", tmp_path / "scored.parquet")
        assert asked == ["go | r\u00e9", "b"]  # in normalization form C, as in training
        assert pd.read_parquet(tmp_path / "scored.parquet")["body"].tolist() == ["re\u0301", "b", ""]

    def test_another_reading_can_be_chosen(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("note;words\nrain;goal\n")
        score(tmp_path / "a.csv", tmp_path / "scored.parquet", reading={"text_column": ("words",), "separator": ";"})
        assert pd.read_parquet(tmp_path / "scored.parquet")["label"].tolist() == ["sports"]

    def test_no_column_but_the_text_is_needed(self, reading: dict[str, Any], tmp_path: Path) -> None:
        reading.update(label_column="queue", split_column="split", group_column="user", time_column="when")
        (tmp_path / "a.csv").write_text("id,text\n1,goal\n")
        score(tmp_path / "a.csv", tmp_path / "scored.parquet")
        assert pd.read_parquet(tmp_path / "scored.parquet")["label"].tolist() == ["sports"]

    def test_a_missing_text_column_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("words\ngoal\n")
        with pytest.raises(InputError, match=r"a\.csv: expected a column 'text', got columns 'words'"):
            score(tmp_path / "a.csv", tmp_path / "scored.parquet")
        assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.usefixtures("reading")
class TestRows:
    def test_a_repeated_index_gives_every_row_its_own_answer(self, tmp_path: Path) -> None:
        texts = ["goal", "rain", None, "bread", "rain", "goal"]
        pd.DataFrame({"text": texts}, index=[0, 1, 2] * 2).to_parquet(tmp_path / "a.parquet")
        score(tmp_path / "a.parquet", tmp_path / "scored.parquet")
        scored = pq.read_table(tmp_path / "scored.parquet")
        assert scored["text"].to_pylist() == texts
        assert scored["label"].to_pylist() == ["sports", "weather", None, "food", "weather", "sports"]
        assert pd.read_parquet(tmp_path / "scored.parquet").index.tolist() == [0, 1, 2, 0, 1, 2]
        assert rejected(tmp_path / "scored.parquet") == [(3, "null_text")]

    def test_types_stay_and_large_numbers_beside_a_null_too(self, tmp_path: Path) -> None:
        table = pa.table(
            {
                "id": pa.array([2**60 + 1, None], pa.int64()),
                "text": ["goal", "rain"],
                "kind": pa.array(["a", "b"]).dictionary_encode(),
                "words": [["x"], []],
                "when": pa.array([1, None], pa.timestamp("ns")),
                "price": pa.array([4.2, 1.0], pa.float32()),
            }
        )
        pq.write_table(table, tmp_path / "a.parquet")
        score(tmp_path / "a.parquet", tmp_path / "scored.parquet")
        scored = pq.read_table(tmp_path / "scored.parquet")
        assert scored.select(table.column_names).equals(table)
        assert scored.column_names == [*table.column_names, *OWN]
        score(tmp_path / "a.parquet", tmp_path / "scored.csv")
        assert (tmp_path / "scored.csv").read_text().splitlines()[1:] == [
            '1152921504606846977,goal,a,"[""x""]",1970-01-01 00:00:00.000000001,4.2,sports,0.5,0.25,0.5,0.25,gloveflow-tiny,7',
            ",rain,b,[],,1.0,weather,0.5,0.25,0.25,0.5,gloveflow-tiny,7",
        ]

    @pytest.mark.parametrize("block_bytes", [None, 16])
    def test_a_row_with_a_field_more_is_rejected_with_its_line(
        self, block_bytes: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if block_bytes:
            monkeypatch.setattr(tasks.reading.byte_stream, "BLOCK_BYTES", block_bytes)
        (tmp_path / "a.csv").write_text('id,text\n1,goal\n2,rain,\n3,bread\n4,"goal\nrain"\n5,bread,x\n6,rain\n')
        result = score(tmp_path / "a.csv", tmp_path / "scored.parquet")
        scored = pd.read_parquet(tmp_path / "scored.parquet")
        assert scored["id"].tolist() == ["1", "3", "4", "6"]
        assert scored["label"].tolist() == ["sports", "food", "sports", "weather"]
        assert rejected(tmp_path / "scored.parquet") == [(3, "wrong_number_of_fields"), (7, "wrong_number_of_fields")]
        assert (result.rows, result.skipped, result.rejected) == (4, 0, {"wrong_number_of_fields": 2})

    @pytest.mark.parametrize("end", ["note", ""])
    def test_a_file_without_a_usable_row_is_an_error_with_line_and_remedy(self, end: str, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(f"id,text\n1,goal,{end}\n2,rain,{end}\n")
        with pytest.raises(InputError) as caught:
            score(tmp_path / "a.csv", tmp_path / "scored.parquet")
        assert "none of the 2 rows can be used" in str(caught.value)
        assert "2 wrong_number_of_fields: set corpus.separator or corpus.quoting" in str(caught.value)
        assert f"a.csv line 2 '1,goal,{end}'" in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]

    def test_a_file_without_texts_is_scored_without_answers(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("id,text\n1,\n2,  \n")
        result = score(tmp_path / "a.csv", tmp_path / "scored.parquet")
        assert (result.rows, result.skipped, result.rejected) == (2, 2, {"empty_text": 2})
        assert pq.read_table(tmp_path / "scored.parquet")["label"].to_pylist() == [None, None]

    @pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_a_file_without_rows_gives_all_columns(self, name: str, suffix: str, tmp_path: Path) -> None:
        frame, output = pd.DataFrame({"text": pd.Series([], dtype=str)}), tmp_path / f"scored{suffix}"
        frame.to_csv(tmp_path / name, index=False) if name == "a.csv" else frame.to_parquet(tmp_path / name)
        assert score(tmp_path / name, output).rows == 0
        scored = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
        assert (scored.columns.tolist(), len(scored)) == (["text", *OWN], 0)

    def test_a_file_that_was_scored_before_keeps_all_columns(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("text,label,input_label,score,p_food,note\ngoal,x,y,0.1,0.2,z\n")
        score(tmp_path / "a.csv", tmp_path / "scored.csv")
        again = tmp_path / "again.csv"
        score(tmp_path / "scored.csv", again)
        assert pd.read_csv(again).columns[-7:].tolist() == OWN
        scored = pd.read_csv(tmp_path / "scored.csv").iloc[0].to_dict()
        assert (scored["input_input_label"], scored["input_label"], scored["label"]) == ("x", "y", "sports")
        assert (scored["input_score"], scored["input_p_food"], scored["score"]) == (0.1, 0.2, 0.5)

    def test_values_of_several_types_are_texts_and_a_number_is_no_text(self, tmp_path: Path) -> None:
        rows = [
            {"text": "goal", "v": 1, "n": 2**60 + 1, "o": {"a": [1]}},
            {"text": "rain", "v": "x", "new": True},
            {"text": 12, "v": None, "n": 3},
        ]
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n["no object"]\n')
        score(tmp_path / "a.jsonl", tmp_path / "scored.parquet")
        table = pq.read_table(tmp_path / "scored.parquet")
        assert table.select(["text", "v", "n", "o", "new", "label"]).to_pydict() == {
            "text": ["goal", "rain", "12"],
            "v": ["1", "x", None],
            "n": [2**60 + 1, None, 3],
            "o": ['{"a": [1]}', None, None],
            "new": [None, True, None],
            "label": ["sports", "weather", None],
        }
        assert rejected(tmp_path / "scored.parquet") == [(3, "text_is_no_string"), (4, "not_a_json_object")]

    def test_bytes_that_are_not_in_the_encoding_are_told(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_bytes(b"id,text\n1,goal\n2,caf\xe9\n")
        score(tmp_path / "a.csv", tmp_path / "scored.parquet")
        assert pd.read_parquet(tmp_path / "scored.parquet")["text"].tolist() == ["goal", "caf?"]
        assert rejected(tmp_path / "scored.parquet") == [(3, "undecodable")]


@pytest.mark.usefixtures("reading")
class TestOutput:
    def test_an_older_file_of_rejected_rows_goes(self, tmp_path: Path) -> None:
        source, output = tmp_path / "a.txt", tmp_path / "scored.csv"
        for text, expected in (("goal\n\n", True), ("goal\n", False)):
            source.write_text(text)
            score(source, output)
            assert (tmp_path / "scored-rejected.csv").exists() is expected

    @pytest.mark.parametrize("name", ["absent/scored.csv", "folder.csv"])
    def test_an_output_that_cannot_be_written_is_told_before_the_model_is_loaded(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("flows.scoring.load_model", lambda *_: pytest.fail("the model was loaded"))
        (tmp_path / "a.txt").write_text("goal\n")
        (tmp_path / "folder.csv").mkdir()
        with pytest.raises(StoreError, match="cannot be written"):
            score(tmp_path / "a.txt", tmp_path / name)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "folder.csv"]

    def test_the_input_is_not_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("text\ngoal\n")
        with pytest.raises(InputError, match="expected another file than the input"):
            score(tmp_path / "a.csv", tmp_path / "a.csv")
        assert (tmp_path / "a.csv").read_text() == "text\ngoal\n"

    def test_a_name_that_is_neither_parquet_nor_csv_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"ends in \.parquet, \.csv or \.jsonl"):
            score(tmp_path / "a.csv", tmp_path / "scored.xls")

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_cells_that_a_spreadsheet_would_run_are_texts_in_csv_and_unchanged_in_parquet(
        self, suffix: str, tmp_path: Path
    ) -> None:
        formula = '=HYPERLINK("https://attacker.example")'
        table = pa.table({"text": [formula, "-0.5"], "=head": ["@SUM(A1)", None], "n": pa.array([-1, 2])})
        pq.write_table(table, tmp_path / "a.parquet")
        score(tmp_path / "a.parquet", tmp_path / f"scored{suffix}")
        if suffix == ".parquet":
            assert pq.read_table(tmp_path / "scored.parquet").select(table.column_names).equals(table)
            return
        assert (tmp_path / "scored.csv").read_text("utf-8").splitlines() == [
            "text,'=head,n,label,score,p_food,p_sports,p_weather,model,version",
            '"\'=HYPERLINK(""https://attacker.example"")",\'@SUM(A1),-1,food,0.5,0.5,0.25,0.25,gloveflow-tiny,7',
            "-0.5,,2,food,0.5,0.5,0.25,0.25,gloveflow-tiny,7",
        ]
