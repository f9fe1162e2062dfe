"""Checkpoints of icefall's causal Zipformer transducer, read into our baseline.

Every name is translated by the table below; a tensor that is missing, left over or of the wrong
shape stops the import.
"""

from __future__ import annotations

import collections
import logging
import pathlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sammo.checkpoint import Checkpoint, write_checkpoint
from sammo.data.tokens import load_tokenizer
from sammo.encoder.config import SIZES, EncoderConfig, encoder_config
from sammo.errors import UserError
from sammo.transducer import ModelConfig, Transducer

# (pattern, replacement), applied in order to each name.
RENAMES = [
    (r"^ctc_output\.1\.", "ctc_output."),
    (r"^encoder_embed\.conv\.0\.", "encoder.frontend.conv1."),
    (r"^encoder_embed\.conv\.4\.", "encoder.frontend.conv2."),
    (r"^encoder_embed\.conv\.7\.", "encoder.frontend.conv3."),
    (r"^encoder_embed\.convnext\.depthwise_conv\.", "encoder.frontend.convnext.depthwise."),
    (r"^encoder_embed\.convnext\.pointwise_conv1\.", "encoder.frontend.convnext.in_proj."),
    (r"^encoder_embed\.convnext\.pointwise_conv2\.", "encoder.frontend.convnext.out_proj.linear."),
    (r"^encoder_embed\.out\.", "encoder.frontend.out."),
    (r"^encoder_embed\.out_norm\.", "encoder.frontend.norm."),
    (r"^encoder\.downsample_output\.", "encoder.downsample."),
    (r"^encoder\.encoders\.(\d+)\.(?:encoder\.)?layers\.", r"encoder.stacks.\1.layers."),
    (r"^encoder\.encoders\.(\d+)\.downsample\.", r"encoder.stacks.\1.downsample."),
    (r"^encoder\.encoders\.(\d+)\.out_combiner\.", r"encoder.stacks.\1.upsample.bypass."),
    (r"\.self_attn_weights\.", ".attention_weights."),
    (r"\.self_attn([12])\.", r".attention\1."),
    (r"\.nonlin_attention\.", ".mixer."),
    (r"\.feed_forward([123])\.out_proj\.", r".feedforward\1.out_proj.linear."),
    (r"\.feed_forward([123])\.", r".feedforward\1."),
    (r"\.conv_module([12])\.out_proj\.", r".conv\1.out_proj.linear."),
    (r"\.conv_module([12])\.depthwise_conv\.causal_conv\.", r".conv\1.conv.causal."),
    (r"\.conv_module([12])\.depthwise_conv\.chunkwise_conv\.", r".conv\1.conv.within."),
    (r"\.conv_module([12])\.depthwise_conv\.chunkwise_conv_scale$", r".conv\1.conv.edge_scale"),
    (r"\.conv_module([12])\.", r".conv\1."),
    (r"\.bypass_scale$", ".scale"),
    (r"^decoder\.", "predictor."),
    (r"^joiner\.decoder_proj\.", "joiner.predictor_proj."),
]
# Defined in every layer of the original and never used.
UNUSED = re.compile(r"^encoder\.encoders\.\d+\.(?:encoder\.)?layers\.\d+\.bypass_scale$")


def convert_name(name: str) -> str | None:
    """icefall's name of a tensor -> ours; None for one that the original never uses."""
    if UNUSED.match(name):
        return None
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def convert_tensor(name: str, tensor: Tensor, frontend_channels: int) -> Tensor:
    """One tensor, by icefall's name, in our layout.

    Pointwise convolutions are linear layers here, and the front-end's projection takes its inputs
    ordered (frequency, channel) instead of (channel, frequency).
    """
    if re.match(r"^encoder_embed\.convnext\.pointwise_conv[12]\.weight$", name):
        return tensor[:, :, 0, 0]
    if name == "encoder_embed.out.weight":
        ordered = tensor.view(tensor.shape[0], frontend_channels, -1).transpose(1, 2)
        return ordered.reshape(tensor.shape)
    return tensor


