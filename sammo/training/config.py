"""Options of training: icefall's names and, where the experiments did not differ, its defaults."""

from __future__ import annotations

import argparse
import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sammo.encoder.config import ENCODER_PRESETS, PRESETS
from sammo.encoder.mixers import MIXERS, engine_names
from sammo.errors import UserError
from sammo.options import MOST_PROCESSES, check_range, check_threads, integers, parse_bool
from sammo.transducer import LOSS_ENGINES, ModelConfig, model_config

PRECISIONS = ("auto", "bf16", "fp16", "fp32")
LOSSES = ("simple_loss", "pruned_loss", "ctc_loss")  # in the order of TrainConfig.loss_scales


def _option(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class TrainConfig:
    """Each field is a command-line option of the same name. A "batch" is one step of all processes together."""

    exp_dir: Path = _option(Path("exp"), "Directory of checkpoints, logs and TensorBoard files.")
    lang: Path = _option(Path("data/lang_char"), "Language directory: the output units.")
    num_epochs: int = _option(40, "Epochs to train.")
    start_epoch: int = _option(
        0, "0: go on from the newest checkpoint in --exp-dir, if any. N: start epoch N from epoch-(N-1).pt, 1: anew."
    )
    start_batch: int = _option(0, "Above 0: go on from checkpoint-N.pt.")
    max_steps: int = _option(0, "Stop after as many batches in all, resumed ones counted in; 0: no limit.")
    time_budget_minutes: float = _option(0.0, "Stop after so much training time, earlier runs counted in; 0: no limit.")
    seed: int = _option(42, "Seed of the model and of everything random in training but the data.")

    base_lr: float = _option(0.045, "Base learning rate.")
    lr_batches: float = _option(7500.0, "Batches after which the learning rate falls.")
    lr_epochs: float = _option(3.5, "Epochs after which the learning rate falls.")
    lr_warmup_batches: float = _option(500.0, "Batches over which the learning rate rises.")
    lr_warmup_start: float = _option(0.5, "Share of the learning rate at the first batch.")
    ssm_lr_scale: float = _option(
        0.03,
        "Learning rate of A_log, dt_bias and D of the Mamba-2 blocks over that of other parameters. They take plain Adam "
        "steps of this size; ScaledAdam's, in proportion to a parameter's size, would erase the longer time constants "
        "within an epoch. 0: no exception for them.",
    )
    clipping_scale: float = _option(2.0, "Gradients above so many times their median norm are clipped.")
    ref_duration: float = _option(
        600.0, "Seconds of a reference batch: schedules over batches count --max-duration x processes / this for one."
    )
    prune_range: int = _option(5, "Symbols a frame that the pruned loss considers.")
    lm_scale: float = _option(0.25, "Share of the label-only part in the simple loss.")
    am_scale: float = _option(0.0, "Share of the acoustic-only part in the simple loss.")
    simple_loss_scale: float = _option(0.5, "Weight of the simple loss after the warm-up.")
    ctc_loss_scale: float = _option(
        0.0,
        "Weight of an auxiliary CTC loss, icefall's --use-ctc; above 0 the model gets a layer for it. The transducer "
        "learns what follows what before it listens; CTC, which cannot, makes a short training possible.",
    )
    warm_step: int = _option(2000, "Batches over which the weights of the two losses move.")
    average_period: int = _option(200, "Batches between updates of the averaged model.")

    save_every_n: int = _option(4000, "Batches between checkpoint-BATCH.pt files.")
    keep_last_k: int = _option(30, "How many checkpoint-BATCH.pt files to keep.")
    valid_interval: int = _option(1600, "Batches between validations; each epoch's end validates, too.")
    valid_cer_batches: int = _option(4, "Validation batches a process decodes for the CER; 0: none.")
    log_interval: int = _option(50, "Batches between log lines.")
    tensorboard: bool = _option(True, "Write TensorBoard files.")

    world_size: int = _option(1, "Processes to start on this machine; under torchrun its own number counts.")
    master_port: int = _option(0, "Port by which the processes of --world-size meet; 0: a free one.")
    dist_timeout_minutes: float = _option(30.0, "How long a process waits for the others before it gives up.")
    device: str = _option("auto", "auto, cpu or cuda.", ("auto", "cpu", "cuda"))
    num_threads: int = _option(0, "CPU threads a process; 0: as PyTorch chooses.")
    precision: str = _option("auto", "auto is bf16 on GPUs that have it, fp16 on other GPUs, fp32 on CPUs.", PRECISIONS)
    use_fp16: bool = _option(False, "The same as --precision fp16.")
    use_bf16: bool = _option(False, "The same as --precision bf16.")
    loss_engine: str = _option("auto", "Transducer loss.", LOSS_ENGINES.names)
    scan_engine: str = _option("auto", "Recurrence of the mixer; triton: mamba-ssm's kernels.", engine_names("scan"))
    conv_engine: str = _option("auto", "Convolution of the mixer.", engine_names("conv"))
    oom_scan: str = _option(
        "auto", "Try the largest batches first for out-of-memory; auto: on GPUs.", ("auto", "true", "false")
    )
    max_nonfinite: int = _option(20, "Batches an epoch may skip for losses or gradients that are not finite.")
    inf_check: bool = _option(False, "Name the module whose output is not finite at once; slow.")
    print_diagnostics: bool = _option(False, "Print statistics of activations and gradients after 5 batches, and end.")

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> TrainConfig:
        """Takes its fields out of parsed options; UserError for values that cannot work."""
        config = cls(**{item.name: getattr(args, item.name) for item in dataclasses.fields(cls)})
        config.check()
        if config.use_fp16 or config.use_bf16:
            config = dataclasses.replace(config, precision="fp16" if config.use_fp16 else "bf16")
        return config

    def check(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"--{item.name.replace('_', '-')} must be a number, got {value}")
        check_threads(self.num_threads)
        check_range("--world-size", self.world_size, 0, MOST_PROCESSES, "each is a process of this machine")
        positive = ("num_epochs", "base_lr", "lr_batches", "lr_epochs", "ref_duration", "average_period", "world_size")
        positive += ("save_every_n", "keep_last_k", "valid_interval", "log_interval", "dist_timeout_minutes")
        for name in positive:
            if getattr(self, name) <= 0:
                raise UserError(f"--{name.replace('_', '-')} must be above 0, got {getattr(self, name)}")
        if self.ssm_lr_scale < 0:
            raise UserError(f"--ssm-lr-scale must not be below 0, got {self.ssm_lr_scale}")
        if self.prune_range < 2:
            raise UserError(f"--prune-range must be at least 2, got {self.prune_range}")
        if min(self.max_steps, self.time_budget_minutes, self.start_epoch, self.start_batch, self.warm_step) < 0:
            raise UserError("--max-steps, --time-budget-minutes, --start-epoch, --start-batch, --warm-step: not below 0")
        wanted = {"fp16"} if self.use_fp16 else set()
        wanted |= {"bf16"} if self.use_bf16 else set()
        wanted |= {self.precision} if self.precision != "auto" else set()
        if len(wanted) > 1:
            raise UserError(f"choose one precision, not {' and '.join(sorted(wanted))}")

    def to_dict(self) -> dict[str, Any]:
        """JSON types only, to be kept in checkpoints."""
        values = dataclasses.asdict(self)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    def loss_scales(self, batch: int) -> tuple[float, float, float]:
        """Weights of the simple, the pruned and the CTC loss: the simple one teaches the pruning first."""
        done = 1.0 if batch >= self.warm_step else batch / self.warm_step
        return 1.0 - done * (1.0 - self.simple_loss_scale), 0.1 + 0.9 * done, self.ctc_loss_scale

    def losses_in_use(self) -> tuple[str, ...]:
        """The names of LOSSES that have a weight."""
        return LOSSES if self.ctc_loss_scale > 0 else LOSSES[:-1]


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one option a field of TrainConfig to ``parser``."""
    group = parser.add_argument_group("training")
    for item in dataclasses.fields(TrainConfig):
        kind = parse_bool if isinstance(item.default, bool) else type(item.default)
        kind = Path if isinstance(item.default, Path) else kind
        group.add_argument(
            "--" + item.name.replace("_", "-"),
            type=kind,
            default=item.default,
            choices=item.metadata["choices"],
            help=f"{item.metadata['help']} (default: {item.default})".replace("%", "%%"),
        )


# ------------------------------------------------------------------------------------ the model

# icefall's option -> field of EncoderConfig or ModelConfig, one number a stack separated by commas.
LISTS = {
    "downsampling-factor": "downsampling",
    "num-encoder-layers": "num_layers",
    "encoder-dim": "encoder_dim",
    "encoder-unmasked-dim": "unmasked_dim",
    "feedforward-dim": "feedforward_dim",
    "num-heads": "num_heads",
    "query-head-dim": "query_head_dim",
    "pos-head-dim": "pos_head_dim",
    "value-head-dim": "value_head_dim",
    "cnn-module-kernel": "conv_kernel",
    "frontend-channels": "frontend_channels",
    "chunk-size": "chunk_sizes",
    "left-context-frames": "left_context_frames",
}
NUMBERS = {
    "pos-dim": "pos_dim",
    "d-state": "d_state",
    "mamba-head-dim": "mamba_head_dim",
    "mamba-conv-kernel": "mamba_conv_kernel",
    "mamba-groups": "mamba_groups",
    "delta-heads": "delta_heads",
    "decoder-dim": "predictor_dim",
    "joiner-dim": "joiner_dim",
    "context-size": "context_size",
}
FLOATS = {
    "mamba-expand": "mamba_expand",
    "mamba-output-scale": "mamba_output_scale",
    "encoder-warmup-batches": "warmup_batches",
}
HELP = {
    "chunk-size": "Chunk sizes drawn from in training, frames of 20 ms; -1: whole utterances",
    "left-context-frames": "Left contexts drawn from in training, frames of 20 ms, where attention keeps any; -1: all",
    "decoder-dim": "Width of the predictor",
    "d-state": "State size of Mamba-2",
}


def seconds_range(text: str) -> tuple[float, ...]:
    """argparse type: "0.04,4" -> (0.04, 4.0), "" -> ()."""
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected seconds separated by a comma, got {text!r}") from None


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--encoder, --preset and what overrides the preset."""
    group = parser.add_argument_group("model", "Options left out come from the preset.")
    group.add_argument("--encoder", default="sammo", choices=list(ENCODER_PRESETS), help="(default: sammo)")
    group.add_argument("--preset", default="medium", choices=PRESETS, help="(default: medium)")
    group.add_argument("--mixer", dest="model_mixer", choices=list(MIXERS), help="What carries the long range.")
    group.add_argument("--left-context", dest="model_left_context", type=parse_bool, help="Attention keeps a left context.")
    group.add_argument("--mamba-conv-bias", dest="model_mamba_conv_bias", type=parse_bool, help="As Mamba's own.")
    group.add_argument(
        "--mamba-time-constants",
        dest="model_mamba_time_constants",
        type=seconds_range,
        help="Shortest and longest time constant of the heads of Mamba-2 at the start, seconds; '': as mamba-ssm starts.",
    )
    for table, kind in ((LISTS, integers), (NUMBERS, int), (FLOATS, float)):
        for option, name in table.items():
            text = HELP.get(option, f"{name.replace('_', ' ')}" + (", one a stack" if table is LISTS else ""))
            group.add_argument(f"--{option}", dest=f"model_{name}", type=kind, help=text)


def model_config_from_args(args: argparse.Namespace, vocab_size: int, blank_id: int) -> ModelConfig:
    """The configuration that the options ask for."""
    fields = [*LISTS.values(), *NUMBERS.values(), *FLOATS.values(), "mamba_time_constants"]
    fields += ["mixer", "left_context", "mamba_conv_bias"]
    overrides = {name: getattr(args, f"model_{name}") for name in fields}
    overrides["use_ctc"] = args.ctc_loss_scale > 0
    return model_config(args.encoder, args.preset, vocab_size, blank_id=blank_id, **overrides)
