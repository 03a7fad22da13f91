"""Time and check the data stages beside the same work done as in torchtext's tutorials, in the same run.

    python tests/benchmarks/data.py chain TRAIN TEST       from Parquet to padded batches: ours and torchtext's
    python tests/benchmarks/data.py scale TRAIN TEST MORE  ours on 1, 2 and 4 times the texts: seconds and memory
    python tests/benchmarks/data.py tokenizers TRAIN       tokens per second, and time on adversarial texts
    python tests/benchmarks/data.py padding FILE...        padding and mixing of every batching scheme
    python tests/benchmarks/data.py golden FILE...         tokens and rows against torchtext's, all documents, bit for bit
    python tests/benchmarks/data.py coverage FILE...       tokens with a vector, by tokenizer and fallbacks
    python tests/benchmarks/data.py formats TRAIN          reading CSV and JSON lines: ours, Python's csv, Arrow
    python tests/benchmarks/data.py rows TRAIN             ingest of two million rows of CSV, plain and gzip: rows per second

Files are Parquet with columns `text` and `label`; MORE may have any labels. Each chain runs in a process of its own, so
that its peak memory is its own. The vectors are GloVe 6B 50d, converted to the format of each chain beforehand.
"""

import argparse
import csv
import io
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

BATCH = 64
ROWS = 2_000_000
LONGEST = 10_000  # tokens: nothing is cut, as in the tutorial


