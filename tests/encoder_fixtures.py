"""Small encoders for the tests."""

from __future__ import annotations

import torch

from sammo.encoder import Encoder, EncoderState, build_encoder, encoder_config

LEFT = 32


def small_encoder(name: str, seed: int = 0, **overrides) -> Encoder:
    """A little encoder with random weights, in evaluation mode; of three frame rates if it is not a Conformer."""
    torch.manual_seed(seed)
    sizes = dict(
        downsampling=(1, 2, 4),
        encoder_dim=(32, 48, 32),
        num_layers=(1, 2, 1),
        unmasked_dim=(32, 32, 32),
        feedforward_dim=(48, 64, 48),
        num_heads=(4, 4, 4),
        conv_kernel=(15, 15, 7),
        query_head_dim=8,
        value_head_dim=(4, 8, 4),
        mamba_head_dim=4,
        d_state=16,
        delta_heads=2,
        frontend_channels=(4, 8, 16),
    )
    if name == "conformer":
        sizes = {k: v[:1] if isinstance(v, tuple) and len(v) == 3 else v for k, v in sizes.items()}
        sizes.update(downsampling=(2,), num_layers=(2,), frontend_channels=(4, 8, 16))
    encoder = build_encoder(encoder_config(name, "tiny", **{**sizes, **overrides}))
    with torch.no_grad():  # weights of generic size: the start values hide what a layer does
        for parameter_name, parameter in encoder.named_parameters():
            if parameter_name.endswith("log_scale"):
                parameter.fill_(0.1)
            elif parameter.ndim > 1 and "edge_scale" not in parameter_name:
                fan_in = parameter[0].numel()
                parameter.normal_(std=fan_in**-0.5)
            elif not parameter_name.endswith(("A_log", "dt_bias")):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return encoder.eval()


def stream(
    encoder: Encoder,
    features: torch.Tensor,
    chunk: int,
    left: int = LEFT,
    window_chunks=lambda index: 1,
    state: EncoderState | None = None,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Encode features (N, T, 80) window by window; window number i holds ``window_chunks(i)``
    chunks. Returns all frames, those of the whole utterance first."""
    num, frames = features.shape[:2]
    lengths = torch.full((num,), frames) if lengths is None else lengths
    state = encoder.init_state(num, left) if state is None else state
    embed, outputs, start, index = (frames - 7) // 2, [], 0, 0
    while start < embed:
        size = window_chunks(index) * chunk
        window = features[:, 2 * start : 2 * (start + size) + 13]
        missing = 2 * size + 13 - window.shape[1]
        window = torch.nn.functional.pad(window, (0, 0, 0, missing))
        valid = (lengths - 2 * start).clamp(0, window.shape[1])
        out = encoder(window, valid, state, chunk_size=chunk)
        outputs.append(out.frames)
        state, start, index = out.state, start + size, index + 1
    return torch.cat(outputs, dim=1)
