"""Loss and character error rate on the part "valid", while training."""

from __future__ import annotations

from typing import Any, Iterable, NamedTuple

import torch

from sammo.data.tokens import Tokenizer
from sammo.scoring import count_errors
from sammo.search import make_searcher
from sammo.training.config import TrainConfig
from sammo.training.distributed import World
from sammo.transducer import Transducer

NUM_SAMPLES = 4


class Validation(NamedTuple):
    """Losses per encoder frame; ``cer`` in percent, None if nothing was decoded; samples are (cut id, ref, hyp)."""

    loss: float
    simple_loss: float
    pruned_loss: float
    cer: float | None
    samples: list[tuple[str, str, str]]

    def line(self) -> str:
        cer = "" if self.cer is None else f", CER {self.cer:.2f} %"
        return f"loss {self.loss:.4f}, simple {self.simple_loss:.4f}, pruned {self.pruned_loss:.4f}{cer}"


def validation_chunk(model: Transducer) -> tuple[int, int]:
    """The widest chunk with an end, and the longest left context with one, that the model is trained with."""
    encoder = model.config.encoder
    chunk = max(encoder.chunk_sizes)
    left = max(encoder.left_context_frames) if encoder.name == "zipformer" and chunk != -1 else -1
    return chunk, left


@torch.no_grad()
def validate(
    model: Transducer,
    batches: Iterable[dict[str, Any]],
    tokenizer: Tokenizer,
    config: TrainConfig,
    world: World,
    scales: tuple[float, float],
) -> Validation:
    """Goes through this process's share of the part; the result is that of all processes.

    scales: weights of the simple and of the pruned loss. The first ``config.valid_cer_batches`` are decoded greedily.
    """
    training = model.training
    model.eval()
    searcher = make_searcher(model, "greedy_search")
    chunk, left = validation_chunk(model)
    sums = torch.zeros(5, dtype=torch.float64, device=world.device)  # simple, pruned, frames, errors, characters
    samples: list[tuple[str, str, str]] = []
    for index, batch in enumerate(batches):
        features, lengths = batch["features"].to(world.device), batch["lengths"].to(world.device)
        encoded = model.encoder(features, lengths, chunk_size=chunk, left_context_frames=left)
        loss = model.loss(
            encoded.frames,
            encoded.lengths,
            batch["tokens"],
            config.prune_range,
            config.am_scale,
            config.lm_scale,
            config.loss_engine,
        )
        sums[:3] += torch.stack([loss.simple.sum(), loss.pruned.sum(), loss.frames.sum()]).double()
        if index < config.valid_cer_batches:
            for cut, text, (best, *_) in zip(
                batch["cuts"], batch["texts"], searcher(encoded.frames, encoded.lengths)
            ):
                hypothesis = tokenizer.decode(best.tokens)
                counts = count_errors(text, hypothesis)
                sums[3] += counts.errors
                sums[4] += counts.ref
                if len(samples) < NUM_SAMPLES:
                    samples.append((cut.id, text, hypothesis))
    model.train(training)
    simple, pruned, frames, errors, characters = world.sum(sums).tolist()
    frames = max(frames, 1.0)
    return Validation(
        (scales[0] * simple + scales[1] * pruned) / frames,
        simple / frames,
        pruned / frames,
        100.0 * errors / characters if characters else None,
        samples,
    )
