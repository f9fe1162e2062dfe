"""Whether the options of a training that resumes are those of its checkpoint."""

from __future__ import annotations

import logging
from typing import Any, Mapping, Sequence

from sammo.errors import UserError

# Options of TrainConfig and DataConfig that change neither what is trained on nor what is made of it, or that are
# compared otherwise: the model's and its units by their values, the data by train_cuts.
FREE = {
    "exp_dir", "lang", "device", "num_threads", "scan_engine", "conv_engine", "loss_engine", "precision", "use_fp16",
    "use_bf16", "use_ctc", "num_epochs", "start_epoch", "start_batch", "init_from", "init_avg", "max_steps",
    "time_budget_minutes", "save_every_n", "keep_last_k", "valid_interval", "valid_cer_batches", "log_interval",
    "tensorboard", "world_size", "master_port", "network_interface", "dist_timeout_minutes", "oom_scan", "max_nonfinite", "inf_check",
    "print_diagnostics", "may_change", "manifest_dir", "corpus", "musan_dir", "shar_dir", "num_workers", "allow_urls",
}  # fmt: skip
# The optimizer keeps what it was made with.
FIXED = {"freeze", "clipping_scale", "ssm_lr_scale"}
CUTS = "train_cuts"  # no option: the fingerprint of Survey


def check_options(saved: Mapping[str, Any], now: Mapping[str, Any], may_change: Sequence[str] = ()) -> None:
    """Compares the options of a checkpoint with those that are to resume it.

    Args:
      saved: what the checkpoint says. Options that it does not know, because it is older, are not compared.
      now: TrainConfig's, and what CsjDataModule.options says.
      may_change: options named by --may-change; their changes are logged and not refused.

    Raises:
      UserError: one of them is unknown or cannot change, or another option has changed.
    """
    allowed = {name.removeprefix("--").replace("-", "_") for name in may_change}
    wrong = sorted(allowed - (now.keys() - FREE - FIXED))
    if wrong:
        known = ", ".join(sorted(_spelled(name) for name in now.keys() - FREE - FIXED))
        raise UserError(f"--may-change {_spelled(wrong[0])}: that cannot be allowed to change; what can: {known}")
    different = [name for name in now if name in saved and name not in FREE and not _same(saved[name], now[name])]
    if len(different) > 1 and CUTS in different:
        different.remove(CUTS)  # others leave out other cuts
    refused = [name for name in different if name not in allowed]
    if refused:
        fixed = [name for name in refused if name in FIXED]
        change = f"--may-change {','.join(map(_spelled, refused))} to go on with the change"
        advice = "--init-from it in a new --exp-dir" if fixed else f"use another --exp-dir, or pass {change}"
        said = "; ".join(_difference(name, saved[name], now[name]) for name in refused)
        raise UserError(
            f"the checkpoint was trained with other options: {said}. Give what it was trained with, or {advice}"
        )
    for name in different:
        logging.warning(f"going on with a change: {_difference(name, saved[name], now[name])}")


def _same(saved: Any, now: Any) -> bool:
    if isinstance(saved, (list, tuple)) and isinstance(now, (list, tuple)):
        return len(saved) == len(now) and all(map(_same, saved, now))
    return type(saved) in (bool, int, float, str, type(None)) and saved == now


def _difference(name: str, saved: Any, now: Any) -> str:
    if name == CUTS:
        return "the training cuts (train-cuts) were others than those in the manifests now"
    return f"--{_spelled(name)} was {_shown(saved)}, is {_shown(now)}"


def _spelled(name: str) -> str:
    return name.replace("_", "-")


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_shown, value[:20])) or "''"
    # What a checkpoint says may be anything.
    known = isinstance(value, (bool, int, float, str, type(None)))
    return (str(value)[:80] or "''") if known else f"a {type(value).__name__}"
