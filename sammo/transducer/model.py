"""The whole model, and its training loss on a batch of utterances."""

from __future__ import annotations

from typing import NamedTuple, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sammo.encoder import build_encoder
from sammo.errors import UserError
from sammo.kernels.linear import Linear, half_weights
from sammo.transducer.config import ModelConfig
from sammo.transducer.joiner import Joiner, scaled_linear
from sammo.transducer.loss import least_range, prune, prune_ranges, pruned_loss, smoothed_loss
from sammo.transducer.predictor import Predictor


class TransducerLoss(NamedTuple):
    """Negative log-probabilities of each utterance's symbols; an utterance that cannot be aligned
    (no frames but symbols) has an infinite loss and no gradient."""

    simple: Tensor  # (N,) of the additive joiner that chooses what to prune
    pruned: Tensor  # (N,) of the real joiner, on what was not pruned
    ctc: Tensor  # (N,) CTC of the encoder's frames alone; zeros where the model has no layer for it
    frames: Tensor  # (N,) encoder frames


def pad_tokens(tokens: Sequence[Sequence[int]], blank_id: int = 0) -> Tensor:
    """Lists of symbols, none of which is blank -> (N, S) int64, filled up with blank; one where all are empty."""
    padded = pad_sequence([torch.tensor(row, dtype=torch.int64) for row in tokens], True, blank_id)
    return padded if padded.size(1) else F.pad(padded, (0, 1), value=blank_id)


class Transducer(nn.Module):
    """Encoder, predictor and joiner, trained with the pruned transducer loss.

    Kuang et al., "Pruned RNN-T for fast, memory-efficient ASR training" (Interspeech 2022): a
    joiner that only adds gives posteriors cheaply; around them the real joiner is computed for
    ``prune_range`` positions per frame.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder)
        vocab, dim, width = config.vocab_size, self.encoder.out_dim, config.predictor_dim
        self.predictor = Predictor(vocab, width, config.blank_id, config.context_size)
        self.joiner = Joiner(dim, width, config.joiner_dim, vocab)
        self.simple_am_proj = scaled_linear(dim, vocab, scale=0.25)
        self.simple_lm_proj = scaled_linear(width, vocab, scale=0.25)
        if config.use_ctc:
            self.ctc_output = Linear(dim, vocab)

    def forward(
        self,
        features: Tensor,
        lengths: Tensor,
        tokens: Tensor,
        *,
        prune_range: int = 5,
        am_scale: float = 0.0,
        lm_scale: float = 0.25,
        chunk_size: int | None = None,
        left_context_frames: int | None = None,
        loss_engine: str = "auto",
    ) -> TransducerLoss:
        """The losses of each utterance, not reduced.

        Args:
          features: (N, T, 80) at 100 Hz.
          lengths: (N,) valid feature frames; on the CPU wherever the features are, if nothing shall wait for a GPU.
          tokens: (N, S) symbols, each utterance's filled up with blank, see :func:`pad_tokens`; where lengths are.
          prune_range: positions per frame for which the real joiner is computed. Raised for the
            batch where an utterance has so many symbols per frame that no path would survive.
          am_scale, lm_scale: shares of the acoustic-only and of the label-only loss in the simple loss.
          chunk_size, left_context_frames: see the encoder.
          loss_engine: "auto", "k2", "triton" or "native".
        """
        if len(tokens) != features.shape[0]:
            raise UserError(f"tokens of {len(tokens)} utterances for a batch of {features.shape[0]}")
        with half_weights(self):
            encoded = self.encoder(features, lengths, chunk_size=chunk_size, left_context_frames=left_context_frames)
            return self.loss(encoded.frames, encoded.lengths, tokens, prune_range, am_scale, lm_scale, loss_engine)

    def loss(
        self,
        frames: Tensor,
        lengths: Tensor,
        tokens: Tensor,
        prune_range: int = 5,
        am_scale: float = 0.0,
        lm_scale: float = 0.25,
        engine: str = "auto",
    ) -> TransducerLoss:
        """The losses from the encoder's output: frames (N, T, C), lengths (N,)."""
        blank = self.config.blank_id
        counts = (tokens != blank).sum(dim=1)
        least = least_range(counts.tolist(), lengths.tolist())
        symbols, boundary = _targets(tokens, counts, lengths, frames.device)
        contexts = torch.cat([symbols.new_full((len(tokens), 1), blank), symbols], dim=1)
        predicted = self.predictor(contexts)

        simple, occupation = smoothed_loss(
            self.simple_lm_proj(predicted),
            self.simple_am_proj(frames),
            symbols,
            boundary,
            blank_id=blank,
            lm_scale=lm_scale,
            am_scale=am_scale,
            engine=engine,
        )
        ranges = prune_ranges(*occupation, boundary, prune_range, least)
        enc, pred = prune(self.joiner.encoder_proj(frames), self.joiner.predictor_proj(predicted), ranges)
        logits = self.joiner(enc, pred, project=False)
        # Nothing else reads these logits, so that their gradient may take their place.
        pruned = pruned_loss(logits, symbols, ranges, boundary, blank_id=blank, engine=engine, overwrite_logits=True)
        ctc = self._ctc(frames, lengths, symbols, counts) if self.config.use_ctc else torch.zeros_like(pruned)
        return TransducerLoss(simple, pruned, ctc, boundary[:, 3])

    def _ctc(self, frames: Tensor, lengths: Tensor, symbols: Tensor, counts: Tensor) -> Tensor:
        """(N,) CTC loss (Graves et al., ICML 2006); 0 for an utterance with too few frames for its repeated symbols."""
        log_probs = self.ctc_output(frames).transpose(0, 1).log_softmax(dim=-1, dtype=torch.float32)
        return F.ctc_loss(
            log_probs,
            symbols,
            lengths,
            counts,
            self.config.blank_id,
            reduction="none",
            zero_infinity=True,
        )


def _targets(tokens: Tensor, counts: Tensor, lengths: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Symbols (N, S) and the boundary (N, 4) of each utterance's lattice, on ``device``."""
    begin = torch.zeros_like(counts)
    boundary = torch.stack([begin, begin, counts, lengths], dim=1)
    return tokens.to(device, non_blocking=True), boundary.to(device, non_blocking=True)
