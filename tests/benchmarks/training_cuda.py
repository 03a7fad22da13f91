"""Time epochs of training on a CUDA device: both layouts of sequences in each precision, and the tutorial's loop.

    python tests/benchmarks/training_cuda.py [--lengths long|short|FILE.parquet] [--hidden H...] [--batch B...]
                                             [--batches N] [--rounds R]

Lengths, network and loops are those of `training.py`; its tutorial's loop runs on the device here, in float32 and in
tf32, torch's default. Prints the medians of alternating rounds: real tokens per second, the ratio to the tutorial's, the
seconds of a whole epoch at that speed, and two shares of what is achievable. `product` is the share of a large matrix
product in the same precision. `chain` is the share of those products that have to wait for each other: the hidden states
of a batch times the recurrent weights, once per token forward and once backward, both directions side by side, replayed
from a CUDA graph.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable

import torch
import training
from torch import Tensor

from tasks.batches.encoded_split import EncodedSplit
from tasks.training.device import set_precision

PRECISIONS = ("fp32", "tf32", "bf16")
STEPS = 256  # length of the chain
Run = Callable[[training.Batches], None]


def main() -> None:
    """Print a table per size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="long", help="long, short, or a Parquet file with a column `text`")
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--batch", type=int, nargs="+", default=[64])
    parser.add_argument("--batches", type=int, default=100, help="batches of each round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here")
    device = torch.device("cuda")
    split = training.make_split(training.read_lengths(options.lengths))
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    print(f"{len(split):,} documents, {split.lengths.sum():,} tokens")
    products = {precision: measure_product(precision, device) for precision in PRECISIONS}
    print(", ".join(f"{name} {product / 1e12:.1f} TFLOP/s" for name, product in products.items()))
    for hidden, batch in itertools.product(options.hidden, options.batch):
        training.BATCH = batch
        torch.manual_seed(0)
        print(f"\nhidden {hidden}, batches of {batch:22} tokens/s / tutorial   epoch  product chain")
        show_ways(split, hidden, batch, options, products, device)


def show_ways(
    split: EncodedSplit,
    hidden: int,
    batch: int,
    options: argparse.Namespace,
    products: dict[str, float],
    device: torch.device,
) -> None:
    """Print the table of a size."""
    ways = make_ways(split, hidden, batch, options.batches, device)
    speeds: dict[tuple[str, str], list[float]] = {name: [] for name in ways}
    for number in range(options.rounds + 1):
        for (way, precision), (batches, run) in ways.items():
            set_precision(precision, device)
            speed = training.time_run(run, split, batches)
            if number:  # the first round is a warm-up
                speeds[way, precision].append(speed)
    chains = {precision: measure_chain(precision, hidden, batch, device) for precision in PRECISIONS}
    operations = training.count_operations(hidden)
    first = statistics.median(speeds[next(iter(speeds))])
    for (way, precision), measured in speeds.items():
        speed = statistics.median(measured)
        print(
            f"{way + ', ' + precision:40} {speed:11,.0f} {speed / first:10.1f} {split.lengths.sum() / speed:6.2f}s "
            f"{speed * operations / products[precision]:8.3f} {speed / chains[precision]:5.2f}"
        )


def make_ways(
    split: EncodedSplit, hidden: int, batch: int, count: int, device: torch.device
) -> dict[tuple[str, str], tuple[training.Batches, Run]]:
    """Return the batches of each way in each precision, and what runs them and waits for the device."""

    def waiting(run: Run) -> Run:
        def body(batches: training.Batches) -> None:
            run(batches)
            torch.cuda.synchronize()

        return body

    random = training.draw_batches(training.plan_randomly(split), split, count)
    plan = training.draw_batches(split.plan_batches(batch_size=batch, seed=0, epoch=0), split, count)
    ways = {
        (training.TUTORIAL, precision): (random, waiting(training.run_tutorial(training.Packed(hidden), split, device)))
        for precision in PRECISIONS[:2]
    }
    return ways | {
        (f"gloveflow, {layout}", precision): (
            plan,
            waiting(training.run_ours(split, hidden, precision, layout=layout, device=device)),
        )
        for layout in ("padded", "packed")
        for precision in PRECISIONS
    }


def measure_product(precision: str, device: torch.device, size: int = 8192) -> float:
    """Return the operations per second of a large matrix product."""
    one, other = draw(size, size, precision, device), draw(size, size, precision, device)
    return 2 * size**3 / time_on_device(lambda: torch.mm(one, other))


def measure_chain(precision: str, hidden: int, batch: int, device: torch.device) -> float:
    """Return the tokens per second of the products that have to wait for each other, both directions side by side."""
    state = draw(batch, hidden, precision, device)
    weights = (
        draw(hidden, 4 * hidden, precision, device) / hidden**0.5
    )  # so that the outputs are as large as the inputs
    gates = torch.zeros(batch, 4 * hidden, dtype=weights.dtype, device=device)

    def chain() -> None:
        torch.mm(state, weights, out=gates)
        for _ in range(STEPS - 1):
            torch.mm(gates[:, :hidden], weights, out=gates)

    chain()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        chain()
    return batch * STEPS / (2 * time_on_device(graph.replay))


def draw(rows: int, columns: int, precision: str, device: torch.device) -> Tensor:
    """Return a random matrix in the type of a precision."""
    set_precision(precision, device)
    return torch.randn(rows, columns, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)


def time_on_device(body: Callable[[], object], count: int = 20) -> float:
    """Return the median time that the device takes for a body, in seconds."""
    seconds = []
    for _ in range(count + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        body()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return statistics.median(seconds[3:])


if __name__ == "__main__":
    main()
