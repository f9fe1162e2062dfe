"""Exported graphs with smaller weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from sammo import geometry
from sammo.export.deployed import OnnxSession
from sammo.export.graphs import EncoderGraph
from sammo.export.verify import run_chunks

# A product whose result is off by more than this share (root mean square) in 8 bits keeps its float weights.
SENSITIVE = 0.015
MEASURED_CHUNKS = 5
HALVED = 1024  # values; smaller constants stay in 32 bits
LARGEST_HALF = 65504.0  # and so do masks, which hold larger values


def halve(path: Path, out: Path) -> None:
    """Large constants in 16 bits. Runtimes widen them when they load the graph and compute as before."""
    import onnx

    proto = onnx.load(str(path))
    casts = []
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= HALVED and np.abs(values).max() < LARGEST_HALF:
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
            casts.append(
                onnx.helper.make_node("Cast", [tensor.name], [name], f"{name}_widened", to=onnx.TensorProto.FLOAT)
            )
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.save(proto, str(out))


def quantize(path: Path, out: Path, kept: Sequence[str] = (), signed: bool = False) -> None:
    """Weights of linear layers in 8 bits, a scale for each output, their inputs quantized as they come.

    Args:
      kept: nodes that stay in float.
      signed: the same values as numbers with a sign, which CPUs with VNNI multiply faster. Those without it add two
        products in 16 bits, which overflows without a word where onnxruntime is not told to take care.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    chosen = [name for name in products(onnx.load(str(path))) if name not in kept]
    logging.disable(logging.WARNING)  # a line a tensor that stays as it is
    try:
        quantize_dynamic(
            str(path),
            str(out),
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            extra_options={"WeightSymmetric": False},
            # It makes a Gemm a product and a sum before it looks for names.
            nodes_to_quantize=[*chosen, *(f"{name}_MatMul" for name in chosen), "none"],
        )
    finally:
        logging.disable(logging.NOTSET)


def sensitive_products(graph: EncoderGraph, path: Path, features: Tensor) -> list[str]:
    """The linear layers of an encoder that lose the most in 8 bits, by name.

    Each is computed alone in 8 bits from the inputs that it has in float, and its result compared.

    Args:
      graph: of PyTorch.
      path: its ONNX file.
      features: (N, T, 80) training speech.
    """
    errors = dict(product_errors(graph, path, features))
    found = sorted((name for name, error in errors.items() if error > SENSITIVE), key=lambda name: -errors[name])
    for name in found:
        logging.info(f"int8: {name} stays in float, it would be off by {100 * errors[name]:.1f} %")
    logging.info(f"int8: {len(errors) - len(found)} of {len(errors)} products")
    return found


def product_errors(graph: EncoderGraph, path: Path, features: Tensor) -> Iterator[tuple[str, float]]:
    """(name, root mean square error in 8 bits as a share of the result's) of every linear layer of an encoder."""
    import onnx

    proto = onnx.load(str(path))
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    layers = products(proto)
    inputs = sorted({node.input[0] for node in layers.values()})
    names = {value.name for value in proto.graph.input}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inputs if name not in names)
    session = OnnxSession(path, torch.get_num_threads(), proto.SerializeToString())
    count = len(graph.outputs)
    sums = {name: np.zeros(2) for name in layers}
    chunks = (features.shape[1] - geometry.WINDOW_EXTRA) // (geometry.STRIDE * graph.chunk_size)
    for outputs in run_chunks(graph, session, features, min(chunks, MEASURED_CHUNKS)):
        seen = dict(zip([name for name in inputs if name not in names], outputs[count:]))
        for name, node in layers.items():
            weight = weights[node.input[1]]
            weight = weight.T if _transposed(node) else weight
            sums[name] += _errors(seen[node.input[0]].reshape(-1, weight.shape[0]), weight)
    for name, (error, power) in sums.items():
        yield name, float(np.sqrt(error / max(power, 1e-30)))


def products(proto: Any) -> dict[str, Any]:
    """Name -> node of the linear layers of a graph: products with a constant matrix."""
    matrices = {tensor.name for tensor in proto.graph.initializer if len(tensor.dims) == 2}
    nodes = (node for node in proto.graph.node if node.op_type in ("MatMul", "Gemm"))
    return {node.name: node for node in nodes if node.input[1] in matrices}


def _transposed(node: Any) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def _errors(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Squares summed: of the error of x (M, K) @ weight (K, C) in 8 bits, and of the product."""
    rounded = _in_8_bits(x, x.min(), x.max())
    exact = x @ weight
    quantized = _in_8_bits(weight, weight.min(axis=0), weight.max(axis=0))
    return np.array([np.square(rounded @ quantized - exact).sum(), np.square(exact).sum()])


def _in_8_bits(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """What 256 steps from ``low`` to ``high``, 0 among them, make of values."""
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    step = np.maximum((high - low) / 255, 1e-30)
    zero = np.round(-low / step)
    return (np.clip(np.round(values / step) + zero, 0, 255) - zero) * step
