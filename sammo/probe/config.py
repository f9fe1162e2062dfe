"""Options of ``sammo probe`` that are its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sammo.errors import UserError
from sammo.options import option


@dataclass(frozen=True)
class ProbeConfig:
    """The task, how long to train on it, and what to measure. Delays are seconds from the cue's end to the event."""

    out_dir: Path = option(Path("exp/probe"), "Where checkpoints and results go.")
    encoder: tuple[str, ...] = option(("sammo", "zipformer"), "Encoders to train and measure.")
    train_delays: tuple[float, ...] = option((0.5, 20.0), "Shortest and longest delay in training.")
    growth: float = option(0.5, "Share of the batches over which the longest delay grows from 0.8 s.")
    steps: int = option(800, "Batches to train.")
    sequences: int = option(4, "Sequences a batch.")
    delays: tuple[float, ...] = option((0.5, 1.0, 2.0, 5.0, 10.0, 20.0), "Delays to measure.")
    test_sequences: int = option(100, "Sequences for every number measured.")
    reset: bool = option(True, "Measure recurrent encoders with their state emptied before each chunk, too.")

    def __post_init__(self) -> None:
        """UserError for values that cannot work."""
        low, high = self.train_delays if len(self.train_delays) == 2 else (0.0, 0.0)
        if not 0 < low <= high:
            raise UserError("--train-delays takes two numbers of seconds above 0, the shortest and the longest")
        if not self.delays or min(self.delays) <= 0:
            raise UserError("--delays takes seconds above 0")
        if min(self.steps, self.sequences, self.test_sequences) < 1:
            raise UserError("--steps, --sequences and --test-sequences must be above 0")
        if not 0 <= self.growth <= 1:
            raise UserError(f"--growth is a share, 0 to 1, got {self.growth:g}")


# Options of training that make no sense here, or that the probe sets itself.
WITHOUT = ("exp_dir", "lang", "num_epochs", "start_epoch", "start_batch", "max_steps", "lr_epochs", "world_size")
WITHOUT += ("master_port", "dist_timeout_minutes", "use_fp16", "use_bf16", "oom_scan", "print_diagnostics")
# Small batches, and regularizers against learning by heart that soon give way, as in run.sh. The rest is against a trap
# of transducers whose symbols are few and far between: before they know the patterns they may place symbols anywhere,
# and one that is placed early, guessed from those before, never learns to wait for its pattern. CTC and the
# acoustic-only part of the simple loss cannot guess so, and the pruned loss is kept close to the latter. (These were
# chosen together, on one small model; what each of them adds was not measured.)
DEFAULTS = dict(base_lr=0.04, lr_warmup_batches=20.0, lr_batches=600.0, ref_duration=0.01, warm_step=40)
DEFAULTS |= dict(ctc_loss_scale=1.0, am_scale=0.5, lm_scale=0.0, prune_range=2, average_period=20)
DEFAULTS |= dict(save_every_n=100, keep_last_k=1, valid_interval=100, valid_cer_batches=100, tensorboard=False)
