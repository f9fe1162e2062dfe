"""Checkpoints: what they hold, how they are written and read, which there are, and models averaged over them."""

from __future__ import annotations

from sammo.checkpoint.directory import BEST, batch_path, epoch_path, list_checkpoints, remove_old, remove_unfinished
from sammo.checkpoint.files import newest_checkpoint, read_checkpoint, write_checkpoint, write_content
from sammo.checkpoint.loading import ModelInfo, check_same_model, check_tokenizer, load_model
from sammo.checkpoint.package import is_package
from sammo.checkpoint.schema import Checkpoint, TrainingState

__all__ = [
    "BEST",
    "Checkpoint",
    "ModelInfo",
    "TrainingState",
    "batch_path",
    "check_same_model",
    "check_tokenizer",
    "epoch_path",
    "is_package",
    "list_checkpoints",
    "load_model",
    "newest_checkpoint",
    "read_checkpoint",
    "remove_old",
    "remove_unfinished",
    "write_checkpoint",
    "write_content",
]
