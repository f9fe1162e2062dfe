"""An exported model: a directory of encoder, decoder, joiner and tokens.txt, and how its graphs are loaded.

Nothing here loads onnxruntime or OpenVINO before it is asked for.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Protocol

import numpy as np

from sammo.engines import is_installed
from sammo.errors import UserError
from sammo.options import ModelSource

NAMES = ("encoder", "decoder", "joiner")
TOKENS = "tokens.txt"
AGAIN = "make it again with sammo export"
# bfloat16 is how OpenVINO multiplies the weights of the float32 file.
FILES = {"float32": "", "bfloat16": "", "float16": ".fp16", "int8": ".int8"}
SUFFIXES = {"onnxruntime": ".onnx", "openvino": ".xml"}


def file_name(name: str, precision: str = "float32", runtime: str = "onnxruntime") -> str:
    """What the file of a graph is called."""
    return f"{name}{FILES[precision]}{SUFFIXES[runtime]}"


def directory_name(left_context: bool, chunk_size: int, left_context_frames: int) -> str:
    """onnx-32, or onnx-32-left-128 of models that keep a left context."""
    return f"onnx-{chunk_size}{f'-left-{left_context_frames}' if left_context else ''}"


def default_directory(source: ModelSource, left_context: bool, chunk_size: int, left_context_frames: int) -> Path:
    """:func:`directory_name` in the experiment or the package, or beside the checkpoint file."""
    parent = source.exp_dir if source.checkpoint is None else source.checkpoint.parent
    return parent / directory_name(left_context, chunk_size, left_context_frames)


def need(module: str) -> None:
    """UserError where a package of requirements-deploy.txt is missing."""
    if not is_installed(module):
        raise UserError(f"{module.replace('_', '-')} is not installed: pip install -r requirements-deploy.txt")


class Session(Protocol):
    """A loaded graph."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What ``sammo export`` wrote about it."""
        ...

    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Input name -> array; the outputs in their order."""
        ...


class OnnxSession:
    """A graph in onnxruntime, of a file or of the bytes of one."""

    def __init__(self, path: Path, threads: int, content: bytes | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        # Where a CPU without VNNI would overflow in products of 8 bits, weights lose their sign when they are loaded.
        options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = onnxruntime.InferenceSession(content or str(path), options, providers=["CPUExecutionProvider"])
        self.metadata = self._session.get_modelmeta().custom_metadata_map

    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return [np.asarray(value) for value in self._session.run(None, dict(feed))]


@functools.cache
def openvino_core() -> Any:
    """The one ``openvino.Core`` of the process, never unloaded: loading its CPU plugin replaces the thread's signal stack,
    and unloading restores the one before, which with two of them may be freed memory."""
    import openvino

    return openvino.Core()


def multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16; where it does not, OpenVINO silently computes in float32."""
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoSession:
    """A graph in OpenVINO, products in bfloat16 where that is asked for."""

    def __init__(self, path: Path, threads: int, precision: str = "float32") -> None:
        core = openvino_core()
        model = core.read_model(str(path))
        self.metadata = read_rt_info(model)
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        }
        self._request = core.compile_model(model, "CPU", options).create_infer_request()

    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if "x" in feed and "x_lens" not in feed:  # the file has no value of its own for it
            feed = {**feed, "x_lens": np.full(feed["x"].shape[0], feed["x"].shape[1])}
        return list(self._request.infer(dict(feed), share_inputs=True).values())


RT_INFO = "sammo"  # where a file of OpenVINO keeps the metadata


def read_rt_info(model: Any) -> dict[str, str]:
    """The metadata of a graph of OpenVINO; {}: it has none of ours."""
    if not model.has_rt_info([RT_INFO]):
        return {}
    return {key: str(value) for key, value in model.get_rt_info([RT_INFO]).value.items()}


def load_session(directory: Path, name: str, runtime: str = "onnxruntime", precision: str = "float32") -> Session:
    """A graph of an export, on as many threads as PyTorch has.

    Args:
      directory: which ``sammo export`` wrote.
      name: in NAMES.

    Raises:
      UserError: the runtime is not installed, or the file is missing or damaged.
    """
    import torch

    need(runtime)
    if runtime == "onnxruntime" and precision == "bfloat16":
        raise UserError("onnxruntime has no bfloat16 on CPUs; --runtime openvino has")
    if precision == "bfloat16" and not multiplies_bfloat16():
        raise UserError("this CPU has no instructions for bfloat16; take float32")
    path = Path(directory) / file_name(name, precision, runtime)
    if not path.parent.is_dir():
        raise UserError(f"no directory {path.parent}; make it with sammo export")
    if not path.is_file():
        wanted = " ".join(filter(None, (_EXPORT_OPTIONS.get(runtime), _EXPORT_OPTIONS.get(precision))))
        raise UserError(f"{path.parent} lacks {path.name}; {AGAIN}{f' {wanted}' if wanted else ''}")
    threads = torch.get_num_threads()
    try:
        return OnnxSession(path, threads) if runtime == "onnxruntime" else OpenVinoSession(path, threads, precision)
    except Exception as error:  # the bindings of neither have a common base
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is no model that {runtime} can load ({reason}); {AGAIN}") from error


_EXPORT_OPTIONS = {"openvino": "--openvino true", "float16": "--fp16 true", "int8": "--int8 true"}


class Facts(NamedTuple):
    """What an exported encoder says of itself."""

    chunk_size: int  # embed frames (20 ms)
    left_context_frames: int  # embed frames; 0 where attention keeps none
    weights: str  # sha256 of the weights that it was made from

    @classmethod
    def of(cls, session: Session, path: Path) -> Facts:
        """UserError where another program has made it."""
        values = session.metadata
        try:
            chunk_size, left_context_frames = (int(values[f"sammo_{key}"]) for key in ("chunk_size", "left_context"))
            return cls(chunk_size, left_context_frames, values["sammo_weights"])
        except (KeyError, ValueError) as error:
            raise UserError(f"{path} was not made by this version of sammo export: no {error} in it") from error
