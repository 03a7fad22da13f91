"""The network of a registered model as an ONNX graph, node by node, with any number of texts and any length.

Takes the loaded network of a model's code; needs the package `onnx`, of the extra of that name. Shapes: B texts, T
tokens, E embedding, H hidden, D directions, C classes.
"""

import sys
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

OPSET, IR_VERSION = 18, 9
_LIMIT = 2_000_000_000  # bytes of weights; protobuf takes less than 2 GiB
_GATES = (0, 3, 1, 2)  # ONNX has input, output, forget, cell; torch has input, forget, cell, output
_FACTORS = (0x1E3779B97F4A7C15, 0x42B2AE3D27D4EB4F, 0x165667B19E3779F9)  # of `BagOfBigrams.hash_pairs`


class _Graph:
    """Collects nodes and constants; every method returns the name of a value."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Add a constant."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, dtype, order="C"), name))
        return name

    def integers(self, *values: int) -> str:
        """Add a constant int64 vector."""
        return self.constant(values, np.int64)

    def slice(self, value: str, start: int, end: int) -> str:
        """Return `value[:, start:end]`."""
        return self.add("Slice", value, self.integers(start), self.integers(end), self.integers(1))


def build_model(network: Any, temperature: float) -> ModelProto:
    """Return the graph from `ids` int64[B, T] and `lengths` int64[B] to `probabilities` float64[B, C].

    Args:
        network: the network, in evaluation mode.
        temperature: divides the logits.

    Raises:
        ValueError: the network is too large.
        AttributeError: it is of another form than the networks of this release.
    """
    if sum(p.nelement() * p.element_size() for p in network.parameters()) > _LIMIT:
        raise ValueError(f"its weights have more than {_LIMIT:,} bytes, which one ONNX file cannot hold")
    g = _Graph()
    width = g.add("Gather", g.add("Shape", "ids"), g.constant(1, np.int64))
    places = g.add("Range", g.constant(0, np.int64), width, g.constant(1, np.int64))
    real = g.add("Less", places, g.add("Unsqueeze", "lengths", g.integers(1)))
    embedded = g.add("Gather", g.constant(_array(network.embedding.weight)), "ids")
    outputs = _add_lstm(g, network.lstm, embedded)
    parts = _pool(g, network, outputs, real)
    if network.pool_embeddings:
        parts += [_mean(g, embedded, real), _max(g, embedded, real)]
    pooled = g.add("Concat", *parts, axis=1)
    if network.norm is not None:
        scale, bias = g.constant(_array(network.norm.weight)), g.constant(_array(network.norm.bias))
        pooled = g.add("LayerNormalization", pooled, scale, bias, axis=1, epsilon=network.norm.eps)
    weight, bias = g.constant(_array(network.linear.weight)), g.constant(_array(network.linear.bias))
    logits = g.add("Gemm", pooled, weight, bias, transB=1)
    if network.bigrams is not None:
        logits = g.add("Add", logits, _add_bigrams(g, network.bigrams, real))
    divided = g.add("Div", g.add("Cast", logits, to=TensorProto.DOUBLE), g.constant(temperature, np.float64))
    g.nodes.append(helper.make_node("Softmax", [divided], ["probabilities"], axis=1))
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "tokens"]),
        helper.make_tensor_value_info("lengths", TensorProto.INT64, ["texts"]),
    ]
    classes = network.linear.out_features
    output = helper.make_tensor_value_info("probabilities", TensorProto.DOUBLE, ["texts", classes])
    graph = helper.make_graph(g.nodes, "classifier", inputs, [output], g.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    checker.check_model(model)
    return model


def _array(tensor: Any) -> np.ndarray:
    array: np.ndarray = tensor.detach().numpy()
    return array


def _add_lstm(g: _Graph, lstm: Any, embedded: str) -> str:
    """Return the outputs float[B, T, D*H]; they are zero at padded positions."""
    values = g.add("Transpose", embedded, perm=[1, 0, 2])
    sizes = g.add("Cast", "lengths", to=TensorProto.INT32)
    backward = list(lstm.backward_layers)
    for number, layer in enumerate(lstm.forward_layers):
        layers = [layer, *backward[number : number + 1]]
        weights = [
            np.stack([_gates(getattr(one, name)) for one in layers]) for name in ("weight_ih_l0", "weight_hh_l0")
        ]
        biases = np.stack([np.concatenate([_gates(one.bias_ih_l0), _gates(one.bias_hh_l0)]) for one in layers])
        direction = "bidirectional" if backward else "forward"
        given = (values, g.constant(weights[0]), g.constant(weights[1]), g.constant(biases), sizes)
        found = g.add("LSTM", *given, hidden_size=lstm.hidden_size, direction=direction)  # [T, D, B, H]
        values = g.add("Reshape", g.add("Transpose", found, perm=[0, 2, 1, 3]), g.integers(0, 0, -1))
    return g.add("Transpose", values, perm=[1, 0, 2])


def _gates(tensor: Any) -> np.ndarray:
    parts = np.split(_array(tensor), 4)
    return np.concatenate([parts[gate] for gate in _GATES])


def _pool(g: _Graph, network: Any, outputs: str, real: str) -> list[str]:
    if network.pooling == "last":
        size = network.lstm.hidden_size
        forward = g.add("Slice", outputs, g.integers(0), g.integers(size), g.integers(2))
        at = g.add("Sub", "lengths", g.constant(1, np.int64))
        last = g.add("GatherND", forward, g.add("Unsqueeze", at, g.integers(1)), batch_dims=1)
        if not len(network.lstm.backward_layers):
            return [last]
        whole = g.add("Slice", outputs, g.integers(size), g.integers(2 * size), g.integers(2))
        return [last, g.add("Gather", whole, g.constant(0, np.int64), axis=1)]
    if network.attention is not None:
        scores = g.add("MatMul", outputs, g.constant(_array(network.attention.weight).T))
        masked = g.add("Where", g.add("Unsqueeze", real, g.integers(2)), scores, g.constant(-np.inf))
        weighted = g.add("Mul", outputs, g.add("Softmax", masked, axis=1))
        return [g.add("ReduceSum", weighted, g.integers(1), keepdims=0)]
    parts = [_mean(g, outputs, real)] if "mean" in network.pooling else []
    return parts + ([_max(g, outputs, real)] if "max" in network.pooling else [])


def _mean(g: _Graph, values: str, real: str) -> str:
    kept = g.add("Where", g.add("Unsqueeze", real, g.integers(2)), values, g.constant(0))
    count = g.add("Unsqueeze", g.add("Cast", "lengths", to=TensorProto.FLOAT), g.integers(1))
    return g.add("Div", g.add("ReduceSum", kept, g.integers(1), keepdims=0), count)


def _max(g: _Graph, values: str, real: str) -> str:
    kept = g.add("Where", g.add("Unsqueeze", real, g.integers(2)), values, g.constant(-np.inf))
    return g.add("ReduceMax", kept, g.integers(1), keepdims=0)


def _add_bigrams(g: _Graph, bigrams: Any, real: str) -> str:
    """Return the logits float[B, C] of the bag of bigrams: each distinct token or pair counts once."""
    end, scale = np.iinfo(np.int64).max, sys.modules[type(bigrams).__module__].BIGRAM_SCALE
    first, second, last = (g.constant(factor, np.int64) for factor in _FACTORS)
    pairs = (g.slice("ids", 0, -1), first), (g.slice("ids", 1, end), second)
    mixed = g.add("Add", *(g.add("Mul", *pair) for pair in pairs))
    mixed = g.add("Mul", g.add("BitwiseXor", mixed, _high_half(g, mixed)), last)
    row = g.add("Mod", _high_half(g, mixed), g.constant(bigrams.num_buckets, np.int64))
    rows = g.add("Concat", "ids", g.add("Add", row, g.constant(bigrams.num_embeddings, np.int64)), axis=1)
    there = g.add("Concat", real, g.slice(real, 1, end), axis=1)
    features = g.add("Where", there, rows, g.constant(-1, np.int64))
    count = g.add("Slice", g.add("Shape", features), g.integers(1), g.integers(2))
    name = f"sorted_{len(g.nodes)}"
    g.nodes.append(helper.make_node("TopK", [features, count], [name, f"{name}_places"], axis=1))
    before = g.add("Concat", g.add("Sub", g.slice(name, 0, 1), g.constant(-1, np.int64)), g.slice(name, 0, -1), axis=1)
    changed = g.add("Not", g.add("Equal", name, before))
    new = g.add("And", changed, g.add("GreaterOrEqual", name, g.constant(0, np.int64)))
    counted = g.add("Cast", new, to=TensorProto.FLOAT)
    values = g.add("Gather", g.constant(_array(bigrams.weight)), g.add("Max", name, g.constant(0, np.int64)))
    total = g.add(
        "ReduceSum", g.add("Mul", values, g.add("Unsqueeze", counted, g.integers(2))), g.integers(1), keepdims=0
    )
    root = g.add("Sqrt", g.add("ReduceSum", counted, g.integers(1), keepdims=1))
    return g.add("Mul", g.add("Div", total, root), g.constant(scale))


def _high_half(g: _Graph, value: str) -> str:
    """Return int64 values shifted by 32 bits with their sign; ONNX shifts only unsigned ones."""
    half = g.constant(1 << 32, np.int64)
    return g.add("Div", g.add("Sub", value, g.add("Mod", value, half)), half)
