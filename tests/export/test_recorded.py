"""What modules compute while a graph is recorded is what they compute otherwise."""

from __future__ import annotations

import collections
from typing import Callable

import numpy as np
import pytest
import torch
from fixtures.export import missing, small_model

from sammo.encoder.state import pack_state
from sammo.export.deployed import OnnxSession
from sammo.export.graphs import EncoderGraph
from sammo.export.onnx import write_graph
from sammo.export.states import LstmLayout
from sammo.recording import softplus_above_line, solve_unitriangular

# Sizes that a graph takes as constants are meant to be.
pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


def recorded(function: Callable, *inputs: torch.Tensor) -> torch.Tensor:
    """The result of a recorded graph of ``function``."""

    class Module(torch.nn.Module):
        def forward(self, *given):
            return function(*given)

    return torch.jit.trace(Module(), inputs, check_trace=False)(*inputs)


def test_softplus():
    x = torch.linspace(-120.0, 120.0, 1001)
    found = recorded(lambda x: softplus_above_line(x, 0.08), x)
    torch.testing.assert_close(found, torch.nn.functional.softplus(x) - 0.08 * x, atol=2e-7, rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 5, 16, 32])
def test_triangular_systems(size):
    """Strengths near one and equal keys, where powers of the matrix would overflow its precision."""
    torch.manual_seed(0)
    for lower in (torch.rand(2, 3, size, size), torch.full((2, 3, size, size), 0.99)):
        right = torch.randn(2, 3, size, 4)
        found = recorded(solve_unitriangular, lower, right)
        want = torch.linalg.solve_triangular(lower.double(), right.double(), upper=False, unitriangular=True)
        scale = float(want.abs().max())
        assert float((found.double() - want).abs().max()) < 1e-5 * scale


@pytest.mark.parametrize("name, left, options", [("sammo", 0, {}), ("zipformer", 32, {}), ("conformer", 32, {})])
def test_the_recorded_encoder(name, left, options):
    """Of two streams that have been going on, one of which ends within the chunk; recorded for another number of streams."""
    torch.manual_seed(0)
    model = small_model(name, **options)
    graph = EncoderGraph(model, 16, left).eval()
    with torch.no_grad():
        example = graph.example(2)
        graph(*example)
        traced = torch.jit.trace(graph, example, check_trace=False)
        x = torch.randn(3, graph.window, 80)
        _, *states = graph(x, *graph.start(3), torch.full((3,), graph.window))
        lengths = torch.tensor([graph.window, 30, graph.window])
        inputs = (torch.randn(3, graph.window, 80), *states, lengths)
        for index, (found, want) in enumerate(zip(traced(*inputs), graph(*inputs))):
            if index == 0:  # beyond the end of a stream there is nothing to compare
                found[1, 6:], want[1, 6:] = 0.0, 0.0
            torch.testing.assert_close(found, want, atol=2e-5, rtol=1e-4)


def operations(directory, name: str, left: int, layers: tuple[int, ...]) -> collections.Counter[str]:
    """Of the graph of an encoder with so many layers in each stack."""
    import onnx

    write_graph(EncoderGraph(small_model(name, num_layers=layers), 32, left), directory / "encoder.onnx", {})
    return collections.Counter(node.op_type for node in onnx.load(str(directory / "encoder.onnx")).graph.node)


@missing("onnx", "onnxruntime")
@pytest.mark.parametrize("name, left, layer, rest", [("sammo", 0, 161, 120), ("zipformer", 64, 142, 130)])
def test_graphs_are_small(tmp_path, name, left, layer, rest):
    """Products of rows without changes of shape around them, which add what they are added to; activations of operations
    that are computed in whole vectors; masks made once for all layers. What one more layer brings is its price."""
    counts, more = (operations(tmp_path, name, left, layers) for layers in ((1, 1), (1, 2)))
    price = more - counts
    assert price.total() <= layer and counts.total() <= 2 * layer + rest, (counts, price)
    assert price["Gemm"] == 17 and price["Add"] <= 12 and price["Log"] == 5, price
    assert not counts["Constant"] and not counts["Shape"] and counts["Where"] <= 4, counts


@missing("onnx", "onnxruntime")
def test_sums_that_products_take_over(tmp_path):
    """With biases that are not small, the joined graph gives what the module gives."""
    graph = EncoderGraph(small_model("sammo"), 16).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in graph.named_parameters():
            if name.endswith("bias") and "norm" not in name:
                parameter.uniform_(-1.0, 1.0)
        write_graph(graph, tmp_path / "encoder.onnx", {})
        inputs = torch.randn(2, graph.window, 80), *graph.start(2), torch.full((2,), graph.window)
        want = [value.numpy() for value in graph(*inputs)]
    session = OnnxSession(tmp_path / "encoder.onnx", 1)
    for found, value in zip(session.run(dict(zip(graph.inputs, [value.numpy() for value in inputs]))), want):
        np.testing.assert_allclose(found, value, atol=2e-4 * max(1.0, np.abs(value).max()))


def test_an_lstm_has_the_parts_of_the_state():
    encoder = small_model("sammo").encoder
    layout = LstmLayout(encoder)
    state = encoder.init_state(3)
    packed = torch.randn(3, layout.hidden + layout.cell)
    tensors = packed[None].split([layout.hidden, layout.cell], dim=2)
    assert torch.equal(pack_state(layout.unpack(tensors)), packed)
    assert all(torch.equal(a, b) for a, b in zip(layout.pack(layout.unpack(tensors)), tensors))
    assert pack_state(state).shape == packed.shape and not pack_state(state).any()
    assert torch.equal(pack_state(layout.keep(tensors)), packed)
