"""Batches that cannot be trained on: they are skipped and kept, and the first module to overflow is named."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

import torch
from torch import Tensor, nn

from sammo.checkpoint import write_content
from sammo.data.dataset import Batch
from sammo.errors import UserError
from sammo.training.config import TrainConfig

MAX_SAVED_BATCHES = 5  # of those that an epoch skips


class Guard:
    """Accounts for batches that cannot be trained on, and ends a run that has too many of them.

    Attributes:
      skipped: such batches of this epoch.
    """

    def __init__(self, config: TrainConfig, rank: int) -> None:
        self.config, self.rank = config, rank
        self.skipped = 0

    def skip(
        self,
        batch: Batch,
        number: int,
        epoch: int,
        why: str,
        find: Callable[[], str] | None = None,
        keep: bool = True,
    ) -> None:
        """Says why a batch was not trained on.

        Args:
          batch, number: the batch and how many were trained with it.
          find: repeats the batch and names the first value that was not finite.
          keep: write the batch into the experiment's directory.

        Raises:
          UserError: there are too many in this epoch.
        """
        self.skipped += 1
        path = self.config.exp_dir / f"bad-batch-{number}-rank-{self.rank}.pt"
        if keep and self.skipped <= MAX_SAVED_BATCHES:
            _save_batch(path, batch, batch_idx_train=number, why=why)
        kept = f"; kept in {path.name}" if keep else ""
        logging.warning(f"batch {number} skipped: {why} (cuts {', '.join(batch['cut_ids'][:3])}, ...{kept})")
        too_many = self.skipped > self.config.max_nonfinite
        if find is not None and (self.skipped == 1 or too_many):
            where = find()
            logging.warning(f"first value that was not finite: {where}")
            why = f"{why}, {where} was the first"
        if too_many:
            raise UserError(
                f"{self.skipped} batches of epoch {epoch} were skipped, --max-nonfinite allows "
                f"{self.config.max_nonfinite}; the last one: {why} "
                f"({self.config.exp_dir}/bad-batch-*.pt hold batches with their cut ids)"
            )


def _save_batch(path: Path, batch: Batch, **facts: Any) -> None:
    """Writes a batch with its cut ids and ``facts``, readable by torch.load(weights_only=True)."""
    content = {
        "cut_ids": list(batch["cut_ids"]),
        "texts": list(batch["texts"]),
        **{name: batch[name].cpu() for name in ("tokens", "features", "lengths")},
        **facts,
    }
    try:
        write_content(path, content)
    except UserError as error:  # training does without it
        logging.warning(str(error))


class Finding:
    """The first place where a watched pass was not finite; empty if there was none."""

    def __init__(self) -> None:
        self.where = ""

    def note(self, where: str) -> None:
        self.where = self.where or where


@contextmanager
def watch(model: nn.Module, at_once: bool = False) -> Iterator[Finding]:
    """Looks at the outputs of all modules, and at their gradients, while the body runs the model.

    Args:
      at_once: raise a UserError where something is not finite, instead of noting the first place.
    """
    names = {module: name or "the whole model" for name, module in model.named_modules()}
    finding = Finding()

    def report(where: str) -> None:
        finding.note(where)
        if at_once:
            raise UserError(f"not finite: {where}")

    def after(module: nn.Module, _: Any, output: Any) -> None:
        name = names[module]
        for tensor in _tensors(output):
            if not _finite(tensor):
                report(f"the output of {name} ({type(module).__name__})")
                return
            if tensor.requires_grad:
                tensor.register_hook(gradient_check(name, type(module).__name__))

    def gradient_check(name: str, kind: str) -> Callable[[Tensor], None]:
        def check(gradient: Tensor) -> None:
            if not _finite(gradient):
                report(f"the gradient at the output of {name} ({kind})")

        return check

    handles = [module.register_forward_hook(after) for module in names]
    try:
        yield finding
    finally:
        for handle in handles:
            handle.remove()


def first_overflow(model: nn.Module, batch: Batch, run: Callable[[], Tensor]) -> str:
    """Which value was not finite first: a parameter, the input, or a module's output or gradient.

    Gradients are left empty.

    Args:
      run: repeats the forward pass of ``batch`` and returns its loss.
    """
    for name, parameter in model.named_parameters():
        if not _finite(parameter):
            return f"parameter {name}"
    for cut_id, features in zip(batch["cut_ids"], batch["features"]):
        if not _finite(features):
            return f"the features of cut {cut_id}"
    model.zero_grad(set_to_none=True)
    with watch(model) as finding:
        loss = run()
        if not _finite(loss):
            finding.note("the loss")
        loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not _finite(parameter.grad):
            finding.note(f"the gradient of {name}")
    model.zero_grad(set_to_none=True)
    return finding.where or "nothing when the batch was repeated"


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.detach()).all())


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, (tuple, list)):
        for item in output:
            yield from _tensors(item)
    elif isinstance(output, dict):
        yield from _tensors(tuple(output.values()))
