"""What modules compute while a graph is recorded is what they compute otherwise."""

from __future__ import annotations

import collections
from typing import Callable

import pytest
import torch
from fixtures.export import missing, small_model

from sammo.encoder.state import pack_state
from sammo.export.graphs import EncoderGraph
from sammo.export.onnx import write_graph
from sammo.export.states import LstmLayout
from sammo.recording import softplus, solve_unitriangular

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
    torch.testing.assert_close(recorded(softplus, x), torch.nn.functional.softplus(x), atol=2e-7, rtol=1e-6)


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


@missing("onnx", "onnxruntime")
def test_graphs_are_small(tmp_path):
    """Products of rows without changes of shape around them, softplus of operations that are computed in whole vectors,
    masks made once for all layers; 593 nodes when this was written, of which a layer has about 225."""
    import onnx

    write_graph(EncoderGraph(small_model("sammo"), 32), tmp_path / "encoder.onnx", {})
    nodes = onnx.load(str(tmp_path / "encoder.onnx")).graph.node
    counts = collections.Counter(node.op_type for node in nodes)
    assert len(nodes) < 650, counts
    assert counts["Gemm"] == 30 and not counts["Softplus"] and not counts["Constant"] and not counts["Shape"]
    assert counts["Where"] <= 4, counts  # of downsampling, none of the layers


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