def convert_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of an icefall model by our names and in our layout."""
    if "encoder_embed.conv.7.weight" not in state:
        raise UserError("this is not an icefall Zipformer: it has no encoder_embed.conv.7.weight")
    channels = state["encoder_embed.conv.7.weight"].shape[0]
    converted = {}
    for name, tensor in state.items():
        ours = convert_name(name)
        if ours is not None:
            converted[ours] = convert_tensor(name, tensor, channels)
    return converted


# ------------------------------------------------------------------------------------ sizes


def infer_config(state: dict[str, Tensor], **options: Any) -> ModelConfig:
    """The configuration that the shapes of an icefall model's tensors give.

    Args:
      options: values of fields of EncoderConfig, or of blank_id, that shapes do not tell or that
        override what they tell: pos_head_dim (by default 4), unmasked_dim (used in training only),
        feature_dim, chunk_sizes, left_context_frames.

    Raises:
      UserError: not a causal Zipformer transducer, or sizes that do not fit together.
    """

    def shape(name: str) -> torch.Size:
        if name not in state:
            raise UserError(f"this is not a causal icefall Zipformer transducer: it has no {name}")
        return state[name].shape

    options = {name: value for name, value in options.items() if value is not None}
    blank_id = options.pop("blank_id", 0)
    values: dict[str, Any] = collections.defaultdict(list)
    for stack in range(_count(state, r"^encoder\.encoders\.(\d+)\.")):
        prefix = f"encoder.encoders.{stack}."
        down = f"{prefix}downsample.bias"
        values["downsampling"].append(state[down].numel() if down in state else 1)
        if down in state:
            prefix += "encoder."
        values["num_layers"].append(_count(state, rf"^{re.escape(prefix)}layers\.(\d+)\."))
        layer = f"{prefix}layers.0."
        positions, pos_dim = shape(layer + "self_attn_weights.linear_pos.weight")
        pos_head_dim = _at(options.get("pos_head_dim", 4), stack)
        heads = positions // pos_head_dim
        queries = shape(layer + "self_attn_weights.in_proj.weight")[0] - positions
        values["encoder_dim"].append(shape(layer + "norm.bias")[0])
        values["num_heads"].append(heads)
        values["query_head_dim"].append(queries // (2 * max(heads, 1)))
        values["pos_head_dim"].append(pos_head_dim)
        values["value_head_dim"].append(shape(layer + "self_attn1.in_proj.weight")[0] // max(heads, 1))
        values["feedforward_dim"].append(shape(layer + "feed_forward2.in_proj.weight")[0])
        kernel = shape(layer + "conv_module1.depthwise_conv.chunkwise_conv.weight")[2]
        values["conv_kernel"].append(kernel)
        values["pos_dim"] = pos_dim
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    channels = tuple(shape(f"encoder_embed.conv.{i}.weight")[0] for i in (0, 4, 7))
    values["frontend_channels"] = channels
    values["unmasked_dim"] = _unmasked_dim(values["encoder_dim"])
    width = shape("encoder_embed.out.weight")[1] // channels[-1]
    feature_dim = options.setdefault("feature_dim", 80)
    if ((feature_dim - 1) // 2 - 1) // 2 != width:
        raise UserError(f"the front-end is not one for {feature_dim} mel bins: give --feature-dim")
    encoder = encoder_config("zipformer", **{**values, **options})
    vocab_size, predictor_dim = shape("decoder.embedding.weight")
    conv = state.get("decoder.conv.weight")
    return ModelConfig(
        encoder,
        vocab_size,
        blank_id,
        context_size=1 if conv is None else conv.shape[-1],
        predictor_dim=predictor_dim,
        joiner_dim=shape("joiner.encoder_proj.weight")[0],
        use_ctc="ctc_output.1.weight" in state,
    )


def _count(state: dict[str, Tensor], pattern: str) -> int:
    """1 + the largest number that the pattern finds in the names."""
    found = [int(match.group(1)) for match in (re.match(pattern, name) for name in state) if match]
    if not found:
        raise UserError(f"this is not an icefall Zipformer: no tensor is named like {pattern}")
    return 1 + max(found)


def _at(value: int | tuple[int, ...], stack: int) -> int:
    if isinstance(value, int):
        return value
    return value[0 if len(value) == 1 else stack]


def _unmasked_dim(encoder_dim: tuple[int, ...]) -> tuple[int, ...]:
    """That of the preset of the same widths, otherwise three quarters."""
    for preset in SIZES["zipformer"].values():
        if preset["encoder_dim"] == encoder_dim:
            return preset["unmasked_dim"]
    return tuple(dim * 3 // 4 for dim in encoder_dim)


# ------------------------------------------------------------------------------------ whole models


def import_model(state: dict[str, Tensor], **options: Any) -> Transducer:
    """A baseline with the weights of an icefall model (names as icefall writes them).

    Raises:
      UserError: tensors are missing, left over or of another shape; all of them are named.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    config = infer_config(state, **options)
    model = Transducer(config)
    converted = convert_state_dict(state)
    ours = model.state_dict()
    theirs = {convert_name(name): name for name in state}
    problems = []
    missing = [name for name in ours if name not in converted]
    left_over = [theirs[name] for name in converted if name not in ours]
    wrong = [
        f"{theirs[name]} {tuple(converted[name].shape)} instead of {tuple(value.shape)}"
        for name, value in ours.items()
        if name in converted and converted[name].shape != value.shape
    ]
    for what, names in (("missing", missing), ("left over", left_over), ("of the wrong shape", wrong)):
        if names:
            problems.append(f"{len(names)} {what}: {', '.join(names)}")
    if problems:
        raise UserError("this icefall model does not fit the Zipformer here; tensors " + "; ".join(problems))
    model.load_state_dict({name: value.to(ours[name].dtype) for name, value in converted.items()})
    return model.eval()


