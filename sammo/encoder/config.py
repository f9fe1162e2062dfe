"""The configuration of an encoder, one frozen dataclass, and tables of presets, which are values of its fields."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from sammo.encoder.mixers import MIXERS
from sammo.errors import UserError
from sammo.geometry import OUTPUT_DOWNSAMPLING, RATE

LARGEST = 65_536  # of any size, far beyond what has been trained
MOST = {"num_layers": 200, "vocab_size": 10_000_000, "mamba_expand": 64, "warmup_batches": 1e9}
_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,), "str": (str,)}


def check_sizes(config: Any) -> None:
    """UserError for a field of the wrong type, not finite, or larger than any memory could hold."""
    for field in dataclasses.fields(config):
        values, most = getattr(config, field.name), MOST.get(field.name, LARGEST)
        kinds = _KINDS.get(str(field.type).removeprefix("tuple[").partition(",")[0])  # of its entries
        for value in values if isinstance(values, (tuple, list)) else (values,):
            if kinds is not None and type(value) not in kinds:
                raise UserError(
                    f"model option {field.name} has a {type(value).__name__}, where {kinds[0].__name__} is due"
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"model option {field.name} is {value}, no number")
            if isinstance(value, (int, float)) and value > most:
                raise UserError(f"model option {field.name} is {str(value)[:20]}, at most {most}: no memory holds more")


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that rebuilds an encoder. Tuples have one entry per stack; where a single number
    is given for the head dimensions, it stands for all stacks.

    Lengths of chunks and left context are in embed frames (50 Hz); -1 means without bound.
    """

    encoder: str  # which stacks and layers: a name in SIZES
    mixer: str  # what carries the long range: a name in MIXERS
    left_context: bool  # whether attention sees frames before its chunk
    downsampling: tuple[int, ...]
    encoder_dim: tuple[int, ...]
    num_layers: tuple[int, ...]
    unmasked_dim: tuple[int, ...]  # channels that feature masks leave alone in training
    feedforward_dim: tuple[int, ...]
    num_heads: tuple[int, ...]
    conv_kernel: tuple[int, ...]
    query_head_dim: tuple[int, ...] = (32,)
    pos_head_dim: tuple[int, ...] = (4,)
    value_head_dim: tuple[int, ...] = (12,)
    pos_dim: int = 48
    output_downsampling: int = OUTPUT_DOWNSAMPLING
    feature_dim: int = 80
    frontend_channels: tuple[int, int, int] = (8, 32, 128)
    # Of mixers with a recurrent state; d_state, head dimension and groups are Mamba-2's alone, delta_heads the other's.
    d_state: int = 128
    mamba_head_dim: int = 16
    mamba_expand: float = 0.75
    mamba_conv_kernel: int = 4
    mamba_conv_bias: bool = False
    mamba_groups: int = 1
    delta_heads: int = 4
    # Shortest and longest time constant of the heads at the start of training, in seconds, the same in all stacks, so
    # that those at low frame rates count fewer frames. (): as mamba-ssm starts, whatever the frame rate.
    mamba_time_constants: tuple[float, ...] = (0.04, 4.0)
    mamba_output_scale: float = 0.5  # of the output projection at the start; 0.05 is NLA's
    # What the trainer draws from, one of each per batch.
    chunk_sizes: tuple[int, ...] = (16, 32, 64, -1)
    left_context_frames: tuple[int, ...] = (64, 128, 256, -1)
    warmup_batches: float = 4000.0  # over which layer drop falls, stack by stack
    # True: padding never reaches a valid frame. False: as icefall, where it leaks into the last.
    mask_padding: bool = True

    def __post_init__(self) -> None:
        check_sizes(self)
        for field, table in (("encoder", SIZES), ("mixer", MIXERS)):
            if getattr(self, field) not in table:
                raise UserError(f"unknown {field} {getattr(self, field)!r}: choose {', '.join(table)}")
        stacks = len(self.downsampling)
        for field in ("query_head_dim", "pos_head_dim", "value_head_dim"):
            values = getattr(self, field)
            values = values if isinstance(values, tuple) else (values,)
            object.__setattr__(self, field, values * stacks if len(values) == 1 else values)
        for field in PER_STACK:
            values = getattr(self, field)
            if len(values) != stacks or any(value < 1 for value in values):
                raise UserError(
                    f"encoder option {field} is {values}: give {stacks} positive numbers, as many as downsampling has"
                )
        for dim, unmasked in zip(self.encoder_dim, self.unmasked_dim):
            if unmasked > dim:
                raise UserError(f"unmasked_dim {unmasked} is larger than encoder_dim {dim}")
        if any(kernel % 2 == 0 for kernel in self.conv_kernel):
            raise UserError(f"conv_kernel {self.conv_kernel}: every width must be odd")
        if self.output_downsampling != OUTPUT_DOWNSAMPLING:
            raise UserError(f"output_downsampling must be {OUTPUT_DOWNSAMPLING}")
        if self.feature_dim < 7:
            raise UserError(f"feature_dim is {self.feature_dim}: at least 7 are needed")
        MIXERS[self.mixer].check(self)

    @property
    def name(self) -> str:
        """The name in results and logs: the preset's, followed by the mixer where it is not the preset's."""
        for name, values in ENCODER_PRESETS.items():
            if (self.encoder, self.left_context) == (values["encoder"], values["left_context"]):
                return name if self.mixer == values["mixer"] else f"{name}-{self.mixer}"
        return f"{self.encoder}-{self.mixer}-{'left' if self.left_context else 'no-left'}-context"

    def time_constants_in_frames(self, stack: int) -> tuple[float, float] | None:
        """Shortest and longest time constant of a stack's heads at the start; None: as mamba-ssm starts."""
        if not self.mamba_time_constants:
            return None
        low, high = (time * RATE / self.downsampling[stack] for time in self.mamba_time_constants)
        return low, high

    @property
    def out_dim(self) -> int:
        """Width of the encoder's output."""
        return max(self.encoder_dim)

    @property
    def chunk_multiple(self) -> int:
        """Chunk sizes and left contexts are multiples of this many embed frames."""
        return math.lcm(self.output_downsampling, *self.downsampling)

    def to_dict(self) -> dict[str, Any]:
        """JSON types only; the inverse of :meth:`from_dict`."""
        values = dataclasses.asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EncoderConfig:
        """The inverse of :meth:`to_dict`. Fields that were added since ``values`` were written get their value in ``BEFORE``.

        Raises:
          UserError: a key is missing or unknown.
        """
        values = {**BEFORE, **values}
        if values.get("name") in ENCODER_PRESETS:  # from before mixer and left context were values
            values = {**ENCODER_PRESETS[values.pop("name")], **values}
        names = {field.name for field in dataclasses.fields(cls)}
        unknown, missing = sorted(set(values) - names), sorted(names - set(values))
        if unknown or missing:
            raise UserError(
                "encoder configuration does not fit this version of sammo:"
                + (f" unknown {', '.join(unknown)}" if unknown else "")
                + (f" missing {', '.join(missing)}" if missing else "")
            )
        return _of_values(values)


