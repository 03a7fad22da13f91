"""`gloveflow export`: a registered version as files that run without torch."""

import argparse
import shutil
from pathlib import Path

from flows.cli.options import choose_alias, resolve
from pipeline_config.errors import UnusableModelError
from tasks.scoring.onnx_packages import require_onnx

_TEXTS = (  # compared before the command says done, beside words of the model's own vocabulary
    "",
    " ",
    "a",
    "It's NOT good -- I can't say why...",
    'Mr. Smith paid 1,000.50 for it; was it "worth" it?',
    "caf\u00e9 cafe\u0301 \u00dcBER \u0130stanbul \u03a3\u039f\u03a3 \u4e2d\u6587",
    "end.begin u.s. 3.14<br />new\u00a0line\u2028x\x0by",
    "the 'quoted' (words) [here]!",
)


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add what `export` takes."""
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="the form of the files (default: onnx)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIRECTORY", help="a new or empty directory")
    parser.add_argument("--version", type=int, metavar="N", help="number of the model version, instead of an alias")


def export(options: argparse.Namespace, root: Path) -> int:
    """Write the registered champion as ONNX, with a runner that needs no torch."""
    config = resolve(options).config
    require_onnx("export")
    from tasks.runtime.loggers import open_loggers
    from tasks.tracking.loading import load_model
    from tasks.tracking.reachability import require_tracking_server

    alias = choose_alias(options, config)
    require_tracking_server()
    open_loggers()
    loaded = load_model(config.registered_model, alias, options.version)
    from tasks.scoring.onnx_files import compare, write_files

    write_files(loaded, options.output)
    texts = [*_TEXTS, *make_texts(list(loaded.served.token_ids))]
    try:
        difference = compare(loaded, options.output, texts)
    except UnusableModelError:
        shutil.rmtree(options.output)
        raise
    print(
        f"{config.registered_model} version {loaded.version} is in {options.output}; for {len(texts)} texts, its "
        f"probabilities differ by at most {difference:.1e} from the model's"
    )
    print(f'  python {options.output}/classify.py "some text"    needs numpy and onnxruntime')
    return 0


def make_texts(words: list[str], count: int = 100) -> list[str]:
    """Return texts of 1 to `count` words, taken from all over a vocabulary."""
    texts, at = [], 0
    for length in range(1, count + 1):
        texts.append(" ".join(words[(at + i * 7919) % len(words)] for i in range(length)) if words else "")
        at += length
    return texts
