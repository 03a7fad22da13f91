"""Hostile archives, read by the project: each gives the bytes of its member or a clear refusal, and nothing else.

    python -m tests.campaigns.hostile_archives [--archives 5000] [--seed 0]

Every archive is made from a good one by one of the tricks below, or by random damage. The campaign ends if a trick that
must be refused is not, or at wrong bytes, an unexpected exception, more memory than a limit, or a file written anywhere.
The module is longer than 300 lines because it holds one function for each of 32 tricks.
"""

import argparse
import gzip
import random
import stat
import struct
import tempfile
import time
import tracemalloc
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pipeline_config.errors import InputError
from tasks.fetching.archives import open_packed
from tests.zip_files import make_zip

MEMBER = "glove.txt"
MEMORY_BYTES = 32 << 20
LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
BAD_NAMES = [
    "../glove.txt", "a/../../glove.txt", "/etc/passwd.txt", "\\glove.txt", "C:glove.txt", "c:\\glove.txt", "..\\glove.txt",
    "a\\..\\b.txt", "..", "a\nb.txt", "a\x1bb.txt", "//host/glove.txt", "./../x.txt", "\u202etxt.evil",
]  # fmt: skip
NESTED = ["inner.zip", "inner.TXT.GZ", "a/b.tar", "x.7z", "x.tgz"]


def make_text(draw: random.Random) -> bytes:
    return b"".join(b"w%d %.4f %.4f\n" % (i, draw.gauss(0, 1), draw.gauss(0, 1)) for i in range(draw.randint(1, 400)))


def pack(draw: random.Random, *members: tuple[str, bytes], compression: int | None = None) -> bytes:
    if compression is None:
        compression = draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    return make_zip(*members, compression=compression, comment=draw.choice([b"", b"", b"made for a test"]))


def patch(data: bytes, magic: bytes, offset: int, form: str, value: int, *, which: int = 0) -> bytes:
    """Overwrite a field of the header number `which` (from 0) of a kind."""
    at = -1
    for _ in range(which + 1):
        at = data.index(magic, at + 1)
    field = struct.pack(form, value)
    return data[: at + offset] + field + data[at + offset + len(field) :]


def patch_both(data: bytes, *, local: tuple[int, str] | None, central: tuple[int, str], value: int) -> bytes:
    """Overwrite a field in the local header and in the directory."""
    data = patch(data, LOCAL, *local, value) if local else data
    return patch(data, CENTRAL, *central, value)


# Tricks that must be refused. Each returns the archive.


def bad_name(draw: random.Random, text: bytes) -> bytes:
    return pack(draw, (MEMBER, text), (draw.choice(BAD_NAMES), b"x"))


def only_bad_name(draw: random.Random, text: bytes) -> bytes:
    return pack(draw, (draw.choice(BAD_NAMES), text))


def nul_in_name(draw: random.Random, text: bytes) -> bytes:
    return pack(draw, (MEMBER + "XXXX", text)).replace(b"XXXX", b"\x00../")


