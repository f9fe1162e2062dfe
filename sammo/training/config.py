"""Options of training: icefall's names and, where the experiments did not differ, its defaults."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sammo.errors import UserError
from sammo.options import MOST_PROCESSES, Runtime, check_range, check_threads, option, plain_values

PRECISIONS = ("auto", "bf16", "fp16", "fp32")
CTC_SCALE = 0.2  # icefall's
LOSSES = ("simple_loss", "pruned_loss", "ctc_loss")  # in the order of TrainConfig.loss_scales


@dataclass(frozen=True)
class TrainConfig(Runtime):
    """Each field is a command-line option of the same name. A "batch" is one step of all processes together."""

    num_epochs: int = option(40, "Epochs to train.")
    start_epoch: int = option(
        0, "0: resume from the newest checkpoint in --exp-dir, if any. N: start epoch N from epoch-(N-1).pt, 1: anew."
    )
    start_batch: int = option(0, "Above 0: resume from checkpoint-N.pt.")
    init_from: Path | None = option(
        None,
        "Fine-tuning: a checkpoint, an --exp-dir or a package whose weights a new training begins with. What does not fit (the "
        "mixer of another encoder, output layers of other units) is new; the log says which.",
    )
    init_avg: int = option(1, "Checkpoints of --init-from to average; 0: its weights as training left them.")
    freeze: tuple[str, ...] = option(
        (), "Parts that are not trained: frontend, mixer, encoder (with both), predictor, joiner, or names of modules."
    )
    may_change: tuple[str, ...] = option(
        (),
        "Options that a resumed training may have otherwise than it began: base-lr,max-duration. All that decide what it "
        "learns are compared with its checkpoint; train-cuts stands for the cuts themselves.",
    )
    max_steps: int = option(0, "Stop after as many batches in all, resumed ones counted in; 0: no limit.")
    time_budget_minutes: float = option(0.0, "Stop after so much training time, earlier runs counted in; 0: no limit.")
    seed: int = option(42, "Seed of the model and of everything random in training but the data.")

    base_lr: float = option(0.045, "Base learning rate.")
    lr_batches: float = option(7500.0, "Batches after which the learning rate falls.")
    lr_epochs: float = option(3.5, "Epochs after which the learning rate falls.")
    lr_warmup_batches: float = option(500.0, "Batches over which the learning rate rises.")
    lr_warmup_start: float = option(0.5, "Share of the learning rate at the first batch.")
    ssm_lr_scale: float = option(
        0.03,
        "Learning rate of A_log, dt_bias and D of the Mamba-2 blocks over that of other parameters. They take plain "
        "Adam steps of this size; ScaledAdam's, in proportion to a parameter's size, would erase the longer time "
        "constants within an epoch. 0: no exception for them.",
    )
    clipping_scale: float = option(2.0, "Gradients above so many times their median norm are clipped.")
    ref_duration: float = option(
        600.0, "Seconds of a reference batch: schedules over batches count --max-duration x processes / this for one."
    )
    prune_range: int = option(5, "Symbols a frame that the pruned loss considers.")
    lm_scale: float = option(0.25, "Share of the label-only part in the simple loss.")
    am_scale: float = option(0.0, "Share of the acoustic-only part in the simple loss.")
    simple_loss_scale: float = option(0.5, "Weight of the simple loss after the warm-up.")
    ctc_loss_scale: float = option(
        0.0,
        "Weight of an auxiliary CTC loss, icefall's --use-ctc; above 0 the model gets a layer for it. The transducer "
        "learns what follows what before it listens; CTC, which cannot, makes a short training possible.",
    )
    use_ctc: bool | None = option(
        None, "true: --ctc-loss-scale 0.2, icefall's, unless another is given; false: --ctc-loss-scale 0."
    )
    warm_step: int = option(2000, "Batches over which the weights of the two losses move.")
    average_period: int = option(200, "Batches between updates of the averaged model.")

    save_every_n: int = option(4000, "Batches between checkpoint-BATCH.pt files.")
    keep_last_k: int = option(30, "How many checkpoint-BATCH.pt files to keep.")
    valid_interval: int = option(1600, "Batches between validations; each epoch's end validates, too.")
    valid_cer_batches: int = option(4, "Validation batches a process decodes for the error rates; 0: none.")
    log_interval: int = option(50, "Batches between log lines.")
    tensorboard: bool = option(True, "Write TensorBoard files.")

    world_size: int = option(1, "Processes to start on this machine; under torchrun its own number counts.")
    master_port: int = option(0, "Port by which the processes of --world-size meet; 0: a free one.")
    network_interface: str = option(
        "",
        "Network over which processes of several machines meet, such as eth0 or ib0; default: that of the host's name.",
    )
    dist_timeout_minutes: float = option(30.0, "How long a process waits for the others before it gives up.")
    precision: str = option("auto", "auto is bf16 on GPUs that have it, fp16 on other GPUs, fp32 on CPUs.", PRECISIONS)
    use_fp16: bool = option(False, "The same as --precision fp16.")
    use_bf16: bool = option(False, "The same as --precision bf16.")
    loss_engine: str = option("auto", "Transducer loss, by its name in sammo doctor.")
    oom_scan: str = option(
        "auto", "Try the largest batches first for out-of-memory; auto: on GPUs.", ("auto", "true", "false")
    )
    max_nonfinite: int = option(
        20, "Batches an epoch may skip: their loss or gradient is not finite, or the GPU's memory too small."
    )
    inf_check: bool = option(False, "Name the module whose output is not finite at once; slow.")
    print_diagnostics: bool = option(False, "Print statistics of activations and gradients after 5 batches, and end.")

    def __post_init__(self) -> None:
        """UserError for values that cannot work."""
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"--{item.name.replace('_', '-')} must be a number, got {value}")
        check_threads(self.num_threads)
        check_range("--seed", self.seed, 0, 1 << 32, "generators of random numbers take no more")
        check_range("--master-port", self.master_port, 0, 65_535, "ports end there")
        check_range("--dist-timeout-minutes", self.dist_timeout_minutes, 0, 10**6, "this is two years")
        check_range("--world-size", self.world_size, 0, MOST_PROCESSES, "each is a process of this machine")
        positive = ("num_epochs", "base_lr", "lr_batches", "lr_epochs", "ref_duration", "average_period", "world_size")
        positive += ("save_every_n", "keep_last_k", "valid_interval", "log_interval", "dist_timeout_minutes")
        for name in positive:
            if getattr(self, name) <= 0:
                raise UserError(f"--{name.replace('_', '-')} must be above 0, got {getattr(self, name)}")
        if self.init_avg < 0:
            raise UserError(f"--init-avg must not be below 0, got {self.init_avg}")
        if self.ssm_lr_scale < 0:
            raise UserError(f"--ssm-lr-scale must not be below 0, got {self.ssm_lr_scale}")
        if self.prune_range < 2:
            raise UserError(f"--prune-range must be at least 2, got {self.prune_range}")
        if min(self.max_steps, self.time_budget_minutes, self.start_epoch, self.start_batch, self.warm_step) < 0:
            options = "--max-steps, --time-budget-minutes, --start-epoch, --start-batch and --warm-step"
            raise UserError(f"{options} must not be below 0")
        if self.use_ctc is not None:
            object.__setattr__(self, "ctc_loss_scale", (self.ctc_loss_scale or CTC_SCALE) if self.use_ctc else 0.0)
        wanted = {"fp16"} if self.use_fp16 else set()
        wanted |= {"bf16"} if self.use_bf16 else set()
        wanted |= {self.precision} if self.precision != "auto" else set()
        if len(wanted) > 1:
            raise UserError(f"choose one precision, not {' and '.join(sorted(wanted))}")
        if wanted:
            object.__setattr__(self, "precision", *wanted)

    def to_dict(self) -> dict[str, Any]:
        """JSON types only, to be kept in checkpoints."""
        return plain_values(self)

    def loss_scales(self, batch: int) -> tuple[float, float, float]:
        """Weights of the simple, the pruned and the CTC loss: the simple one teaches the pruning first."""
        done = 1.0 if batch >= self.warm_step else batch / self.warm_step
        return 1.0 - done * (1.0 - self.simple_loss_scale), 0.1 + 0.9 * done, self.ctc_loss_scale

    def losses_in_use(self) -> tuple[str, ...]:
        """The names of LOSSES that have a weight."""
        return LOSSES if self.ctc_loss_scale > 0 else LOSSES[:-1]