def main() -> None:
    """Run one part and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=sorted([*PARTS, *_STEPS]))
    parser.add_argument("files", nargs="*")
    options = parser.parse_args()
    {**PARTS, **_STEPS}[options.part](options.files)


# from Parquet to padded batches


def compare_chains(files: list[str]) -> None:
    """Print the seconds of both chains, step by step: first with converted vectors, then from their text file."""
    for text in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            measure("prepare-text" if text else "prepare", [], folder)
            results = {name: measure(f"run-{name}", files, folder) for name in ("ours", "torchtext")}
        print("vectors from their text, as in a first run" if text else "vectors prepared by an earlier run")
        for name, result in results.items():
            steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in result["steps"].items())
            print(
                f"  {name:10} {result['total']:7.2f} s, processor {result['cpu']:6.2f} s, peak {result['peak_mib']:6,.0f} MiB   ({steps})"
            )
        ours, theirs = (results[name]["total"] for name in ("ours", "torchtext"))
        print(f"  torchtext takes {theirs / ours:.1f} times as long")


def compare_sizes(files: list[str]) -> None:
    """Print the seconds and the peak memory of our chain on 1, 2 and 4 times the texts."""
    train, test, more = files
    with tempfile.TemporaryDirectory() as folder:
        measure("prepare", [], folder)
        base = pq.read_metadata(train).num_rows + pq.read_metadata(test).num_rows
        print(
            f"{'texts':>8} {'MB':>6} {'seconds':>8} {'CPU s':>7} {'CPU/50,000':>11} {'peak MiB':>9} {'private':>8}   steps"
        )
        for factor in (1, 2, 4):
            extra = [str(write_more(Path(folder), more, base * (factor - 1)))] if factor > 1 else []
            result = measure("run-ours", [train, test, *extra], folder)
            steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in result["steps"].items())
            size = sum(text_bytes(file) for file in (train, test, *extra)) / 1e6
            print(
                f"{base * factor:8,} {size:6,.0f} {result['total']:8.2f} {result['cpu']:7.2f} {result['cpu'] / base / factor * 50_000:11.2f} "
                f"{result['peak_mib']:9,.0f} {result['private_mib']:8,.0f}   {steps}"
            )


def ingest_rows(files: list[str]) -> None:
    """Print rows per second and memory of `ingest_corpus` on two million rows of CSV, beside pandas' `read_csv`.

    The texts are those of a file, repeated, each after the digits of its number. pandas only reads them.
    """
    with tempfile.TemporaryDirectory() as folder:
        table = pq.read_table(write_more(Path(folder), files[0], ROWS))
        plain, packed = Path(folder, "rows.csv"), Path(folder, "rows.csv.gz")
        arrow_csv.write_csv(table, plain)
        with pa.CompressedOutputStream(str(packed), "gzip") as file:
            arrow_csv.write_csv(table, file)
        del table
        for path in (plain, packed):
            print(f"{path.name}: {path.stat().st_size / 1e6:,.0f} MB")
            for part in ("run-ingest", "run-pandas"):
                result = measure(part, [str(path)], folder)
                print(
                    f"  {part:12} {ROWS / result['total']:10,.0f} rows/s {result['total']:8.2f} s, processor "
                    f"{result['cpu']:7.2f} s, peak {result['peak_mib']:6,.0f} MiB, private {result['private_mib']:6,.0f} MiB"
                )


def run_ingest(files: list[str]) -> None:
    """Run the stage `ingest_corpus` on a file; print the seconds as JSON."""
    import pandas  # noqa: F401 (pyarrow imports it with its first array; imports are not timed)

    from pipeline_config.settings import CorpusConfig
    from tasks.corpus.ingest_corpus import ingest_corpus, locate_corpus

    config = CorpusConfig(source=files[0])
    clock = Clock()
    clock("ingest", lambda: ingest_corpus.fn(locate_corpus(config), config, 0))
    clock.report()


def run_pandas(files: list[str]) -> None:
    """Read a file with pandas; print the seconds as JSON."""
    import pandas as pd

    clock = Clock()
    clock("read", lambda: pd.read_csv(files[0]))
    clock.report()


def run_ours(files: list[str]) -> None:
    """Run our stages and one epoch of batches; print the seconds as JSON."""
    import pandas  # noqa: F401 (pyarrow imports it with its first array; imports are not timed)

    from pipeline_config.settings import (
        AlignmentConfig,
        BucketingConfig,
        CorpusConfig,
        EmbeddingsConfig,
        TokenizationConfig,
        VocabularyConfig,
    )
    from tasks.batches.bucket_corpus import bucket_corpus
    from tasks.batches.encoded_split import load_split
    from tasks.corpus.ingest_corpus import ingest_corpus, locate_corpus
    from tasks.embeddings.align_embeddings import align_embeddings
    from tasks.served.tokenizers import identify_tokenizer
    from tasks.tokens.build_vocabulary import build_vocabulary
    from tasks.tokens.tokenize_corpus import tokenize_corpus
    from tasks.vectors.download_glove import download_glove, locate_vectors

    train, test, *more = files
    text = Path(os.environ["GLOVEFLOW_ARTIFACTS"], "glove.txt")
    embeddings = EmbeddingsConfig(source=str(text)) if text.exists() else EmbeddingsConfig()
    clock = Clock()
    vectors = clock(
        "vectors", lambda: download_glove.fn(locate_vectors(embeddings), embeddings)
    )  # a look-up if it is there
    config = CorpusConfig(source=(train, *more), test_source=test)
    documents = clock("ingest", lambda: ingest_corpus.fn(locate_corpus(config), config, 0))
    tokens = clock(
        "tokenize", lambda: tokenize_corpus.fn(documents, TokenizationConfig(), identify_tokenizer("basic_english"))
    )
    vocabulary = clock(
        "vocabulary",
        lambda: build_vocabulary.fn(tokens, VocabularyConfig(min_freq=2, max_size=30_000, extend_from_vectors=0)),
    )
    bucketing = BucketingConfig(max_length=LONGEST, batch_size=BATCH)
    with ThreadPoolExecutor(1) as pool:  # the flow runs these two at the same time, too
        aligned = pool.submit(align_embeddings.fn, vocabulary, vectors, tokens, AlignmentConfig(), 0)
        buckets = clock("bucket", lambda: bucket_corpus.fn(tokens, vocabulary, bucketing, 0))
        clock("align", aligned.result)

    def batches() -> int:
        splits = [load_split(buckets, name) for name in ("train", "validation", "test")]
        return sum(
            split.pad_batch(batch)[0].size
            for split in splits
            for batch in split.plan_batches(batch_size=BATCH, seed=0, epoch=0)
        )

    clock("batches", batches)
    clock.report()


def run_torchtext(files: list[str]) -> None:
    """Do the same as in torchtext's tutorials; print the seconds as JSON."""
    from torchtext import data
    from torchtext.data import get_tokenizer
    from torchtext.vocab import Vectors

    text = data.Field(tokenize=get_tokenizer("basic_english"), include_lengths=True, batch_first=True)
    fields = [("text", text), ("label", data.LabelField())]
    clock = Clock()
    tables = clock("read", lambda: [pq.read_table(file, columns=["text", "label"]).to_pylist() for file in files])
    train, test = clock(
        "tokenize",
        lambda: [
            data.Dataset([data.Example.fromlist([row["text"], row["label"]], fields) for row in rows], fields)
            for rows in tables
        ],
    )
    vectors = clock("vectors", lambda: Vectors("glove.txt", cache=os.environ["GLOVEFLOW_ARTIFACTS"]))
    clock("vocabulary", lambda: text.build_vocab(train, min_freq=2, max_size=29_998, vectors=vectors))
    fields[1][1].build_vocab(train)

    def batches() -> int:
        iterators = data.BucketIterator.splits(
            (train, test), batch_size=BATCH, sort_key=lambda example: len(example.text), sort_within_batch=True
        )
        return sum(batch.text[0].numel() for iterator in iterators for batch in iterator)

    clock("batches", batches)
    clock.report()


