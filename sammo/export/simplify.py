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
    # One would put a change of shape before and after products of three dimensions, the other one transpose of all heads'
    # queries, keys and positions three times in place of once.
    disabled = ["MatMulAddFusion", "TransposeOptimizer"]
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)
    proto = onnx.load(str(folded))
    folded.unlink()
    _join_reshapes(proto.graph)
    _drop_unchanged(proto)
    _join_convolutions(proto.graph)
    standard = [entry for entry in proto.opset_import if entry.domain == ""]
    del proto.opset_import[:]
    proto.opset_import.extend(standard)
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    _join_bypasses(proto.graph)
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


def _drop_unchanged(proto: Any) -> None:
    """Without changes to the shape that is there, and slices that take all."""
    from onnx import numpy_helper

    graph, shapes = proto.graph, _shapes(proto)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    same: dict[str, str] = {}
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
        if node.op_type in ("Reshape", "Slice") and node.input[1] in constants and node.output[0] not in outputs:
            before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
            if node.op_type == "Reshape":
                after = [max(size, 0) for size in numpy_helper.to_array(constants[node.input[1]]).tolist()]
            # At most one size, that of the streams, is not known, and no slice is taken of them.
            if before is not None and before == after and before.count(0) <= 1:
                same[node.output[0]] = node.input[0]
                continue
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _join_convolutions(graph: Any) -> None:
    """A number that is added behind a convolution goes into its bias, and so does one before it, where it adds no frames
    of zeros."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    uses = collections.Counter(name for node in graph.node for name in node.input)
    makers = {output: node for node in graph.node for output in node.output}

    def number(node: Any) -> float | None:
        """What is added by a node."""
        if node is None or node.op_type not in ("Add", "Sub") or node.input[1] not in constants:
            return None
        value = numpy_helper.to_array(constants[node.input[1]])
        return (float(value) if node.op_type == "Add" else -float(value)) if value.ndim == 0 else None

    def shift(convolution: Any, by: Any) -> None:
        bias = numpy_helper.to_array(constants[convolution.input[2]]) + by
        name = f"{convolution.name}_bias_{len(graph.initializer)}"
        constants[name] = numpy_helper.from_array(bias.astype(np.float32), name)
        graph.initializer.append(constants[name])
        convolution.input[2] = name

    gone: dict[str, str] = {}
    for node in graph.node:
        node.input[:] = [gone.get(name, name) for name in node.input]
        before: Any = makers.get(node.input[0]) if node.input else None
        if before is None or uses[node.input[0]] != 1:
            continue
        added = number(node)
        if added is not None and before.op_type == "Conv" and len(before.input) == 3:
            shift(before, added)
            gone[node.output[0]] = node.input[0]
        added, pads = number(before), [item for item in node.attribute if item.name == "pads" and any(item.ints)]
        if added is not None and node.op_type == "Conv" and len(node.input) == 3 and not pads:
            weight = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
            shift(node, added * weight.sum(axis=(1, 2, 3)))
            gone[before.output[0]] = node.input[0] = before.input[0]
    kept = [node for node in graph.node if not any(output in gone for output in node.output)]
    del graph.node[:]
    graph.node.extend(kept)


def _join_bypasses(graph: Any) -> None:
    """original + (x / length - original) * scale, x / length being x * (factor / length): the scale goes into both terms,
    original * (1 - scale) + x * (factor * scale / length)."""
    import onnx
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    uses = collections.Counter(name for node in graph.node for name in node.input)

    for node in list(graph.node):
        if node.op_type != "Add":
            continue
        chain = chain_of(makers, node.input[1], ("Mul", 0), ("Sub", 0), ("Mul", 1), ("Div", 0))
        # Each is made for the next alone.
        if not chain or chain[1].input[1] != node.input[0] or any(uses[made.output[0]] != 1 for made in chain):
            continue
        scaled, apart, normed, inverse = chain
        if scaled.input[1] not in constants or inverse.input[0] not in constants:
            continue
        scale, factor = (numpy_helper.to_array(constants[name]) for name in (scaled.input[1], inverse.input[0]))
        for value, name in ((factor * scale, f"{inverse.name}_scaled"), (1.0 - scale, f"{node.name}_rest")):
            graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        inverse.input[0] = f"{inverse.name}_scaled"
        apart.CopyFrom(onnx.helper.make_node("Mul", [node.input[0], f"{node.name}_rest"], apart.output, apart.name))
        node.input[:] = [normed.output[0], apart.output[0]]
        graph.node.remove(scaled)


def chain_of(makers: dict[str, Any], name: str, *steps: tuple[str, int]) -> list[Any]:
    """The nodes by which a value comes to be, the last first; [] where they are others.

    Args:
      makers: the node of each value.
      name: of the value.
      steps: kind of each node, and which of its inputs the one before it makes.
    """
    chain: list[Any] = []
    for kind, index in steps:
        node = makers.get(name)
        if node is None or node.op_type != kind:
            return []
        chain.append(node)
        name = node.input[index]
    return chain


def _shapes(proto: Any) -> dict[str, list[int]]:
    """Name -> sizes; 0: not known."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(proto).graph
    values = [*graph.value_info, *graph.input]
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}


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
        self._shapes = _shapes(proto)
        outputs = [value.name for value in graph.output]
        self._uses = collections.Counter([*outputs, *(name for node in graph.node for name in node.input)])
        self._layers: dict[str, Any] = {}  # output -> linear layer of rows
        self._waiting: dict[str, np.ndarray] = {}  # stream -> what is to be added to it
        self.nodes: list[Any] = []

    def take(self, node: Any) -> None:
        """The next node, whose inputs are of those before."""
        if node.op_type == "Add" and self._join(node):
            return
        if self._pass_on(node):
            self.nodes.append(node)
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

    def _pass_on(self, node: Any) -> bool:
        """Whether what waits can wait behind the node: a sum or difference of streams, a stream times a constant, rows side by
        side, or the one constant that is added to it, which takes it over."""
        offsets = [self._waiting.get(name) for name in node.input]
        if node.op_type == "Reshape" and offsets[0] is not None:
            before, after = self._shapes[node.input[0]], self._shapes.get(node.output[0], [0])
            if len(after) == 2 and after[1] and after[1] % before[1] == 0:  # rows side by side
                self._waiting[node.output[0]] = np.tile(offsets[0], after[1] // before[1])
            return node.output[0] in self._waiting
        rows = [len(self._shapes.get(name, ())) == 2 for name in node.input]
        if node.op_type not in ("Add", "Sub", "Mul") or all(offset is None for offset in offsets):
            return False
        first, second = (0.0 if offset is None else offset for offset in offsets)
        constant = next((index for index, name in enumerate(node.input) if name in self._constants), None)
        if constant is None:
            if node.op_type == "Mul" or not all(rows):
                return False
            self._waiting[node.output[0]] = np.asarray(first + second if node.op_type == "Add" else first - second)
            return True
        value = self._value(node.input[constant])
        if value.ndim > 1 or not rows[1 - constant] or (node.op_type == "Sub" and constant == 0):
            return False
        if node.op_type == "Mul":
            self._waiting[node.output[0]] = np.asarray((first + second) * value)
        else:
            value = value + first if node.op_type == "Add" else value - first
            node.input[constant] = self._constant(f"{node.name}_{node.input[constant]}", value)
        return True

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
