"""Runtimes that compute a streaming recognizer's encoder: PyTorch, or onnxruntime or OpenVINO from exported files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sammo import geometry
from sammo.checkpoint.schema import weights_digest
from sammo.encoder import Encoder
from sammo.encoder.state import pack_state
from sammo.errors import UserError
from sammo.export.deployed import AGAIN, NAMES, TOKENS, Facts, Session, default_directory, file_name, load_session
from sammo.export.states import state_layout
from sammo.export.verify import speechlike
from sammo.options import Deployment, ModelSource
from sammo.sums import check_sums
from sammo.transducer import Transducer

MOST_OFF = 0.5  # of the first chunk's frames, by their norm: eight bits are off by less, other weights by more


class RuntimeOutput(NamedTuple):
    """One chunk of every stream, encoded."""

    frames: Tensor  # (N, T', C), or (N, T', J) of a runtime that projects
    lengths: Tensor  # (N,) valid frames
    state: Any  # the streams' next states, of the kind that the runtime's ``init_state`` makes


class EncoderRuntime(Protocol):
    """Computes one chunk of every stream.

    ``projects``: whether its output is projected for the joiner, (N, T', J), or the encoder's own, (N, T', C).
    ``digest``: of the exported file that it runs; "" where the checkpoint's own weights are used.
    """

    projects: bool
    digest: str

    def init_state(self) -> Any:
        """The state of one stream that has not begun, a tree of tensors as :mod:`sammo.encoder.state` takes them."""
        ...

    def of_width(self, chunk_size: int) -> EncoderRuntime:
        """This runtime for chunks of ``chunk_size`` embed frames, with the same form of state; UserError if there is none."""
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

    projects, digest = False, ""

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


class ExportedRuntime:
    """An exported encoder, in onnxruntime or OpenVINO. Its state packs as the encoder's own does, so that snapshots go from
    one runtime to the other.

    Args:
      session: of the encoder.
      path: what to call it in errors.
      model: what it must have been made from; PyTorch still computes predictor and joiner.
      chunk_size, left_context_frames: embed frames (50 Hz), the ones it must have been made for.
      digest: of the file.
    """

    projects = True

    def __init__(
        self,
        session: Session,
        path: Path,
        model: Transducer,
        chunk_size: int,
        left_context_frames: int = 0,
        digest: str = "",
    ) -> None:
        self._session, facts, self.digest = session, Facts.of(session, path), digest
        left = left_context_frames if model.config.encoder.left_context else 0
        for option, has, wanted in (
            ("--chunk-size", facts.chunk_size, chunk_size),
            ("--left-context-frames", facts.left_context_frames, left),
        ):
            if has != wanted:
                raise UserError(f"{path} was exported for {option} {has}, not {wanted}: pass {has}, or export it again")
        if facts.weights != weights_digest(model.state_dict()):
            raise UserError(f"{path} was exported from other weights than those of the checkpoint: export it again")
        self.chunk_size, self.layout = chunk_size, state_layout(model.encoder, left)
        self._compare(model, left, path)

    @torch.inference_mode()
    def _compare(self, model: Transducer, left: int, path: Path) -> None:
        """Runs the first chunk of a stream in the file and in PyTorch: what a file says of itself need not be so."""
        window, device = geometry.window(self.chunk_size), next(model.parameters()).device
        features, lengths = speechlike(window, 0)[None], torch.tensor([window])
        state = model.encoder.init_state(1, left, device=device)
        output = model.encoder(
            features.to(device), lengths, state, chunk_size=self.chunk_size, left_context_frames=left
        )
        wanted = model.joiner.encoder_proj(output.frames).cpu()
        try:
            found = self.step(features, lengths, self.init_state())
            shapes = [tuple(pack_state(state).shape) for state in (found.state, self.init_state())]
            if found.frames.shape != wanted.shape or shapes[0] != shapes[1]:
                raise ValueError(f"frames {tuple(found.frames.shape)}, a state of {shapes[0]}")
            off = float((found.frames - wanted).norm() / wanted.norm())
        except Exception as error:  # the runtimes' errors have no common base
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} cannot be run as an encoder of such chunks ({reason}): export it again") from error
        if not off <= MOST_OFF:
            raise UserError(f"{path} gives frames that are {off:.0%} off from the checkpoint's: export it again")

    def init_state(self) -> Any:
        return self.layout.start()

    def of_width(self, chunk_size: int) -> ExportedRuntime:
        if chunk_size != self.chunk_size:
            raise UserError(
                f"this export runs chunks of {self.chunk_size} frames only, not {chunk_size}: take --runtime torch, or export "
                "for the other width, too"
            )
        return self

    def step(self, features: Tensor, lengths: Tensor, state: Any) -> RuntimeOutput:
        inputs = dict(zip(("x", *self.layout.names), (features, *self.layout.feed(state))))
        if bool((lengths < features.shape[1]).any()):
            inputs["x_lens"] = lengths
        found = self._session.run({name: value.contiguous().numpy() for name, value in inputs.items()})
        frames, *states = (torch.from_numpy(value) for value in found)
        lengths = geometry.output_frames(lengths).clamp(max=frames.shape[1])
        return RuntimeOutput(frames, lengths, self.layout.keep(states))


def export_directory(
    model: Transducer,
    source: ModelSource | None,
    deployment: Deployment,
    chunk_size: int,
    left_context_frames: int,
) -> Path:
    """The one of the options, or where ``sammo export`` writes by default."""
    if deployment.onnx_dir is not None:
        return deployment.onnx_dir
    if source is None:
        raise UserError(f"--runtime {deployment.runtime} needs --onnx-dir, the directory that sammo export wrote")
    return default_directory(source, model.config.encoder.left_context, chunk_size, left_context_frames)


def make_runtime(
    model: Transducer,
    deployment: Deployment,
    chunk_size: int,
    left_context_frames: int = 0,
    source: ModelSource | None = None,
) -> EncoderRuntime:
    """What the options ask for, of the model that comes from ``source``; UserError where it cannot run."""
    runtime, precision = deployment.runtime, deployment.precision
    if runtime == "torch":
        if precision != "float32":
            raise UserError(f"--precision {precision} is of exported models: pass --runtime onnxruntime or openvino")
        return TorchRuntime(model.encoder, chunk_size, left_context_frames)
    directory = export_directory(model, source, deployment, chunk_size, left_context_frames)
    path = directory / file_name("encoder", precision, runtime)
    sums = {}
    if path.is_file():  # otherwise the line below says how to make it
        # Of a directory that is passed on all has to be whole, though only the encoder is used here.
        files = [Path(file_name(name, precision, runtime)) for name in NAMES]
        files += [file.with_suffix(".bin") for file in files if runtime == "openvino"]
        sums = check_sums(directory, [TOKENS, *map(str, files)], AGAIN, rest=False)
    session = load_session(directory, "encoder", runtime, precision)
    suffixes = (".xml", ".bin") if runtime == "openvino" else (".onnx",)
    digest = "".join(sums.get(path.with_suffix(suffix).name, "")[:16] for suffix in suffixes)
    return ExportedRuntime(session, path, model, chunk_size, left_context_frames, digest)
