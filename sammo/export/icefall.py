"""Checkpoints of icefall's causal Zipformer transducer, read into our baseline.

Every name is translated by the table below; a tensor that is missing, left over or of the wrong
shape stops the import.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from sammo.encoder.config import EncoderConfig, encoder_config, PRESETS
from sammo.errors import UserError

# (pattern, replacement), applied in order to each name; LAYER stands for a layer's own prefix.
RENAMES = [
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
