"""Sammo: streaming speech recognition with a constant-size memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sammo.decoding import System

__version__ = "0.1.0"


def from_pretrained(path: str | Path, device: str = "cpu") -> System:
    """A trained model, its output units and what it is: ``model, tokenizer, info``.

    Args:
      path: a directory that ``sammo package`` wrote.
      device: "cpu", "cuda" or "auto".

    Raises:
      UserError: a file of it is missing or damaged.
    """
    from pathlib import Path

    from sammo.checkpoint import is_package
    from sammo.decoding import load_system
    from sammo.errors import UserError
    from sammo.options import ModelSource

    if not is_package(path):
        raise UserError(f"{path} is no package: sammo package makes one of an experiment or a checkpoint")
    return load_system(ModelSource(exp_dir=Path(path), device=device))
