"""Loss and error rates on the part "valid", while training."""

from __future__ import annotations

from typing import Iterable, NamedTuple

import torch

from sammo.data.dataset import Batch
from sammo.data.tokens import Tokenizer
from sammo.scoring import count_errors
from sammo.scoring.cer import metrics_for
from sammo.search import make_searcher
from sammo.training.config import LOSSES, TrainConfig
from sammo.training.distributed import World
from sammo.transducer import Transducer

NUM_SAMPLES = 4


class Validation(NamedTuple):
    """Losses per encoder frame; error rates in percent, none if nothing was decoded; samples are (cut id, ref, hyp)."""

    loss: float
    losses: dict[str, float]  # its parts
    rates: dict[str, float]  # by metric, the corpus's own first
    samples: list[tuple[str, str, str]]

    def line(self) -> str:
        rates = "".join(f", {metric} {rate:.2f} %" for metric, rate in self.rates.items())
        return f"loss {self.loss:.4f} ({named(self.losses)}){rates}"


def named(values: dict[str, float]) -> str:
    """{"loss": 1.0, "simple_loss": 0.5} -> "simple 0.5000"."""
    return ", ".join(f"{name.removesuffix('_loss')} {value:.4f}" for name, value in values.items() if name != "loss")


def validation_chunk(model: Transducer) -> tuple[int, int]:
    """The widest chunk with an end, and the longest left context with one, that the model is trained with."""
    encoder = model.config.encoder
    chunk = max(encoder.chunk_sizes)
    left = max(encoder.left_context_frames) if encoder.left_context and chunk != -1 else -1
    return chunk, left


@torch.no_grad()
def validate(
    model: Transducer,
    batches: Iterable[Batch],
    tokenizer: Tokenizer,
    config: TrainConfig,
    world: World,
    scales: tuple[float, ...],
    metric: str = "CER",
) -> Validation:
    """Goes through this process's share of the part; the result is that of all processes.

    The first ``config.valid_cer_batches`` are decoded greedily.

    Args:
      scales: weights of LOSSES.
      metric: the error rate of the corpus; "WER" counts characters, too.
    """
    metrics = metrics_for(metric)
    training = model.training
    model.eval()
    searcher = make_searcher(model, "greedy_search")
    chunk, left = validation_chunk(model)
    size = len(LOSSES) + 1 + 2 * len(metrics)  # losses, frames, errors and reference units by metric
    sums = torch.zeros(size, dtype=torch.float64, device=world.device)
    samples: list[tuple[str, str, str]] = []
    for index, batch in enumerate(batches):
        features = batch["features"].to(world.device, non_blocking=True)
        encoded = model.encoder(features, batch["lengths"], chunk_size=chunk, left_context_frames=left)
        loss = model.loss(
            encoded.frames,
            encoded.lengths,
            batch["tokens"],
            config.prune_range,
            config.am_scale,
            config.lm_scale,
            config.loss_engine,
        )
        sums[: len(LOSSES) + 1] += torch.stack([part.sum() for part in loss]).double()
        if index < config.valid_cer_batches:
            found = searcher(encoded.frames, encoded.lengths)
            for cut_id, text, (best, *_) in zip(batch["cut_ids"], batch["texts"], found):
                hypothesis = tokenizer.decode(best.tokens)
                for place, kind in enumerate(metrics):
                    counts = count_errors(text, hypothesis, kind)
                    sums[len(LOSSES) + 1 + 2 * place] += counts.errors
                    sums[len(LOSSES) + 2 + 2 * place] += counts.ref
                if len(samples) < NUM_SAMPLES:
                    samples.append((cut_id, text, hypothesis))
    model.train(training)
    numbers = world.sum(sums).tolist()
    parts = [part / max(numbers[len(LOSSES)], 1.0) for part in numbers[: len(LOSSES)]]
    counted = numbers[len(LOSSES) + 1 :]
    in_use = config.losses_in_use()
    return Validation(
        sum(scale * part for scale, part in zip(scales, parts)),
        {name: part for name, part in zip(LOSSES, parts) if name in in_use},
        {kind: 100.0 * errors / units for kind, errors, units in zip(metrics, counted[::2], counted[1::2]) if units},
        samples,
    )
