"""Recorded graphs with fewer operations that compute the same."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import numpy as np

RESHAPING = ("Reshape", "Unsqueeze", "Squeeze", "Flatten")  # the same values in the same order


def simplified(path: Path) -> Any:
    """The graph of a file with constants folded and common subexpressions merged, by onnxruntime's basic rules, whose
    operations are the standard's and run everywhere; then by the rules of this module."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    folded = path.with_name(f"folded-{path.name}")
    options.optimized_model_filepath = str(folded)
    # It would put a change of shape before and after products of three dimensions.
    onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
    )
    proto = onnx.load(str(folded))
    folded.unlink()
    _join_reshapes(proto.graph)
    standard = [entry for entry in proto.opset_import if entry.domain == ""]
    del proto.opset_import[:]
    proto.opset_import.extend(standard)
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    _join_residuals(proto)
    return proto


def _join_reshapes(graph: Any) -> None:
    """A Reshape of what only another change of shape has made takes the shape from that one's input."""
    from onnx import numpy_helper

    makers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        # A zero in the shape stands for a dimension of the input.
        if (
            node.op_type == "Reshape"
            and node.input[1] in constants
            and numpy_helper.to_array(constants[node.input[1]]).all()
        ):
            while (before := makers.get(node.input[0])) is not None and before.op_type in RESHAPING:
                node.input[0] = before.input[0]
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if node.op_type not in RESHAPING or needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    kept.reverse()
    del graph.node[:]
    graph.node.extend(kept)


def _join_residuals(proto: Any) -> None:
    """A sum of a stream and a linear layer of it becomes the product's own: Gemm adds the stream where it had a bias. The
    bias waits: layers that take the stream further on have it in theirs, and before anything else it is added."""
    joined = _Residuals(proto)
    for node in list(proto.graph.node):
        joined.take(node)
    del proto.graph.node[:]
    proto.graph.node.extend(joined.nodes)


class _Residuals:
    """The nodes of a graph, taken one after the other."""

    def __init__(self, proto: Any) -> None:
        import onnx

        graph = proto.graph
        self._helper, self._numpy, self._graph = onnx.helper, onnx.numpy_helper, graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        values = onnx.shape_inference.infer_shapes(proto).graph.value_info
        self._shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
        outputs = [value.name for value in graph.output]
        self._uses = collections.Counter([*outputs, *(name for node in graph.node for name in node.input)])
        self._layers: dict[str, Any] = {}  # output -> linear layer of rows
        self._waiting: dict[str, np.ndarray] = {}  # stream -> what is to be added to it
        self.nodes: list[Any] = []

    def take(self, node: Any) -> None:
        """The next node, whose inputs are of those before."""
        if node.op_type == "Add" and self._join(node):
            return
        if self._is_layer(node):
            if node.input[0] in self._waiting:
                self._absorb(node)
            self._layers[node.output[0]] = node
        for index, name in enumerate(node.input):
            if name in self._waiting and not (node.op_type == "Gemm" and index == 0):
                node.input[index] = self._settled(name)
        self.nodes.append(node)

    def _is_layer(self, node: Any) -> bool:
        rows = node.op_type in ("Gemm", "MatMul") and len(self._shapes.get(node.output[0], ())) == 2
        return rows and all(name in self._constants for name in node.input[1:])

    def _join(self, node: Any) -> bool:
        """Whether the sum is one of a stream and a layer, which then is one node here."""
        for stream, product in (node.input, reversed(node.input)):
            layer = self._layers.get(product)
            same = self._shapes.get(stream, [0])[-1:] == self._shapes.get(product, [])[-1:]
            if layer is None or not same or len(self._shapes[stream]) != 2 or self._uses[product] != 1:
                continue
            self.nodes.remove(layer)
            joined = self._helper.make_node("Gemm", [*layer.input[:2], stream], node.output, layer.name)
            joined.attribute.extend(layer.attribute)
            offset = self._waiting.get(stream, 0.0)
            if len(layer.input) > 2:
                offset = offset + self._value(layer.input[2])
            if isinstance(offset, np.ndarray):
                self._waiting[node.output[0]] = offset
            self.nodes.append(joined)
            return True
        return False

    def _absorb(self, layer: Any) -> None:
        """Into the bias of a layer what its input waits for."""
        weight = self._value(layer.input[1])
        if any(attribute.name == "transB" and attribute.i for attribute in layer.attribute):
            weight = weight.T
        bias = self._waiting[layer.input[0]] @ weight
        if len(layer.input) > 2:
            bias = bias + self._value(layer.input[2])
        if layer.op_type == "MatMul":
            layer.op_type = "Gemm"
        del layer.input[2:]
        layer.input.append(self._constant(f"{layer.name}_bias", bias))

    def _settled(self, stream: str) -> str:
        """The name of a stream with all that waited; added once."""
        name = f"{stream}_settled"
        if name not in self._shapes:
            self._shapes[name] = self._shapes[stream]
            term = self._constant(f"{stream}_waited", self._waiting[stream])
            self.nodes.append(self._helper.make_node("Add", [stream, term], [name], f"{stream}_settled"))
        return name

    def _value(self, name: str) -> np.ndarray:
        return self._numpy.to_array(self._constants[name]).astype(np.float64)

    def _constant(self, name: str, value: np.ndarray) -> str:
        self._constants[name] = self._numpy.from_array(value.astype(np.float32), name)
        self._graph.initializer.append(self._constants[name])
        return name
