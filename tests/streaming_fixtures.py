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


def make_model(name: str, vocab_size: int = VOCAB_SIZE) -> Transducer:
    """A tiny model with generic weights that emits on about a third of the frames.

    At initialization the modules hardly add to the residual stream, so that a lost state would go unnoticed: here
    all of them count.
    """
    torch.manual_seed(1)
    model = Transducer(model_config(name, "tiny", vocab_size=vocab_size)).eval()
    with torch.no_grad():
        for module in model.encoder.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.normal_(0, module.in_features**-0.5)
        frames = decode_simulated(
            model, make_searcher(model, "greedy_search"), [speech(4.0, 99)], 32, dict(SETTINGS)[name]
        )[0].frames
        # Logits that differ from frame to frame by much more than rounding does.
        project = model.joiner.encoder_proj
        project.weight.div_(frames.std(0).mean())
        project.bias.copy_(-(frames @ project.weight.t()).mean(0))
        model.joiner.output_linear.weight.mul_(5)
        logits = model.joiner.output_linear(torch.tanh(project(frames)))
        gap = logits[:, 1:].max(-1).values - logits[:, 0]
        model.joiner.output_linear.bias[0] += torch.quantile(gap, 0.66)
    return model