def _of_values(values: dict[str, Any]) -> EncoderConfig:
    """The configuration of these fields, lists for tuples, as JSON has them."""
    fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return EncoderConfig(**fields)


# Fields that older checkpoints lack, with the values that keep the behavior of then.
BEFORE: dict[str, Any] = {
    "mamba_time_constants": (),
    "mamba_output_scale": 0.05,
    "mamba_conv_bias": False,
    "delta_heads": 4,
}

PER_STACK = ("downsampling", "encoder_dim", "num_layers", "unmasked_dim", "feedforward_dim", "num_heads", "conv_kernel")
PER_STACK += ("query_head_dim", "pos_head_dim", "value_head_dim")

# The systems that are compared: the paper's two changes are two values.
ENCODER_PRESETS: dict[str, dict[str, Any]] = {
    "sammo": dict(encoder="zipformer", mixer="mamba2", left_context=False),
    "zipformer": dict(encoder="zipformer", mixer="nla", left_context=True),
    "conformer": dict(encoder="conformer", mixer="none", left_context=True),
}
# What the paper counts (p. 29), in millions, of the medium preset.
PAPER_PARAMETERS = {"sammo": 71.68, "zipformer": 71.78}

# medium is the paper's (and icefall's Zipformer-M). small is icefall's Zipformer-S. tiny is for
# learning a small corpus on a few CPU cores within minutes.
PRESETS = ("medium", "small", "tiny")
TINY: dict[str, Any] = dict(
    query_head_dim=16, pos_dim=24, frontend_channels=(4, 8, 16), d_state=32, warmup_batches=200.0
)
CONFORMER: dict[str, Any] = dict(downsampling=(2,), conv_kernel=(31,), value_head_dim=64)
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "zipformer": {
        "medium": dict(
            downsampling=(1, 2, 4, 8, 4, 2),
            encoder_dim=(192, 256, 384, 512, 384, 256),
            num_layers=(2, 2, 3, 4, 3, 2),
            unmasked_dim=(192, 192, 256, 256, 256, 192),
            feedforward_dim=(512, 768, 1024, 1536, 1024, 768),
            num_heads=(4, 4, 4, 8, 4, 4),
            conv_kernel=(31, 31, 15, 15, 15, 31),
        ),
        "small": dict(
            downsampling=(1, 2, 4, 8, 4, 2),
            encoder_dim=(192, 256, 256, 256, 256, 256),
            num_layers=(2, 2, 2, 2, 2, 2),
            unmasked_dim=(192, 192, 192, 192, 192, 192),
            feedforward_dim=(512, 768, 768, 768, 768, 768),
            num_heads=(4, 4, 4, 8, 4, 4),
            conv_kernel=(31, 31, 15, 15, 15, 31),
        ),
        "tiny": dict(
            downsampling=(1, 2, 4, 2),
            encoder_dim=(64, 128, 128, 128),
            num_layers=(1, 1, 2, 1),
            unmasked_dim=(64, 96, 96, 96),
            feedforward_dim=(128, 256, 256, 256),
            num_heads=(4, 4, 4, 4),
            conv_kernel=(15, 15, 7, 15),
            value_head_dim=8,
            **TINY,
        ),
    },
    # Of about as many parameters as Zipformer's.
    "conformer": {
        "medium": dict(
            **CONFORMER,
            encoder_dim=(512,),
            num_layers=(11,),
            unmasked_dim=(512,),
            feedforward_dim=(1984,),
            num_heads=(8,),
        ),
        "small": dict(
            **CONFORMER,
            encoder_dim=(256,),
            num_layers=(14,),
            unmasked_dim=(256,),
            feedforward_dim=(1088,),
            num_heads=(4,),
        ),
        "tiny": dict(
            downsampling=(2,),
            encoder_dim=(128,),
            num_layers=(4,),
            unmasked_dim=(128,),
            feedforward_dim=(592,),
            num_heads=(4,),
            conv_kernel=(15,),
            value_head_dim=32,
            **TINY,
        ),
    },
}


def encoder_config(name: str, preset: str = "medium", **overrides: Any) -> EncoderConfig:
    """The configuration of a system at a size, with some fields changed.

    Args:
      name: in ENCODER_PRESETS.
      preset: "medium", "small" or "tiny".
      overrides: fields of :class:`EncoderConfig`, ``mixer`` and ``left_context`` among them; None leaves the preset's
        value.
    """
    if name not in ENCODER_PRESETS:
        raise UserError(f"unknown encoder {name!r}: choose {', '.join(ENCODER_PRESETS)}")
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}: choose {', '.join(PRESETS)}")
    known = {field.name for field in dataclasses.fields(EncoderConfig)}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise UserError(f"unknown encoder option {', '.join(unknown)}")
    system = ENCODER_PRESETS[name]
    values = {**system, **SIZES[system["encoder"]][preset], **{k: v for k, v in overrides.items() if v is not None}}
    return _of_values(values)
