"""``sammo info``: parameters by part, state per stream and cost of a model."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sammo import geometry
from sammo.encoder import Encoder, build_encoder
from sammo.encoder.config import PAPER_PARAMETERS, EncoderConfig, encoder_config
from sammo.encoder.mixers import MIXERS
from sammo.encoder.state import state_numel
from sammo.errors import UserError
from sammo.transducer.model import Transducer

CHUNK_SIZES = (16, 32, 64, 128)
LEFT_CONTEXTS = (64, 128, 256)
BYTES = 4  # of a float32
PAPER_VOCAB_SIZE = 3266  # of the published CSJ recipe, with which the paper's numbers of parameters come out
# A scale per layer that the original Zipformer defines and never uses; it is left out here.
UNUSED_IN_ORIGINAL = 5_760


def parameters_by_part(model: Transducer) -> dict[str, int]:
    """Parameters of a transducer: of the encoder by kind of module, then of everything else."""
    mixer = MIXERS[model.encoder.config.mixer].label
    names = ["front-end", "attention weights", "self-attention", "feed-forward", "convolution", mixer]
    names += ["norm, bypass, resampling", "predictor", "joiner", "simple projections"]
    parts = dict.fromkeys(names, 0)
    kinds = {"attention_weights": "attention weights", "attention": "self-attention", "feedforward": "feed-forward"}
    kinds |= {"conv": "convolution", "mixer": mixer}
    for name, parameter in model.named_parameters():
        words = name.split(".")
        if words[0] != "encoder":
            part = "simple projections" if words[0].startswith("simple_") else words[0]
        elif words[1] == "frontend":
            part = "front-end"
        else:
            # encoder.stacks.I.layers.J.MODULE...
            part = kinds.get(words[5].rstrip("0123456789") if len(words) > 5 else "", "norm, bypass, resampling")
        parts[part] += parameter.numel()
    return parts


def state_table(encoder: Encoder) -> list[dict[str, Any]]:
    """State per stream at each chunk width and left context; it depends on the left context alone.

    ``values`` are the floating-point ones; ``bytes`` are 4 for each of them. With left context an encoder also counts
    the frames in it, one integer a stream, that neither includes.
    """
    rows = []
    for chunk in CHUNK_SIZES:
        if chunk % encoder.config.chunk_multiple:
            continue
        for left in LEFT_CONTEXTS if encoder.config.left_context else (0,):
            values = state_numel(encoder.init_state(1, left, device="meta"))
            rows.append(
                {
                    "chunk_size": chunk,
                    "chunk_seconds": chunk / geometry.RATE,
                    "left_context_frames": left,
                    "values": values,
                    "bytes": BYTES * values,
                }
            )
    return rows


def mixer_table(config: EncoderConfig) -> list[dict[str, Any]]:
    """What each mixer would be in this encoder: its parameters, and the values a stream keeps of it at the shortest
    left context, ``recurrent`` those that every frame rewrites."""
    rows = []
    for name, kind in MIXERS.items():
        try:
            with torch.device("meta"):
                encoder = build_encoder(dataclasses.replace(config, mixer=name))
        except UserError:  # sizes that do not fit this mixer
            continue
        state = encoder.init_state(1, LEFT_CONTEXTS[0], device="meta")
        states = [layer.mixer for layers in state.stacks for layer in layers]
        leaf = kind.recurrent_leaf
        rows.append(
            {
                "mixer": name,
                "label": kind.label,
                "parameters": sum(p.numel() for _, mixer in encoder.mixers() for p in mixer.parameters()),
                "values": sum(map(state_numel, states)),
                "recurrent": sum(state_numel(getattr(part, leaf)) for part in states) if leaf else 0,
            }
        )
    return rows


class _FlopCounter(TorchDispatchMode):
    """PyTorch's FLOP formulas without the bookkeeping by module of its FlopCounterMode, which makes
    a step several times slower."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def multiply_adds(encoder: Encoder, chunk_size: int, left_context_frames: int) -> float:
    """Multiply-adds of the encoder per second of audio: those of matrix products and convolutions,
    as PyTorch counts them over one streaming step (triangular systems, Gated DeltaNet's, are not among them).

    Counted with gradients on, as inference arranges some of them as operations that the counter
    does not know.
    """
    frames = geometry.window(chunk_size)
    features = torch.zeros(1, frames, encoder.config.feature_dim)
    state = encoder.init_state(1, left_context_frames)
    with torch.enable_grad(), _FlopCounter() as counter:
        encoder(features, torch.tensor([frames]), state, chunk_size=chunk_size)
    return counter.flops / 2 * geometry.RATE / chunk_size


