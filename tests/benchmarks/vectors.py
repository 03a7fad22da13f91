"""Time the stage from GloVe text to verified Parquet against common loaders, in one run.

    pip install polars gensim
    python -m tests.benchmarks.vectors [--folder FOLDER] [--rounds 3] [--rows 2200000]

Each measurement runs in its own process, starts after the imports, and prints its time and peak memory. Ours is the
whole stage: digest of the source, parsing, duplicates, Parquet, fsync, SHA-256 of the output. The text of 6B 50d is
written once, from the package, and must have the published digest. All tokens and bits of torchtext's vectors are
compared with ours. `--rows` is the number of rows of a file shaped like 840B (300 values); 0 skips it. The module is
longer than 300 lines because it holds all measurements of vector files.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

VOCABULARY, KEPT = 30_000, 100_000
Loader = Callable[[], dict[str, Any]]


# the loaders: each imports what it needs and returns the function that is timed, in its own process


def read_bytes(path: Path, **_: object) -> Loader:
    def run() -> dict[str, Any]:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
        return {}

    return run


def gloveflow(path: Path, dim: int, keep: Path | None = None, **_: object) -> Loader:
    from pipeline_config.schemas import VECTORS_FILE
    from pipeline_config.settings import EmbeddingsConfig
    from tasks.vectors.download_glove import download_glove, locate_vectors

    config = EmbeddingsConfig(source=str(path), dim=dim, keep=keep and str(keep))

    def run() -> dict[str, Any]:
        reference = download_glove.fn(locate_vectors(config), config)
        return {"vectors": reference.facts["vectors"], "parquet": str(reference.path(VECTORS_FILE))}

    return run


def polars(path: Path, dim: int, **_: object) -> Loader:
    import polars as pl

    schema = {"token": pl.String, **{str(i): pl.Float32 for i in range(dim)}}

    def run() -> dict[str, Any]:
        table = pl.read_csv(path, separator=" ", quote_char=None, has_header=False, schema=schema)
        return {"vectors": len(table)}

    return run


def torchtext(path: Path, parquet: str | None = None, **_: object) -> Loader:
    from torchtext.vocab import Vectors

    def run() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as cache, contextlib.redirect_stderr(io.StringIO()):
            vectors = Vectors(str(path), cache=cache)
        return {"vectors": len(vectors.itos), "loaded": vectors}

    return run


def gensim(path: Path, **_: object) -> Loader:
    from gensim.models import KeyedVectors

    def run() -> dict[str, Any]:
        return {"vectors": len(KeyedVectors.load_word2vec_format(str(path), no_header=True))}

    return run


def second_use(path: Path, parquet: str, **_: object) -> Loader:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.vectors.rows import find_rows, read_rows

    with path.open("rb") as file:
        words = [line.split(b" ")[0].decode() for line in file]
    tokens = pa.array(random.Random(0).sample(words, VOCABULARY))

    def run() -> dict[str, Any]:
        names = pq.read_table(parquet, columns=["token"])["token"].combine_chunks()
        rows = np.sort(find_rows(tokens, names))
        return {"vectors": len(read_rows(Path(parquet), rows[rows >= 0]).vectors)}

    return run


LOADERS = {loader.__name__: loader for loader in (read_bytes, gloveflow, polars, torchtext, gensim, second_use)}


def measure_here(name: str, options: dict[str, Any]) -> None:
    """Run one loader in this process, and print seconds, peak memory and its result as JSON."""
    options = {key: Path(value) if key in ("path", "keep") else value for key, value in options.items()}
    run = LOADERS[name](**options)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started, busy = time.perf_counter(), time.process_time()
    found = run()
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    loaded = found.pop("loaded", None)
    if loaded is not None and options.get("parquet"):
        found["identical"] = is_identical(loaded, options["parquet"])
    print(json.dumps({"seconds": seconds, "cpu": busy, "before": before, "peak": peak, **found}))


def is_identical(vectors: Any, parquet: str) -> bool:
    """Return whether torchtext has the tokens and the exact bits of our Parquet file."""
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(parquet)
    values = table["vector"].combine_chunks().flatten().to_numpy()
    same_bits = np.array_equal(values.view(np.int32), vectors.vectors.numpy().reshape(-1).view(np.int32))
    return table["token"].to_pylist() == vectors.itos and same_bits


def measure(name: str, **options: object) -> dict[str, Any]:
    """Run one loader in its own process."""
    with tempfile.TemporaryDirectory(dir=os.environ["BENCHMARK_FOLDER"]) as artifacts:
        environment = {**os.environ, "GLOVEFLOW_ARTIFACTS": artifacts, "PREFECT_LOGGING_LEVEL": "ERROR"}
        given = json.dumps({key: str(value) if isinstance(value, Path) else value for key, value in options.items()})
        command = [sys.executable, "-m", "tests.benchmarks.vectors", "--measure", name, given]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if result.returncode:
            raise SystemExit(f"{name}: {result.stderr}")
        measured: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        if name == "gloveflow" and options.get("hold"):
            shutil.copyfile(measured["parquet"], str(options["hold"]))
        return measured


# the files


def write_published(path: Path) -> None:
    """Write the text of 6B 50d from the package, unless it exists, and check its digest."""
    from tests.published_text import SHA256, published_text

    if not path.is_file():
        with path.open("wb") as file:
            file.writelines(published_text())
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{path}: its SHA-256 is {digest}, expected the published {SHA256}")


def write_times(path: Path, source: Path, times: int) -> None:
    """Write the lines of a file several times, with different tokens each time."""
    with path.open("wb") as file:
        for number in range(times):
            prefix = b"%d_" % number if number else b""
            with source.open("rb") as lines:
                file.writelines(prefix + line for line in lines)


def write_large(path: Path, rows: int, dim: int = 300) -> None:
    """Write a file shaped like 840B: five decimals, and a few tokens with spaces."""
    draw = random.Random(0)
    block = [b" ".join(b"%.5f" % draw.gauss(0, 0.4) for _ in range(dim)) for _ in range(2000)]
    with path.open("wb") as file:
        for first in range(0, rows, len(block)):
            names = range(first, min(first + len(block), rows))
            tokens = (b"name@domain.com at %d" % i if i % 50_000 == 7 else b"token%d" % i for i in names)
            file.writelines(token + b" " + numbers + b"\n" for token, numbers in zip(tokens, block, strict=False))


# the tables


def compare(path: Path, rounds: int) -> None:
    """Print the table of all loaders for 6B 50d."""
    parquet = path.with_suffix(".parquet")
    names = ["read_bytes", "polars", "gloveflow", "torchtext", "gensim"]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            if number == 0 or name not in ("torchtext", "gensim"):
                hold = parquet if name == "gloveflow" and not number else None
                results[name].append(measure(name, path=path, dim=50, hold=hold, parquet=str(parquet)))
    best = {name: statistics.median(result["seconds"] for result in results[name]) for name in names}
    ours = best["gloveflow"]
    print(
        f"\n{path.name}, {path.stat().st_size:,} bytes       seconds   against ours   CPU seconds   peak RSS, before it"
    )
    for name in names:
        peak, before = (max(result[key] for result in results[name]) for key in ("peak", "before"))
        busy = statistics.median(result["cpu"] for result in results[name])
        shown = f"{best[name]:8.2f} {best[name] / ours:12.2f} x {busy:12.2f} {peak:10,.0f} MiB, {before:,.0f}"
        print(f"  {name:36} {shown}")
    print(f"  torchtext has the same tokens and bits: {results['torchtext'][0]['identical']}")
    again = [measure("second_use", path=path, parquet=str(parquet)) for _ in range(rounds)]
    seconds = statistics.median(result["seconds"] for result in again)
    print(f"  second use: {again[0]['vectors']:,} vectors out of the Parquet file in {seconds:.3f} s")


def show_linear(folder: Path, path: Path, rounds: int) -> None:
    """Print the cost of one, two and four times the file."""
    first = None
    for times in (1, 2, 4):
        larger = folder / f"times{times}.txt"
        write_times(larger, path, times)
        results = [measure("gloveflow", path=larger, dim=50) for _ in range(rounds)]
        seconds, busy, peak = (statistics.median(r[key] for r in results) for key in ("seconds", "cpu", "peak"))
        first = first or (seconds, busy)
        ratios = f"{seconds / first[0]:5.2f} x the time, {busy / first[1]:5.2f} x the CPU time"
        print(f"  {times} x {seconds:8.2f} s, {busy:6.2f} s CPU   {ratios}   {peak:8,.0f} MiB")
        larger.unlink()


def show_large(folder: Path, rows: int) -> None:
    """Print throughput and memory for a file shaped like 840B: all vectors, and those of a list of tokens."""
    path, keep = folder / "large.txt", folder / "keep.txt"
    write_large(path, rows)
    size = path.stat().st_size
    keep.write_text("\n".join(f"token{i}" for i in random.Random(1).sample(range(rows), min(KEPT, rows))))
    print(f"\n{rows:,} x 300, {size:,} bytes")
    for label, options in (("read the bytes", None), (f"keep {KEPT:,} tokens", keep), ("keep all", False)):
        name = "read_bytes" if options is None else "gloveflow"
        result = measure(name, path=path, dim=300, **({"keep": options} if options else {}))
        speed = size / result["seconds"] / 1e6
        found = f"{result['vectors']:,} vectors" if "vectors" in result else ""
        print(
            f"  {label:22} {result['seconds']:8.1f} s {result['cpu']:6.1f} s CPU {speed:8,.0f} MB/s {result['peak']:8,.0f} MiB  {found}"
        )
    path.unlink()


def show_download(folder: Path, path: Path) -> None:
    """Serve an archive shaped like glove.6B.zip, and print how much of it a download of 6B.50d transfers."""
    import trustme

    from tasks.fetching.zip_member import WantedMember, download_member
    from tests.https_server import ranged, serve
    from tests.published_text import SHA256

    archive = folder / "glove.6B.zip"
    write_archive(archive, path)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    os.environ |= {"SSL_CERT_FILE": str(folder / "authority.pem"), "NO_PROXY": "127.0.0.1"}
    with tempfile.TemporaryDirectory(dir=folder) as artifacts, serve(authority) as server:
        os.environ["GLOVEFLOW_ARTIFACTS"] = artifacts
        url = server.script("/glove.6B.zip", ranged(archive.read_bytes()))
        started = time.perf_counter()
        download_member([url], WantedMember(path.name, None, SHA256))
        seconds, size = time.perf_counter() - started, archive.stat().st_size
    print(f"\n{path.name} out of an archive of {size:,} bytes: {len(server.requests)} requests, {server.sent:,} bytes,")
    print(f"  one part in {size / server.sent:.1f} of it; fetched and checked in {seconds:.1f} s")
    archive.unlink()


def write_archive(archive: Path, path: Path) -> None:
    """Write a zip file with the 50d text and three members of the sizes of the other published ones."""
    block = path.read_bytes()[: 16 << 20]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as file:
        file.write(path, path.name)
        for dim, size in ((100, 347_116_733), (200, 693_432_828), (300, 1_037_962_819)):
            with file.open(f"glove.6B.{dim}d.txt", "w") as member:
                for at in range(0, size, len(block)):
                    member.write(block[: size - at])


@contextlib.contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given:
        given.mkdir(parents=True, exist_ok=True)
        yield given
    else:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="directory for the files, which are kept")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2_200_000)
    parser.add_argument("--only", choices=("compare", "linear", "large", "download"))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure_here(options.measure[0], json.loads(options.measure[1]))
        return
    with _folder(options.folder) as folder:
        os.environ["BENCHMARK_FOLDER"] = str(folder)
        path = folder / "glove.6B.50d.txt"
        write_published(path)
        if options.only in (None, "compare"):
            compare(path, options.rounds)
        if options.only in (None, "linear"):
            show_linear(folder, path, options.rounds)
        if options.only in (None, "download"):
            show_download(folder, path)
        if options.rows and options.only in (None, "large"):
            show_large(folder, options.rows)


if __name__ == "__main__":
    main()
