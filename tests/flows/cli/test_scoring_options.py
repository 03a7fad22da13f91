"""The options of `gloveflow score`."""

from pathlib import Path

import pytest

from flows.cli.scoring_options import changes_of_reading, choose_output, place_sources
from pipeline_config.errors import InputError
from pipeline_config.resolve import resolve_config


def test_only_what_is_set_on_the_command_line_changes_the_reading(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("corpus: {encoding: latin-1, label_column: queue}\n")
    overrides = ["corpus.separator=;", "corpus.text_column=[a, b]", "corpus.min_characters=3"]
    resolved = resolve_config(preset="imdb", file=file, overrides=overrides)
    assert changes_of_reading(resolved, None) == {"separator": ";", "text_column": ("a", "b")}
    assert changes_of_reading(resolved, ("c",)) == {"separator": ";", "text_column": ("c",)}
    assert changes_of_reading(resolve_config(preset="imdb", file=file), None) == {}


def test_sources_get_absolute_paths_and_addresses_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").touch()
    names = ["a.csv", "*.csv", "https://host.example/a.csv", "package:corpus:a.csv"]
    assert place_sources(names) == [str(tmp_path / "a.csv"), str(tmp_path / "*.csv"), *names[2:]]
    with pytest.raises(InputError, match=r"absent\.csv: no such file or directory"):
        place_sources(["a.csv", "absent.csv"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.csv", "a-scored.parquet"), ("a.csv.gz", "a-scored.parquet"), ("v1.0", "v1.0-scored.parquet")],
)
def test_the_output_is_beside_the_input(name: str, expected: str, tmp_path: Path) -> None:
    place = tmp_path / name
    place.mkdir() if name == "v1.0" else place.touch()
    assert choose_output(None, [str(place)]) == str(tmp_path / expected)


def test_the_output_of_an_address_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert choose_output(None, ["https://host.example/week.csv.gz"]) == str(tmp_path / "week-scored.parquet")
    assert choose_output("mine.csv", ["s3://bucket/*.csv"]) == str(tmp_path / "mine.csv")
    assert choose_output("mine/", ["a.csv"]) == f"{tmp_path}/mine/"
    assert choose_output("s3://bucket/mine.csv", ["a.csv"]) == "s3://bucket/mine.csv"
    with pytest.raises(InputError, match="expected --output FILE"):
        choose_output(None, ["s3://bucket/*.csv"])
