"""Corpora in databases: the rows of a query become a Parquet file."""

import os
import sqlite3
from pathlib import Path

import pytest
from pydantic import ValidationError

import tasks.reading.database
from pipeline_config.errors import InputError, ServiceError
from pipeline_config.references import fill_references, hide_secrets
from pipeline_config.settings import CorpusConfig
from tasks.reading.formats import read_blocks
from tasks.reading.sources import CorpusRef, locate_corpus

QUERY = "SELECT body, queue FROM tickets ORDER BY id"


@pytest.fixture(autouse=True)
def downloads(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tasks.reading.database, "_BATCH_ROWS", 2)
    return artifacts / "downloads"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE tickets (id INTEGER, body, queue)")
        rows = [(1, "one", 0), (2, "two", 1), (3, None, 1), (4, "four", None), (5, "five", 0)]
        connection.executemany("INSERT INTO tickets VALUES (?, ?, ?)", rows)
    connection.close()
    return path


def config(database: object, query: str = QUERY, **options: object) -> CorpusConfig:
    return CorpusConfig(
        source=f"sqlite:///{database}", query=query, text_column="body", label_column="queue", **options
    )


def rows(reference: CorpusRef, settings: CorpusConfig) -> list[tuple[str | None, str | None]]:
    return [
        (row["text"], row["label"])
        for file in reference.files
        for block in read_blocks(Path(file.path), file.kind, settings.reading)
        for row in block.to_pylist()
    ]


def refused(settings: CorpusConfig, error: type[Exception] = InputError) -> str:
    with pytest.raises(error) as caught:
        locate_corpus(settings)
    return str(caught.value)


def test_the_rows_of_a_query_are_a_corpus(database: Path, downloads: Path) -> None:
    settings = config(database, format="sql")
    reference = locate_corpus(settings)
    assert rows(reference, settings) == [("one", "0"), ("two", "1"), (None, "1"), ("four", None), ("five", "0")]
    assert [Path(file.path).parent for file in reference.files] == [downloads]


def test_the_same_rows_are_the_same_corpus_and_changed_ones_are_not(database: Path, downloads: Path) -> None:
    first = locate_corpus(config(database))
    assert locate_corpus(config(database)) == first
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE tickets SET body = 'changed' WHERE id = 5")
    connection.close()
    assert locate_corpus(config(database)).digest != first.digest
    assert len(list(downloads.glob("query-*.parquet"))) == 2


def test_a_held_out_split_may_be_a_file(database: Path, tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("body,queue\nx,0\n")
    files = locate_corpus(config(database, test_source=str(tmp_path / "test.csv"))).files
    assert [(file.kind, file.split) for file in files] == [("parquet", "train"), ("csv", "test")]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT * FROM missing", "corpus.query: no such table: missing"),
        ("SELECT missing FROM tickets", "corpus.query: no such column: missing"),
        ("SELEKT 1", 'corpus.query: near "SELEKT": syntax error'),
        ("SELECT * FROM tickets WHERE id > 9", "corpus.query: expected rows, got none"),
        ("DELETE FROM tickets", "corpus.query: expected a query that selects rows, got 'DELETE FROM tickets'"),
        (
            "SELECT body FROM tickets UNION ALL SELECT 7",
            "corpus.query: expected values of one type in the column 'body'",
        ),
    ],
)
def test_a_query_that_cannot_be_used_is_refused(database: Path, query: str, message: str) -> None:
    assert refused(config(database, query)).startswith(message)
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM tickets").fetchone() == (5,)
    connection.close()


def test_a_missing_database_is_refused_and_not_made(tmp_path: Path) -> None:
    assert refused(config(tmp_path / "no.db")) == f"corpus.source: {tmp_path}/no.db: no such file"
    assert not (tmp_path / "no.db").exists()


def test_a_driver_that_is_not_installed_is_named_and_the_password_is_not() -> None:
    settings = CorpusConfig(source="mysql+aiomysql://u:s3cret-word@127.0.0.1/x", query=QUERY)
    message = refused(settings)
    assert message.startswith("corpus.source: cannot be used as the URL of a database: ")
    assert "s3cret-word" not in message


def test_a_database_that_cannot_be_read_is_a_service_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 100)
    with pytest.raises((ServiceError, InputError), match=r"^corpus\."):
        locate_corpus(config(tmp_path / "c.db"))


def test_a_database_needs_a_query(database: Path) -> None:
    source = f"sqlite:///{database}"
    expected = "corpus.source: expected also corpus.query, the SQL that selects the rows of the database"
    assert refused(CorpusConfig(source=source)) == expected
    with pytest.raises(ValidationError, match="format sql needs query"):
        CorpusConfig(source=source, format="sql")


def test_colons_and_percent_signs_of_a_query_mean_themselves(database: Path) -> None:
    settings = config(database, "SELECT body, ':x %s ' || queue AS queue FROM tickets WHERE body LIKE 't%'")
    assert rows(locate_corpus(settings), settings) == [("two", ":x %s 1")]


def test_the_password_may_be_a_variable(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKETS", str(database))
    settings = config("${TICKETS}")
    assert len(rows(locate_corpus(settings), settings)) == 5


def test_a_password_in_the_source_becomes_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    sections = {"corpus": {"source": "postgresql://me:s3cret-word@127.0.0.1/shop"}}
    monkeypatch.setattr("os.environ", dict(os.environ))
    hide_secrets(sections)
    assert "s3cret-word" not in str(sections)
    assert fill_references(sections["corpus"]["source"], "corpus.source").endswith("me:s3cret-word@127.0.0.1/shop")
