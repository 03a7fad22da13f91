"""The network of a registered model computed by ONNX Runtime, on the graph of `onnx_graph`, made in memory.

Needs the packages of the extra `onnx`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

from pipeline_config.errors import InputError
from tasks.scoring.onnx_graph import build_model


def open_session(uri: str, network: Any, temperature: float) -> Callable[[Any, Any], np.ndarray]:
    """Return a function from padded ids int64[B, T] and lengths int64[B] to probabilities float64[B, C].

    Each call is computed by the thread that calls, and several threads may call at once.

    Args:
        uri: MLflow's address of the version, for messages.
        network: the network, in evaluation mode.
        temperature: divides the logits.

    Raises:
        InputError: the network has no such graph.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # it plans memory for a shape that comes again; batches differ
    try:
        graph = build_model(network, temperature).SerializeToString()
    except (ValueError, AttributeError) as error:
        raise InputError(f"{uri}: cannot be computed with scoring.runtime onnx: {error}; set it to torch") from error
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(ids: Any, lengths: Any) -> np.ndarray:
        probabilities: np.ndarray = session.run(["probabilities"], {"ids": ids.numpy(), "lengths": lengths.numpy()})[0]
        return probabilities

    return run