def paper_relation(config: EncoderConfig, preset: str, vocab_size: int, total: int) -> str:
    """How the total stands to the figure that the paper gives for this encoder."""
    paper = PAPER_PARAMETERS.get(config.name)
    if paper is None:
        return "the paper has no such model"
    if config != encoder_config(config.name, "medium") or vocab_size != PAPER_VOCAB_SIZE:
        return (
            f"the paper's {paper} M are those of the medium preset with {PAPER_VOCAB_SIZE} symbols; "
            f"this is another model"
        )
    with_unused = total + UNUSED_IN_ORIGINAL
    agree = "agree" if round(total / 1e6, 2) == round(with_unused / 1e6, 2) == paper else "differ"
    return (
        f"the paper's {paper} M; with the {UNUSED_IN_ORIGINAL:,} parameters that the original defines "
        f"and never uses, left out here, {with_unused:,}: they {agree}"
    )


def describe(model: Transducer, preset: str) -> dict[str, Any]:
    """Everything ``sammo info`` shows of a model of this preset, as plain data."""
    encoder = model.encoder.eval()
    parts = parameters_by_part(model)
    total = sum(parts.values())
    rows = state_table(encoder)
    for row in rows:
        work = multiply_adds(encoder, row["chunk_size"], row["left_context_frames"])
        row["multiply_adds_per_second"] = round(work)
    return {
        "encoder": encoder.config.name,
        "preset": preset,
        "vocab_size": model.config.vocab_size,
        "parameters": {
            **parts,
            "encoder without front-end": sum(p.numel() for p in encoder.parameters()) - parts["front-end"],
            "total": total,
        },
        "paper": paper_relation(encoder.config, preset, model.config.vocab_size, total),
        "streaming": rows,
        "mixers": mixer_table(encoder.config),
        "config": model.config.to_dict(),
    }


def show(facts: dict[str, Any]) -> str:
    """The same as Markdown tables."""
    lines = [
        f"{facts['encoder']}, preset {facts['preset']}, {facts['vocab_size']} symbols",
        "",
        "| part | parameters |",
        "|---|---:|",
    ]
    lines += [f"| {part} | {number:,} |" for part, number in facts["parameters"].items()]
    lines += ["", f"Total {facts['parameters']['total'] / 1e6:.2f} M: {facts['paper']}.", ""]
    lines += [
        "| chunk | left context | state per stream (values) | bytes (float32) | multiply-adds per second |",
        "|---|---|---:|---:|---:|",
    ]
    for row in facts["streaming"]:
        left = row["left_context_frames"]
        lines.append(
            f"| {row['chunk_size']} ({row['chunk_seconds']:.2f} s) | {left or 'none'} "
            f"| {row['values']:,} | {row['bytes']:,} | {row['multiply_adds_per_second'] / 1e9:.3f} G |"
        )
    lines += ["", "| mixer of this encoder | parameters | values a stream keeps | of these recurrent |"]
    lines += ["|---|---:|---:|---:|"]
    for row in facts["mixers"]:
        here = "**" if row["mixer"] == facts["config"]["encoder"]["mixer"] else ""
        numbers = " | ".join(f"{row[key]:,}" for key in ("parameters", "values", "recurrent"))
        lines.append(f"| {here}{row['mixer']}{here} ({row['label']}) | {numbers} |")
    if facts["config"]["encoder"]["left_context"]:
        lines += ["", "A stream also keeps one counter, of the frames in its left context."]
    return "\n".join(lines)
