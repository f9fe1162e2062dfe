"""Exported graphs in OpenVINO's format."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any, Sequence

from sammo.export.deployed import RT_INFO, openvino_core
from sammo.export.simplify import chain_of


def read_onnx(path: Path) -> Any:
    """Reads a graph of ``sammo export`` into OpenVINO. x_lens loses its default value first: OpenVINO would take an input
    that has one for a constant."""
    import onnx

    proto = onnx.load(str(path))
    graph = proto.graph
    names = {value.name for value in graph.input}
    for own in [value for value in graph.initializer if value.name in names]:
        graph.initializer.remove(own)
        next(value for value in graph.input if value.name == own.name).type.tensor_type.shape.dim[0].dim_param = "N"
    _use_softplus(graph)
    model = openvino_core().read_model(proto.SerializeToString())
    for item in proto.metadata_props:
        model.set_rt_info(item.value, [RT_INFO, item.key])
    return model


def _use_softplus(graph: Any) -> None:
    """softplus(x) - slope x in place of (1 - slope) leaky(x) - log(sigmoid(|x|)), of
    :func:`sammo.recording.softplus_above_line`: OpenVINO computes softplus in whole vectors and the logarithm value by value."""
    from onnx import helper, numpy_helper

    makers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    unused: set[str] = set()

    for node in graph.node:
        if node.op_type != "Sub":
            continue
        line = chain_of(makers, node.input[0], ("Mul", 0), ("LeakyRelu", 0))
        log = chain_of(makers, node.input[1], ("Log", 0), ("Sigmoid", 0), ("Abs", 0))
        if not line or not log or line[1].input[0] != log[2].input[0] or line[0].input[1] not in constants:
            continue
        x, slope = log[2].input[0], f"{node.name}_slope"
        value = 1.0 - numpy_helper.to_array(constants[line[0].input[1]])
        graph.initializer.append(numpy_helper.from_array(value, slope))
        line[0].input[:] = [x, slope]
        log[0].CopyFrom(helper.make_node("Softplus", [x], log[0].output, log[0].name))
        node.input[:] = [log[0].output[0], line[0].output[0]]
        unused.update(gone.output[0] for gone in (line[1], *log[1:]))
    kept = [node for node in graph.node if node.output[0] not in unused]
    del graph.node[:]
    graph.node.extend(kept)


def write_openvino(path: Path, out: Path, precision: str, kept: Sequence[str] = ()) -> None:
    """A float32 ONNX graph as .xml and .bin.

    Args:
      precision: of the weights: "float32", "float16", or "int8" for the linear layers, a scale for each output.
      kept: nodes whose weights stay as they are.
    """
    import openvino

    model = read_onnx(path)
    if precision == "int8":
        model = _compress(model, kept)
    openvino.save_model(model, str(out), compress_to_fp16=precision == "float16")


def _compress(model: Any, kept: Sequence[str]) -> Any:
    """A graph whose products have weights in 8 bits."""
    os.environ.setdefault("NNCF_CI", "1")  # it reports what it is used for elsewhere
    import nncf

    nncf.set_log_level(logging.ERROR)
    names = [node.get_friendly_name() for node in model.get_ops() if _stays(node, kept)]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        scope = nncf.IgnoredScope(names=names, validate=False)
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=scope)


def _stays(node: Any, kept: Sequence[str]) -> bool:
    """Whether an operation keeps its constants: it is no product with the weights of a linear layer, or it was named."""
    if node.get_type_name() != "MatMul":
        return node.get_type_name() in ("Convolution", "GroupConvolution", "Gather")
    weight = node.input_value(1)
    linear = weight.get_node().get_type_name() == "Constant" and len(weight.get_partial_shape()) == 2
    return not linear or node.get_friendly_name().removesuffix("/WithoutBiases") in kept
