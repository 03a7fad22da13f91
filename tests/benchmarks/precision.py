"""Time float32 against bfloat16, int8 and ONNX Runtime on the same padded batches, and compare their labels.

    python tests/benchmarks/precision.py TEXTS.parquet --artifacts DIR --model NAME [--rows 1000] [--repeats 3]

TEXTS.parquet has the columns `text` and `label`. Batches are those of `gloveflow score`, computed by one thread. The
ways take turns, and the best of the repeats counts, in processor time. `packed float32` is torch's own LSTM, which the
int8 one is to be compared with, since torch quantizes only that. Needs `pip install 'gloveflow[onnx]'`.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from tasks.scoring.network import NetworkClassifier, plan_batches
from tasks.scoring.onnx_graph import build_model
from tasks.tracking.quick_loading import load_quickly

Run = Callable[[Tensor, Tensor], Tensor]


class Plain(nn.Module):
    """The LSTM of a network as torch's own, which can be quantized."""

    def __init__(self, lstm: Any) -> None:
        super().__init__()
        self.lstm = lstm.to_lstm()

    def run_directions(self, inputs: Tensor, lengths: Tensor, _: None = None) -> list[Tensor]:
        packed = nn.utils.rnn.pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
        outputs, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        forward, *backward = outputs.chunk(2 if self.lstm.bidirectional else 1, dim=2)
        rows = torch.arange(inputs.shape[1]).flip(0)
        place = (rows - (inputs.shape[1] - lengths.unsqueeze(1))).clamp(
            min=0
        )  # reading order of the backward direction
        return [forward, *(b.gather(1, place.unsqueeze(2).expand_as(b)) for b in backward)]


def list_ways(network: Any, load: Callable[[], Any]) -> dict[str, Run]:
    """Return the ways: functions from ids and lengths to logits."""

    def bfloat16(ids: Tensor, lengths: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(ids, lengths).float()

    plain, quantized = load(), load()
    plain.lstm, quantized.lstm = Plain(plain.lstm), Plain(quantized.lstm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(quantized, {nn.LSTM, nn.Linear}, dtype=torch.qint8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(build_model(network, 1.0).SerializeToString(), options)

    def onnx(ids: Tensor, lengths: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"ids": ids.numpy(), "lengths": lengths.numpy()})[0]).log()

    return {"float32": network, "bfloat16": bfloat16, "packed float32": plain, "packed int8": quantized, "onnx": onnx}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load = lambda: load_quickly(arguments.artifacts.absolute(), arguments.model, "champion")  # noqa: E731
    loaded = load()
    table = pq.read_table(arguments.texts, columns=["text", "label"]).take(
        np.random.default_rng(0).permutation(pq.read_metadata(arguments.texts).num_rows)[: arguments.rows]
    )
    classifier = NetworkClassifier(loaded.served, threads=1)
    encoded = classifier.prepare(pa.array(table["text"].to_pylist(), pa.large_string()))
    sizes = np.minimum(np.diff(encoded.offsets), loaded.served.text["max_length"])
    batches = [(rows, *classifier.pad(encoded, rows, sizes[rows])) for rows in plan_batches(sizes)]
    ways = list_ways(loaded.served.network, lambda: load().served.network)
    for name, run in list(ways.items()):
        try:
            with torch.inference_mode():
                run(*batches[0][1:])
        except RuntimeError as error:  # oneDNN has no LSTM in bfloat16 for processors without its instructions
            print(f"{name}: not on this processor: {str(error)[:80]}")
            del ways[name]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found = {name: np.zeros((len(sizes), len(loaded.labels))) for name in ways}
    for _ in range(arguments.repeats):
        for name, run in ways.items():
            started = time.process_time()
            with torch.inference_mode():
                for rows, ids, lengths in batches:
                    found[name][rows] = (run(ids, lengths).double() / loaded.temperature).softmax(dim=1).numpy()
            seconds[name].append(time.process_time() - started)
    truth, best = np.array(table["label"].to_pylist()), min(seconds["float32"])
    print(f"{'':18}{'texts/s':>10}{'times':>8}{'accuracy':>10}{'other labels':>14}{'largest diff.':>15}")
    for name, answers in found.items():
        labels = np.array(loaded.labels)[answers.argmax(axis=1)]
        other = int((answers.argmax(axis=1) != found["float32"].argmax(axis=1)).sum())
        line = f"{len(sizes) / min(seconds[name]):>10,.0f}{best / min(seconds[name]):>8.2f}{(labels == truth).mean():>10.4f}"
        print(f"{name:18}{line}{other:>14}{np.abs(answers - found['float32']).max():>15.1e}")


if __name__ == "__main__":
    main()
