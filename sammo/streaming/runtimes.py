"""Who computes the encoder's step of a streaming recognizer: PyTorch, or onnxruntime from exported files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sammo import geometry
from sammo.checkpoint.schema import weights_digest
from sammo.encoder import Encoder
from sammo.errors import UserError
from sammo.export.deployed import file_name, load_session, read_facts
from sammo.export.graphs import StateLayout
from sammo.options import Deployment
from sammo.transducer import Transducer


class RuntimeOutput(NamedTuple):
    """One chunk of every stream, encoded."""

    frames: Tensor  # (N, T', C), or (N, T', J) of a runtime that projects
    lengths: Tensor  # (N,) valid frames
    state: Any  # the streams' next states, of the kind that the runtime's ``init_state`` makes


class EncoderRuntime(Protocol):
    """One chunk of every stream.

    ``projects``: whether its frames are those that the joiner adds, (N, T', J), and not the encoder's own, (N, T', C).
    """

    projects: bool

    def init_state(self) -> Any:
        """The state of one stream that has not begun, a tree of tensors as :mod:`sammo.encoder.state` takes them."""
        ...

    def of_width(self, chunk_size: int) -> EncoderRuntime:
        """The same for chunks of so many embed frames, with states of the same form; UserError where it cannot."""
        ...

    def step(self, features: Tensor, lengths: Tensor, state: Any) -> RuntimeOutput:
        """features (N, window, 80), lengths (N,) of them on the CPU, the streams' states -> frames, lengths, states."""
        ...


class TorchRuntime:
    """The encoder itself.

    Args:
      encoder: in evaluation mode.
      chunk_size, left_context_frames: embed frames (50 Hz).
    """

    projects = False

    def __init__(self, encoder: Encoder, chunk_size: int, left_context_frames: int = 0) -> None:
        self.encoder, self.chunk_size, self.left_context_frames = encoder, chunk_size, left_context_frames
        self.device = next(encoder.parameters()).device

    def init_state(self) -> Any:
        return self.encoder.init_state(1, self.left_context_frames, device=self.device)

    def of_width(self, chunk_size: int) -> TorchRuntime:
        return TorchRuntime(self.encoder, chunk_size, self.left_context_frames)

    def step(self, features: Tensor, lengths: Tensor, state: Any) -> RuntimeOutput:
        left = self.left_context_frames
        output = self.encoder(features, lengths, state, chunk_size=self.chunk_size, left_context_frames=left)
        return RuntimeOutput(*output)


class OnnxRuntime:
    """An exported encoder. Its state is the packed one, (N, S), so that snapshots go from one runtime to the other.

    Args:
      directory: of ``sammo export``.
      model: what it must have been made from; PyTorch still computes predictor and joiner.
      chunk_size: embed frames (50 Hz), the ones it must have been made for.
      int8: take encoder.int8.onnx.
    """

    projects = True

    def __init__(self, directory: str | Path, model: Transducer, chunk_size: int, int8: bool = False) -> None:
        path = Path(directory) / file_name("encoder", int8)
        self._session = load_session(path, torch.get_num_threads())
        facts = read_facts(self._session, path)
        if facts.chunk_size != chunk_size:
            raise UserError(
                f"{path} was exported for chunks of {facts.chunk_size} frames, not {chunk_size}: "
                f"pass --chunk-size {facts.chunk_size}, or export it again"
            )
        if facts.weights != weights_digest(model.state_dict()):
            raise UserError(f"{path} was exported from other weights than those of the checkpoint: export it again")
        self.chunk_size, self.layout = chunk_size, StateLayout(facts.hidden, facts.cell)

    def init_state(self) -> Tensor:
        return torch.zeros(1, sum(self.layout))

    def of_width(self, chunk_size: int) -> OnnxRuntime:
        if chunk_size != self.chunk_size:
            raise UserError(
                f"this export runs chunks of {self.chunk_size} frames only, not {chunk_size}: take --runtime torch, or export "
                "for the other width, too"
            )
        return self

    def step(self, features: Tensor, lengths: Tensor, state: Tensor) -> RuntimeOutput:
        hidden, cell = self.layout.split(state)
        inputs = {"x": features, "h": hidden, "c": cell}
        if bool((lengths < features.shape[1]).any()):
            inputs["x_lens"] = lengths
        found = self._session.run(None, {name: value.contiguous().numpy() for name, value in inputs.items()})
        frames, hidden, cell = (torch.from_numpy(value) for value in found)
        lengths = geometry.output_frames(lengths).clamp(max=frames.shape[1])
        return RuntimeOutput(frames, lengths, self.layout.join(hidden, cell))


def make_runtime(
    model: Transducer, deployment: Deployment, chunk_size: int, left_context_frames: int = 0
) -> EncoderRuntime:
    """What the options ask for; UserError where it cannot run."""
    if deployment.runtime == "torch":
        return TorchRuntime(model.encoder, chunk_size, left_context_frames)
    if deployment.onnx_dir is None:
        raise UserError("--runtime onnxruntime needs --onnx-dir, the directory that sammo export wrote")
    return OnnxRuntime(deployment.onnx_dir, model, chunk_size, deployment.int8)