def read_icefall(path: str | Path, key: str = "model") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of an icefall checkpoint, and the numbers saved beside it.

    Args:
      key: "model", or "model_avg" for the running average.
    """
    # Options saved beside the weights hold paths; nothing else than plain data is let in.
    paths = [pathlib.PosixPath, pathlib.PurePosixPath, pathlib.WindowsPath, pathlib.PureWindowsPath]
    try:
        with torch.serialization.safe_globals(paths):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no common error for damaged files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read as a checkpoint: {reason}") from error
    if isinstance(content, dict) and isinstance(content.get(key), dict):
        state, rest = content[key], content
    elif key == "model" and isinstance(content, dict) and "encoder_embed.conv.0.weight" in content:
        state, rest = content, {}
    else:
        raise UserError(f"{path} holds no {key!r}: it is not a checkpoint that icefall's train.py wrote")
    bad = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if bad:
        raise UserError(f"{path}: {bad[0]} in {key!r} is not a tensor")
    return state, {k: v for k, v in rest.items() if isinstance(v, (int, float, str))}


def import_checkpoint(
    path: Path,
    out: Path,
    key: str = "model",
    lang: Path | None = None,
    transcript_mode: str = "fluent",
    **options: Any,
) -> None:
    """Reads, converts, checks and writes a checkpoint.

    Args:
      path: epoch-N.pt or pretrained.pt of icefall's zipformer recipe.
      out: the file to write, FILE.pt; of a directory, its epoch-1.pt.
      key: "model" or "model_avg", which weights of it.
      lang: language directory with the units it was trained with.
      transcript_mode: the kind of transcripts it was trained with.
      options: of :func:`infer_config`.

    Raises:
      UserError: it is not such a checkpoint, or has other units than ``lang``.
    """
    state, numbers = read_icefall(path, key)
    model = import_model(state, **options)
    fingerprint = "unknown"
    if lang is not None:
        tokenizer = load_tokenizer(lang)
        fingerprint = tokenizer.fingerprint
        if tokenizer.vocab_size != model.config.vocab_size:
            raise UserError(f"{lang} has {tokenizer.vocab_size} units but the checkpoint {model.config.vocab_size}")
    else:
        logging.warning("no --lang: the checkpoint can only be decoded once its units are known")
    weights = dict(model.state_dict())
    out = out if out.suffix == ".pt" else out / "epoch-1.pt"
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(
        model_config=model.config,
        preset=_preset(model.config.encoder),
        tokenizer=fingerprint,
        transcript_mode=transcript_mode,
        epoch=1,
        epoch_done=True,
        batch_idx_train=max(1, int(numbers.get("batch_idx_train", 1))),
        average_period=1,
        model=weights,
        model_avg=weights,
    )
    write_checkpoint(out, checkpoint)
    parameters = sum(p.numel() for p in model.parameters())
    logging.info(f"wrote {out}: {parameters:,} parameters from {len(state)} tensors")


def _preset(config: EncoderConfig) -> str:
    """The name of the preset of these sizes, or "imported"."""
    for name, sizes in SIZES[config.encoder].items():
        if all(_matches(getattr(config, field), value) for field, value in sizes.items()):
            return name
    return "imported"


def _matches(value: Any, preset: Any) -> bool:
    if isinstance(value, tuple) and isinstance(preset, int):
        return set(value) == {preset}
    return value == preset