class Clock:
    """Time steps and report them as JSON, with the peak memory of the process.

    `private_mib` leaves out the pages of mapped files, which the kernel can reclaim at any time (Linux only).
    """

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}
        self.private = 0
        threading.Thread(target=self._watch, daemon=True).start()
        self.processor = time.process_time()

    def _watch(self) -> None:
        status = Path("/proc/self/status")
        while status.exists():
            kilobytes = re.search(r"^RssAnon:\s*(\d+)", status.read_text(), re.MULTILINE)
            self.private = max(self.private, int(kilobytes[1]) if kilobytes else 0)
            time.sleep(0.02)

    def __call__(self, name: str, step: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = step()
        self.steps[name] = time.perf_counter() - started
        return result

    def report(self) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"steps": self.steps, "total": sum(self.steps.values()), "peak_mib": peak,
                          "private_mib": self.private / 1024,
                          "cpu": time.process_time() - self.processor}))  # fmt: skip


def measure(part: str, files: list[str], folder: str) -> dict[str, Any]:
    """Run a part in a process of its own, with an empty store that keeps only the vectors."""
    store = Path(folder, "store")
    for stage in store.iterdir() if store.exists() else ():
        if stage.name != "download_glove" or Path(folder, "glove.txt").exists():
            subprocess.run(["rm", "-rf", stage], check=True)
    environment = {**os.environ, "GLOVEFLOW_ARTIFACTS": folder, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, __file__, part, *map(str, files)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    return result


def prepare_vectors(folder: Path, *, text: bool = False) -> None:
    """Write the vectors to our store and to torchtext's cache, or to a text file that both read."""
    import torch

    os.environ["GLOVEFLOW_ARTIFACTS"] = str(folder)
    from pipeline_config.schemas import VECTORS_FILE
    from pipeline_config.settings import EmbeddingsConfig
    from tasks.runtime.arrow import as_matrix
    from tasks.vectors.download_glove import download_glove, locate_vectors

    reference = download_glove.fn(locate_vectors(EmbeddingsConfig()), EmbeddingsConfig())
    table = reference.read_table(VECTORS_FILE)
    itos = table["token"].to_pylist()
    if text:
        with (folder / "glove.txt").open("w") as file:
            rows = zip(itos, as_matrix(table["vector"]).tolist(), strict=True)
            file.writelines(f"{token} {' '.join(f'{value:.5g}' for value in row)}\n" for token, row in rows)
        return
    stoi = {token: i for i, token in enumerate(itos)}
    torch.save((itos, stoi, torch.tensor(as_matrix(table["vector"])), 50), folder / "glove.txt.pt")


def write_more(folder: Path, more: str, count: int) -> Path:
    """Write `count` texts to a file: those of another file, repeated, each after the digits of its number."""
    texts = pq.read_table(more, columns=["text"])["text"].to_pylist()
    many = [
        f"{' '.join(str(i))} {texts[i % len(texts)]}" for i in range(count)
    ]  # the digits prevent duplicates and add no new tokens
    path = folder / f"more-{count}.parquet"
    pq.write_table(pa.table({"text": many, "label": [("neg", "pos")[i % 2] for i in range(count)]}), path)
    return path


# tokenizers


def compare_tokenizers(files: list[str]) -> None:
    """Print tokens per second, and the time for adversarial texts of one and two megabytes."""
    from torchtext.data import get_tokenizer

    from tasks.runtime.parallel import THREADS
    from tasks.served.text import TEXT
    from tasks.served.tokenizers import COLUMNAR
    from tasks.tokens.tokenize_corpus import CHUNK_DOCUMENTS

    texts = pq.read_table(files[0], columns=["text"])["text"].cast(TEXT).combine_chunks()
    chunks = [texts.slice(start, CHUNK_DOCUMENTS) for start in range(0, len(texts), CHUNK_DOCUMENTS)]
    python = texts.to_pylist()
    split = get_tokenizer("basic_english")

    def columnar(name: str) -> int:
        with ThreadPoolExecutor(THREADS) as pool:
            return sum(len(lists.flatten()) for lists in pool.map(COLUMNAR[name], chunks))

    ways: dict[str, Callable[[], int]] = {
        "torchtext basic_english, a Python loop": lambda: sum(len(split(text)) for text in python),
        **{f"gloveflow {name}": lambda name=name: columnar(name) for name in COLUMNAR},
    }
    rounds = [{name: speed(way) for name, way in ways.items()} for _ in range(3)]
    first = next(iter(ways))
    for name in ways:
        ratio = float(np.median([r[name] / r[first] for r in rounds]))
        print(f"{name:40} {np.median([r[name] for r in rounds]) / 1e6:6.1f} million tokens/s {ratio:6.1f} times")
    print(f"\n{'adversarial text':24} {'tokenizer':14} {'1 MB':>8} {'2 MB':>8}")
    for kind, make in ADVERSARIAL.items():
        for name, tokenize in COLUMNAR.items():
            one, two = (
                min(seconds(lambda t=t: tokenize(pa.array([t], TEXT))) for _ in range(3))  # noqa: B023
                for t in (make(1_000_000), make(2_000_000))
            )
            print(f"{kind:24} {name:14} {one:7.3f}s {two:7.3f}s")


ADVERSARIAL: dict[str, Callable[[int], str]] = {
    "double quotes": lambda size: '"' * size,
    "apostrophes": lambda size: "'" * size,
    "no spaces": lambda size: "x" * size,
    "full stops": lambda size: "." * size,
    "letter, stop": lambda size: "a." * (size // 2),
    "combining marks": lambda size: "\u0301" * (size // 2),
    "capital sigmas": lambda size: "\u03a3" * (size // 2),
    "n't n't": lambda size: "n't" * (size // 3),
}


def seconds(way: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def speed(way: Callable[[], int]) -> float:
    """Return the tokens per second of a call that returns the number of tokens."""
    started = time.perf_counter()
    count = way()
    return count / (time.perf_counter() - started)


# padding and mixing


def compare_padding(files: list[str]) -> None:
    """Print the padding of every scheme on the lengths of corpora, and how well its batches mix.

    `again` is the share of pairs of batch-mates that are batch-mates again in the next epoch. `order` is the rank
    correlation between the position of a document in the file and in the epoch. `labels` is the deviation of the share
    of the first class per batch, divided by that of random batches of the same sizes.
    """
    from tasks.batches.batching import SCHEMES, assign_buckets, choose_boundaries, padding_efficiency, plan_batches
    from tasks.served.text import TEXT
    from tasks.served.tokenizers import basic_english

    header = f"{'scheme':14} {'efficiency':>10} {'batches':>8} {'again':>7} {'order':>7} {'labels':>7}"
    for file in files:
        table = pq.read_table(file, columns=["text", "label"])
        lists = basic_english(table["text"].cast(TEXT).combine_chunks())
        lengths = np.clip(pc.list_value_length(lists).to_numpy().astype(np.int64), 1, 300)
        labels = (table["label"].to_numpy() == table["label"][0].as_py()).astype(float)
        print(f"\n{Path(file).name}: {len(lengths):,} documents, cut at 300 tokens, batches of {BATCH}\n{header}")
        for scheme in SCHEMES:
            buckets = assign_buckets(lengths, choose_boundaries(lengths, scheme=scheme, num_buckets=16))
            first, second = (
                plan_batches(
                    buckets, lengths=lengths, scheme=scheme, batch_size=BATCH, token_budget=None, seed=0, epoch=e
                )
                for e in (0, 1)
            )
            sizes = np.array([len(batch) for batch in first])
            shares = np.array([labels[batch].mean() for batch in first])
            expected = np.sqrt(labels.mean() * (1 - labels.mean()) / sizes)
            print(
                f"{scheme:14} {padding_efficiency(lengths, first):10.4f} {len(first):8,} {pairs_again(first, second):7.1%} "
                f"{np.corrcoef(np.concatenate(first), np.arange(len(lengths)))[0, 1]:7.3f} "
                f"{np.sqrt((((shares - labels.mean()) / expected) ** 2).mean()):7.2f}"
            )


def pairs_again(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    """Return the share of pairs of batch-mates in one epoch that are batch-mates in the other, too."""
    place = np.empty(sum(map(len, second)), np.int64)
    for number, batch in enumerate(second):
        place[batch] = number
    pairs = again = 0
    for batch in first:
        counts = np.unique(place[batch], return_counts=True)[1]
        pairs += len(batch) * (len(batch) - 1) // 2
        again += int((counts * (counts - 1) // 2).sum())
    return again / pairs


# comparison with torchtext


def compare_golden(files: list[str]) -> None:
    """Print how many documents get other tokens than from torchtext's `basic_english`, and how many rows differ."""
    from torchtext.data import get_tokenizer
    from torchtext.vocab import Vectors

    from tasks.embeddings.align_embeddings import fill_matrix, look_up_rows
    from tasks.served.text import TEXT
    from tasks.served.tokenizers import basic_english
    from tasks.vectors.rows import VectorRows

    split = get_tokenizer("basic_english")
    with tempfile.TemporaryDirectory() as folder:
        prepare_vectors(Path(folder))
        vectors = Vectors("glove.txt", cache=folder)
    matrix = vectors.vectors.numpy()
    statistics = VectorRows(np.arange(len(matrix)), matrix, matrix.mean(axis=0), matrix.std(axis=0))
    for file in files:
        documents = wrong = tokens = 0
        distinct: dict[str, None] = {"<pad>": None, "<unk>": None}
        for batch in pq.ParquetFile(file).iter_batches(1000, columns=["text"]):
            texts = batch["text"].cast(TEXT)
            for ours, text in zip(basic_english(texts).to_pylist(), texts.to_pylist(), strict=True):
                documents, wrong, tokens = documents + 1, wrong + (ours != split(text)), tokens + len(ours)
                distinct.update(dict.fromkeys(ours))
                distinct.update(dict.fromkeys(word.upper() for word in ours[:3]))  # for the fallback to lower case
        itos = list(distinct)
        words = pa.array(itos, pa.string())
        pairs, _ = look_up_rows(words, pa.array(vectors.itos, pa.string()), fallbacks=("lowercase",), specials=2)
        rows = fill_matrix(words, pairs, statistics, missing="zero", seed=0)
        theirs = vectors.get_vecs_by_tokens(itos, lower_case_backup=True).numpy()
        differ = int((rows.view(np.uint32) != theirs.view(np.uint32)).any(axis=1).sum())
        print(
            f"{Path(file).name:22} {documents:7,} documents, {tokens:10,} tokens, {wrong} documents differ; "
            f"{len(itos):7,} rows, {differ} rows differ"
        )


# coverage


def compare_coverage(files: list[str]) -> None:
    """Print the share of all tokens, and of distinct ones, that have a vector."""
    from pipeline_config.schemas import VECTORS_FILE
    from pipeline_config.settings import EmbeddingsConfig
    from tasks.embeddings.align_embeddings import look_up_rows
    from tasks.served.text import TEXT
    from tasks.served.tokenizers import load_tokenizer
    from tasks.vectors.download_glove import download_glove, locate_vectors

    chains: dict[str, tuple[str, ...]] = {
        "exact, lowercase": ("lowercase",),
        "and diacritics, hyphen": ("lowercase", "diacritics", "hyphen"),
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GLOVEFLOW_ARTIFACTS"] = folder
        vectors = download_glove.fn(locate_vectors(EmbeddingsConfig()), EmbeddingsConfig())
        known = vectors.read_table(VECTORS_FILE, columns=["token"])["token"].combine_chunks()
    print(f"{'corpus':22} {'tokenizer':14} {'fallbacks':24} {'tokens':>8} {'types':>8}")
    for file in files:
        texts = pq.read_table(file, columns=["text"])["text"].cast(TEXT).combine_chunks()
        for name in ("basic_english", "treebank", "whitespace"):
            parts = [load_tokenizer(name)(texts.slice(i, 1000)).flatten() for i in range(0, len(texts), 1000)]
            counted = pc.value_counts(pa.concat_arrays(parts))
            words, counts = counted.field(0).cast(pa.string()), counted.field(1).to_numpy()
            for chain, fallbacks in chains.items():
                found = look_up_rows(words, known, fallbacks=fallbacks, specials=0)[1] != "missing"
                print(
                    f"{Path(file).name:22} {name:14} {chain:24} {counts[found].sum() / counts.sum():8.2%} {found.mean():8.2%}"
                )


# formats


def compare_formats(files: list[str]) -> None:
    """Print the seconds for reading the texts of a file as CSV and as JSON lines."""
    import pyarrow.csv
    import pyarrow.json

    from pipeline_config.settings import CorpusConfig
    from tasks.reading.formats import read_blocks

    table = pq.read_table(files[0], columns=["text", "label"])
    rows = list(zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        as_csv, as_json = Path(folder, "c.csv"), Path(folder, "c.jsonl")
        with as_csv.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("text", "label"), *rows])
        as_json.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
        config = CorpusConfig(source=folder)
        parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
        ways: dict[str, Callable[[], Any]] = {
            "CSV, gloveflow": lambda: list(read_blocks(as_csv, "csv", config.reading)),
            "CSV, Python's csv.reader": lambda: list(csv.reader(io.StringIO(as_csv.read_text(), newline=""))),
            "CSV, pyarrow.csv": lambda: pyarrow.csv.read_csv(as_csv, parse_options=parse),
            "JSON lines, gloveflow": lambda: list(read_blocks(as_json, "jsonl", config.reading)),
            "JSON lines, json.loads": lambda: [json.loads(line) for line in as_json.read_text().split("\n")[:-1]],
            "JSON lines, pyarrow.json": lambda: pyarrow.json.read_json(as_json),
        }
        print(f"{as_csv.stat().st_size / 1e6:.0f} MB of CSV, median of three")
        for name, way in ways.items():
            print(f"{name:28} {np.median([seconds(way) for _ in range(3)]):6.2f} s")


def text_bytes(file: str) -> int:
    """Return the bytes of the texts of a Parquet file."""
    return sum(_sizes(file))


def _sizes(file: str) -> Iterator[int]:
    with pq.ParquetFile(file) as opened:
        for batch in opened.iter_batches(columns=["text"]):
            yield pc.sum(pc.binary_length(batch["text"])).as_py() or 0


PARTS: dict[str, Callable[[list[str]], None]] = {
    "chain": compare_chains,
    "scale": compare_sizes,
    "tokenizers": compare_tokenizers,
    "padding": compare_padding,
    "golden": compare_golden,
    "coverage": compare_coverage,
    "formats": compare_formats,
    "rows": ingest_rows,
}


# run by `measure` in processes of their own; a process inherits the peak memory of the process that starts it
_STEPS: dict[str, Callable[[list[str]], None]] = {
    "prepare": lambda _: prepare_vectors(Path(os.environ["GLOVEFLOW_ARTIFACTS"])),
    "prepare-text": lambda _: prepare_vectors(Path(os.environ["GLOVEFLOW_ARTIFACTS"]), text=True),
    "run-ours": run_ours,
    "run-ingest": run_ingest,
    "run-pandas": run_pandas,
    "run-torchtext": run_torchtext,
}


if __name__ == "__main__":
    main()
