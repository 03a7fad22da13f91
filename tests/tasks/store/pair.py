"""A small stage output of two JSON files, with its digest worked out from the definition."""

import hashlib

import pyarrow as pa

from tasks.store.output import StageOutput

STAGE, KEY = "count_words", "0123456789abcdef"
FIRST, SECOND = b'{\n "a": 1\n}\n', b'{\n "b": 2\n}\n'  # what `write_pair` leaves
WORDS = pa.schema([pa.field("word", pa.string(), nullable=False), pa.field("count", pa.int64())])


def write_pair(output: StageOutput) -> None:
    output.write_json("first.json", {"a": 1})
    output.write_json("second.json", {"b": 2})


def digest_of(files: dict[str, bytes]) -> str:
    """The digest of an output by its definition: over names and SHA-256s, as canonical JSON."""
    pairs = ",".join(f'"{name}":"{hashlib.sha256(content).hexdigest()}"' for name, content in sorted(files.items()))
    return hashlib.sha256(b"{" + pairs.encode() + b"}").hexdigest()


PAIR_DIGEST = digest_of({"first.json": FIRST, "second.json": SECOND})