def special_file(draw: random.Random, text: bytes) -> bytes:
    kind = draw.choice([stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
    return patch(pack(draw, (MEMBER, text)), CENTRAL, 38, "<I", (kind | 0o777) << 16)


def encrypted(draw: random.Random, text: bytes) -> bytes:
    bit = draw.choice([0x1, 0x40, 0x2000])
    return patch_both(pack(draw, (MEMBER, text)), local=(6, "<H"), central=(8, "<H"), value=bit)


def encrypted_in_one_header(draw: random.Random, text: bytes) -> bytes:
    data = pack(draw, (MEMBER, text))
    return patch(data, *draw.choice([(LOCAL, 6, "<H"), (CENTRAL, 8, "<H")]), 1)


def nested(draw: random.Random, text: bytes) -> bytes:
    return pack(draw, (MEMBER, text), (draw.choice(NESTED), pack(draw, (MEMBER, text))))


def duplicate(draw: random.Random, text: bytes) -> bytes:
    data = pack(draw, (MEMBER, text), ("glovf.txt", b"the 9 9\n"))
    return data.replace(b"glovf.txt", draw.choice([b"glove.txt", b"GLOVE.TXT"]))


def same_place(draw: random.Random, text: bytes) -> bytes:
    """Two entries of the directory that point to one local header."""
    data = pack(draw, (MEMBER, text), ("other.dat", b"x" * 30))
    return patch(data, CENTRAL, 42, "<I", 0, which=1)


def quoted_overlap(draw: random.Random, text: bytes) -> bytes:
    """A stored member whose data contain the local header of the next one, as in the bombs of David Fifield."""
    data = pack(draw, ("first.dat", b"x" * 50), (MEMBER, text), compression=zipfile.ZIP_STORED)
    second = data.index(LOCAL, 4)
    size = 50 + len(data[second : data.index(CENTRAL)])
    return patch(patch(data, CENTRAL, 20, "<I", size), CENTRAL, 24, "<I", size)


def too_small(draw: random.Random, text: bytes) -> bytes:
    """A directory that states fewer bytes than there are, with the CRC of only those."""
    less = draw.randint(0, len(text) - 1)
    data = pack(draw, (MEMBER, text), compression=zipfile.ZIP_DEFLATED)
    data = patch_both(data, local=(22, "<I"), central=(24, "<I"), value=less)
    return patch_both(data, local=(14, "<I"), central=(16, "<I"), value=zlib.crc32(text[:less]))


def too_large(draw: random.Random, text: bytes) -> bytes:
    more = len(text) + draw.choice([1, 100, 1 << 20, (1 << 32) - 1 - len(text)])
    return patch_both(pack(draw, (MEMBER, text)), local=(22, "<I"), central=(24, "<I"), value=more)


def packed_too_large(draw: random.Random, text: bytes) -> bytes:
    data = pack(draw, (MEMBER, text), compression=zipfile.ZIP_DEFLATED)
    return patch_both(data, local=(18, "<I"), central=(20, "<I"), value=len(data) * draw.choice([1, 2, 1000]))


def packed_too_small(draw: random.Random, text: bytes) -> bytes:
    data = pack(draw, (MEMBER, text), compression=zipfile.ZIP_DEFLATED)
    return patch_both(data, local=(18, "<I"), central=(20, "<I"), value=draw.randint(0, 10))


def wrong_crc(draw: random.Random, text: bytes) -> bytes:
    return patch_both(pack(draw, (MEMBER, text)), local=(14, "<I"), central=(16, "<I"), value=zlib.crc32(text) ^ 1)


def headers_disagree(draw: random.Random, text: bytes) -> bytes:
    data = pack(draw, (MEMBER, text))
    return draw.choice(
        [
            lambda: patch(data, LOCAL, 30, "<B", ord("h")),  # the name
            lambda: patch(data, LOCAL, 8, "<H", 12),  # the method
            lambda: patch(data, LOCAL, 22, "<I", len(text) + 1),  # the size
            lambda: patch(data, LOCAL, 28, "<H", 60_000),  # the extra field runs over the data
        ]
    )()


def bomb(draw: random.Random, text: bytes) -> bytes:
    size = draw.choice([1 << 20, 16 << 20])
    return pack(draw, (MEMBER, draw.choice([b"\0", b"\n", b"a 1 2\n"]) * size), compression=zipfile.ZIP_DEFLATED)


def quiet_bomb(draw: random.Random, text: bytes) -> bytes:
    """A bomb that states a small size."""
    data = bomb(draw, text)
    packed = struct.unpack_from("<I", data, data.index(CENTRAL) + 20)[0]
    return patch_both(data, local=(22, "<I"), central=(24, "<I"), value=packed * draw.choice([2, 100]))


def many_entries(draw: random.Random, text: bytes) -> bytes:
    return pack(draw, (MEMBER, text), *((f"{i}.dat", b"") for i in range(1100)), compression=zipfile.ZIP_STORED)


def huge_directory(draw: random.Random, text: bytes) -> bytes:
    return patch(pack(draw, (MEMBER, text)), END, 12, "<I", draw.choice([5 << 20, 0xFFFFFFFF, 0x7FFFFFFF]))


def unknown_method(draw: random.Random, text: bytes) -> bytes:
    method = draw.choice([1, 6, 9, 12, 14, 93, 95, 97, 99])
    return patch_both(pack(draw, (MEMBER, text)), local=(8, "<H"), central=(10, "<H"), value=method)


def directory_elsewhere(draw: random.Random, text: bytes) -> bytes:
    return patch(pack(draw, (MEMBER, text)), END, 16, "<I", draw.choice([0xFFFFFFF0, 1 << 20]))


def cut_off(draw: random.Random, text: bytes) -> bytes:
    data = pack(draw, (MEMBER, text))
    return data[: draw.randint(4, len(data) - 25)]


def two_texts(draw: random.Random, text: bytes) -> bytes:
    return pack(draw, (MEMBER, text), ("other.vec", text))


def gzip_bomb(draw: random.Random, text: bytes) -> bytes:
    return gzip.compress(draw.choice([b"\0", b"\n", b"a 1 2\n"]) * draw.choice([1 << 20, 16 << 20]))


def gzip_cut_off(draw: random.Random, text: bytes) -> bytes:
    data = gzip.compress(text)
    return data[: draw.randint(4, len(data) - 1)]


def gzip_with_more(draw: random.Random, text: bytes) -> bytes:
    return gzip.compress(text) + draw.choice([b"x", b"PK\x03\x04", b"\x1f\x8b"])


def gzip_wrong_end(draw: random.Random, text: bytes) -> bytes:
    data = bytearray(gzip.compress(text))
    data[-draw.randint(1, 8)] ^= 1 << draw.randrange(8)
    return bytes(data)


# Changes that may be harmless: the result must be the exact bytes or a refusal.


def damaged(draw: random.Random, text: bytes) -> bytes:
    data = bytearray(draw.choice([pack(draw, (MEMBER, text)), gzip.compress(text)]))
    for _ in range(draw.choice([1, 1, 2, 10])):
        data[draw.randrange(4, len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def damaged_directory(draw: random.Random, text: bytes) -> bytes:
    data = bytearray(pack(draw, (MEMBER, text), ("LICENSE", b"words")))
    directory = data.index(CENTRAL)
    for _ in range(draw.choice([1, 2, 4])):
        data[draw.randrange(directory, len(data))] = draw.choice([0, 1, 0xFF, draw.randrange(256)])
    return bytes(data)


def spliced(draw: random.Random, text: bytes) -> bytes:
    data = pack(draw, (MEMBER, text))
    at, size = draw.randrange(4, len(data)), draw.choice([1, 4, 22])
    return draw.choice([data[:at] + data[at + size :], data[:at] + draw.randbytes(size) + data[at:], data + data])


def untouched(draw: random.Random, text: bytes) -> bytes:
    members = [(MEMBER, text), ("LICENSE", b"words"), ("folder/", b"")]
    draw.shuffle(members)
    return draw.choice([pack(draw, *members), gzip.compress(text), gzip.compress(text[:9]) + gzip.compress(text[9:])])


REFUSED: list[Callable[[random.Random, bytes], bytes]] = [
    bad_name, only_bad_name, nul_in_name, special_file, encrypted, encrypted_in_one_header, nested, duplicate, same_place,
    quoted_overlap, too_small, too_large, packed_too_large, packed_too_small, wrong_crc, headers_disagree, bomb, quiet_bomb,
    many_entries, huge_directory, unknown_method, directory_elsewhere, cut_off, two_texts, gzip_bomb, gzip_cut_off,
    gzip_with_more, gzip_wrong_end,
]  # fmt: skip
EITHER: list[Callable[[random.Random, bytes], bytes]] = [damaged, damaged_directory, spliced]


def read_all(path: Path) -> bytes | None:
    """Return what the project reads, or None if it refuses the file; of much output only some is held in memory."""
    try:
        with open_packed(path) as opened:
            chunks = [opened.stream.read(1 << 16)]
            while chunks[-1]:
                chunks.append(opened.stream.read(1 << 16))
                if len(chunks) > 64:
                    del chunks[1:-1]
            return b"".join(chunks)
    except InputError as error:
        if str(path) not in str(error) or len(str(error)) > 2000:
            raise AssertionError(f"an unclear message: {error}") from error
        return None


def run_campaign(archives: int, seed: int) -> Counter[str]:
    """Read random archives, and return how often each trick was refused and how often it was read.

    Raises:
        AssertionError: an archive was read incorrectly, or a trick that must be refused was not.
    """
    tally: Counter[str] = Counter()
    tricks = [*REFUSED, *EITHER, *EITHER, untouched]
    tracemalloc.start()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(archives):
            draw = random.Random(f"{seed}:{number}")
            trick, text = tricks[number % len(tricks)], make_text(draw)
            data = trick(draw, text)
            path = Path(folder) / ("mine.zip" if data.startswith(b"PK") else "mine.txt.gz")
            path.write_bytes(data)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            got = read_all(path)
            grown = tracemalloc.get_traced_memory()[1] - before
            where = f"{seed}:{number}, {trick.__name__}"
            assert grown < MEMORY_BYTES, f"{where}: took {grown:,} bytes"
            assert got in (None, text), f"{where}: other bytes were read"
            assert got is None or trick not in REFUSED, f"{where}: was not refused"
            assert got is not None or trick is not untouched, f"{where}: was refused"
            assert sorted(Path(folder).iterdir()) == [path], f"{where}: a file was written"
            path.unlink()
            tally[f"{trick.__name__}: {'refused' if got is None else 'read'}"] += 1
    tracemalloc.stop()
    return tally


def main() -> None:
    """Run the campaign and print how often each trick was refused and read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archives", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    for what, count in sorted(run_campaign(options.archives, options.seed).items()):
        print(f"{what:36} {count:6,}")
    print(f"{options.archives:,} archives, none read incorrectly, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
