"""Small random models that emit tokens, and audio for them."""

from __future__ import annotations

import torch

from sammo.search import make_searcher
from sammo.streaming.parity import decode_simulated
from sammo.transducer import Transducer, model_config

VOCAB_SIZE = 40
SETTINGS = [("sammo", 0), ("zipformer", 64)]


def speech(seconds: float, seed: int) -> torch.Tensor:
    """Tones and noise that change every 0.1 s."""
    generator = torch.Generator().manual_seed(seed)
    samples = int(seconds * 16000)
    time = torch.arange(samples) / 16000
    pieces = samples // 1600 + 1
    pitch = (100 + 900 * torch.rand(pieces, generator=generator)).repeat_interleave(1600)[:samples]
    level = (0.3 * torch.rand(pieces, generator=generator)).repeat_interleave(1600)[:samples]
    tone = torch.sin(2 * torch.pi * pitch * time) + 0.5 * torch.sin(4 * torch.pi * pitch * time)
    return level * tone + 0.01 * torch.randn(samples, generator=generator)


def make_model(name: str) -> Transducer:
    """A tiny model whose blank is as likely as everything else together, so that about half of the frames emit."""
    torch.manual_seed(1)
    model = Transducer(model_config(name, "tiny", vocab_size=VOCAB_SIZE)).eval()
    with torch.no_grad():
        # Random logits lie so close together that rounding would decide; spread them.
        model.joiner.output_linear.weight.mul_(30)
        spread = decode_logits(model)
        model.joiner.output_linear.bias[0] += (spread[..., 1:].max(-1).values - spread[..., 0]).median()
    return model


def decode_logits(model: Transducer) -> torch.Tensor:
    """Logits of every frame of some audio after an empty history."""
    searcher = make_searcher(model, "greedy_search")
    frames = decode_simulated(model, searcher, [speech(3.0, 99)], 32, 64 if model.config.encoder.name != "sammo" else 0)
    blank = torch.full((1, model.config.context_size), model.config.blank_id)
    predicted = model.predictor(blank, False)
    return model.joiner(frames[0].frames, predicted.reshape(1, -1).expand(frames[0].frames.size(0), -1))
