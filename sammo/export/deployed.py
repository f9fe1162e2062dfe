"""An exported model: a directory of encoder, decoder, joiner and tokens.txt, and how it is loaded.

Nothing here loads onnxruntime before it is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from sammo.engines import is_installed
from sammo.errors import UserError

NAMES = ("encoder", "decoder", "joiner")
TOKENS = "tokens.txt"
AGAIN = "make it again with sammo export"


def file_name(name: str, int8: bool = False) -> str:
    """What the file of a graph is called."""
    return f"{name}.int8.onnx" if int8 else f"{name}.onnx"


def need(module: str) -> None:
    """UserError where a package of requirements-deploy.txt is missing."""
    if not is_installed(module):
        raise UserError(f"{module.replace('_', '-')} is not installed: pip install -r requirements-deploy.txt")


class Facts(NamedTuple):
    """What an exported encoder says of itself."""

    chunk_size: int  # embed frames (20 ms)
    hidden: int  # values a stream of h (1, N, hidden)
    cell: int  # values a stream of c (1, N, cell)
    weights: str  # sha256 of the weights that it was made from


def load_session(path: Path, threads: int = 1) -> Any:
    """An onnxruntime session of one file; UserError where it is missing or damaged."""
    need("onnxruntime")
    import onnxruntime

    if not path.parent.is_dir():
        raise UserError(f"no directory {path.parent}; make it with sammo export")
    if not path.is_file():
        raise UserError(f"{path.parent} lacks {path.name}; {AGAIN}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its bindings have no common base
        raise UserError(f"{path} is no ONNX model that onnxruntime can load ({error}); {AGAIN}") from error


def read_facts(session: Any, path: Path) -> Facts:
    """Of an encoder's session; UserError where another program has made it."""
    values = session.get_modelmeta().custom_metadata_map
    try:
        chunk_size, hidden, cell = (int(values[key]) for key in ("sammo_chunk_size", "d_model", "rnn_hidden_size"))
        return Facts(chunk_size, hidden, cell, values["sammo_weights"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} was not made by sammo export: its metadata lacks {error}") from error
