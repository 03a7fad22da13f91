"""What to do about a text file with bytes that are not in its encoding: name one that decodes everything, if any."""

import codecs
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tasks.reading.directories import has_folders
from tasks.reading.folders import list_class_files, list_documents
from tasks.reading.packed import open_bytes

_SAMPLE_BYTES = 1 << 20
_FIRST_LINES = 100
_COMMON = ("cp1252", "cp1251", "cp932", "gb18030")  # taken before rarer ones that fit as well
_AS_GOOD = 0.05  # difference in "chaos", charset-normalizer's share of odd characters


def advise_encoding(path: Path) -> str:
    """Return what to do about the lines of a file, or of a folder of texts, that cannot be decoded."""
    sample, size, unicode = [], 0, False
    for line in _list_lines(path):
        if _decodes(line, "utf-8"):
            unicode = True
        elif size < _SAMPLE_BYTES:
            sample.append(line)
            size += len(line)
    if not sample:
        return "the file is UTF-8 (corpus.encoding=utf-8), or its texts hold halves of surrogate pairs"
    found = find_encoding(sample)
    if unicode:
        looks = f"{found}, such as {_begin(sample[0], found)}" if found else "no known encoding"
        return f"the file mixes encodings: some lines are UTF-8, others look like {looks}; convert these to UTF-8"
    if found and all(_decodes(line, found) for line in _list_lines(path)):
        return f"set corpus.encoding={found}, if the first such line then reads right: {_begin(sample[0], found)}"
    return "convert the file to UTF-8: no encoding was found that decodes all of it"


def is_other_encoding(path: Path, encoding: str) -> bool:
    """Return whether a text file is most likely UTF-8, though it is read in another encoding.

    Its first lines that are not ASCII decide; in other encodings they are hardly ever valid UTF-8.
    """
    if encoding == "auto" or codecs.lookup(encoding).name.startswith("utf"):
        return False
    lines = list(islice(_list_lines(path), _FIRST_LINES))
    return bool(lines) and all(_decodes(line, "utf-8") for line in lines)


def find_encoding(lines: list[bytes]) -> str | None:
    """Return the name of an encoding that decodes all lines, the most likely one; None if none was found."""
    from charset_normalizer import from_bytes  # not at the top: rarely needed

    matches = list(from_bytes(b"\n".join(line.rstrip(b"\r\n") for line in lines)))
    good = [match for match in matches if match.chaos <= matches[0].chaos + _AS_GOOD]
    fitting = {name for match in good for name in match.could_be_from_charset}
    names = [name for name in _COMMON if name in fitting] + [match.encoding for match in good] + ["cp1252"]
    return next((name for name in names if all(_decodes(line, name) for line in lines)), None)


def _list_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, or of the documents of a folder, that are not ASCII."""
    for file in _list_files(path):
        with open_bytes(file) as opened:
            yield from (line for line in opened if not line.isascii())


def _list_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return list((list_class_files(path) if has_folders(path) else list_documents(path)).values())


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _begin(line: bytes, encoding: str) -> str:
    return repr(line.decode(encoding).strip()[:60])
