"""An n-gram model as an automaton in tensors: the contexts of all hypotheses are followed at once, on any device."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
from torch import Tensor

from sammo.errors import UserError
from sammo.lm.arpa import BEGIN, UNKNOWN, Grams, file_digest, read_arpa

LN10 = math.log(10.0)


class NgramLM:
    """A backoff model of output units; a :class:`sammo.search.LanguageModel`.

    P(w | h) is that of the n-gram hw where there is one, otherwise backoff(h) P(w | h without its oldest unit). Every
    n-gram is a node; node 0 is the empty context, and nodes are sorted by (node of the context, last unit), the lower
    orders first. A state is the node of the longest context that the model knows, int64.

    Args:
      path: an ARPA file, whose words are names of units.
      pieces: the names of the units by id.
      unknown: the id of the unknown unit. Units that the file lacks have its probability, or the lowest of all.

    Raises:
      UserError: no such file, no ARPA, a model of other units.
    """

    def __init__(self, path: Path, pieces: Sequence[str], unknown: int, device: torch.device | str = "cpu") -> None:
        begin = len(pieces)
        ids = {piece: index for index, piece in enumerate(pieces)}
        orders = read_arpa(path, {**ids, BEGIN: begin, UNKNOWN: unknown})
        if not set(orders[0].units[:, 0].tolist()) - {begin, unknown}:
            raise UserError(
                f"{path} has none of the {begin} units; a model of words or of other units is of no use here"
            )
        orders[0] = _of_all_units(orders[0], begin, unknown)
        self.digest = file_digest(path)
        self.width = begin + 1  # units and the beginning
        self.order = len(orders)
        try:
            arrays = self._nodes(orders)
        except ValueError as error:
            raise UserError(f"{path}: {error}; make it again, sammo ngram does") from error
        # All by node. keys: node of the context * width + last unit; after: the state after the n-gram.
        self.keys, self.links, self.after, self.log_probs, self.backoffs = (
            torch.from_numpy(array).to(device) for array in arrays
        )

    def _nodes(self, orders: list[Grams]) -> tuple[np.ndarray, ...]:
        keys, links = np.array([-1]), np.array([0])
        scores: list[np.ndarray] = [np.zeros((1, 2))]
        for n, grams in enumerate(orders, start=1):
            first = len(keys)
            context = np.zeros(len(grams.units), np.int64)
            for unit in grams.units[:, :-1].T:
                context, there = self._find(keys, context, unit)
                if not there.all():
                    raise ValueError(f"{(~there).sum()} {n}-grams continue one that is not there")
            found = context * self.width + grams.units[:, -1]
            order = np.argsort(found)
            if (np.diff(found[order]) == 0).any():
                raise ValueError(f"a {n}-gram is there twice")
            links = np.append(links, self._longest_suffix(keys, links, context[order], grams.units[order, -1]))
            keys = np.append(keys, found[order])
            scores.append(LN10 * np.stack([grams.log_probs, grams.backoffs], axis=1)[order])
        after = np.arange(len(keys))
        after[first:] = links[first:]  # n-grams of the highest order are no contexts
        log_probs, backoffs = np.concatenate(scores).T.copy()
        return keys, links, after, log_probs, backoffs

    def _find(self, keys: np.ndarray, context: np.ndarray, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nodes of the n-grams (context, unit), and which of them are there."""
        wanted = context * self.width + unit
        place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return place, keys[place] == wanted

    def _longest_suffix(self, keys: np.ndarray, links: np.ndarray, context: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """Nodes of the longest n-grams, among ``keys``, that (context, unit) ends with; 0 where there is none."""
        found = np.zeros_like(context)
        for _ in range(self.order):
            context = links[context]
            place, there = self._find(keys, context, unit)
            found = np.where((found == 0) & there, place, found)
        return found

    def start(self, device: torch.device) -> Tensor:
        """The state at the beginning of a sentence, (1,)."""
        return self.after[self.width : self.width + 1].to(device)  # after the unigram of the beginning, the last one

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(M,) tokens and states -> their natural-log probabilities (M,) float64, and the states after them."""
        log_probs = torch.zeros_like(state, dtype=torch.float64)
        following = torch.zeros_like(state)
        pending = torch.ones_like(state, dtype=torch.bool)
        for _ in range(self.order):  # the empty context has every unit
            wanted = state * self.width + tokens
            place = torch.searchsorted(self.keys, wanted).clamp_(max=len(self.keys) - 1)
            there = self.keys[place] == wanted
            log_probs += torch.where(there, self.log_probs[place], self.backoffs[state]) * pending
            following = torch.where(pending & there, self.after[place], following)
            pending &= ~there
            state = self.links[state]
        return log_probs, following

    def check(self, state: Tensor) -> None:
        """ValueError for states that are no nodes."""
        if not 0 <= int(state.min()) <= int(state.max()) < len(self.keys):
            raise ValueError("its hypotheses stand at n-grams that there are not")


def _of_all_units(unigrams: Grams, begin: int, unknown: int) -> Grams:
    """Unigrams of every unit and of the beginning."""
    units = unigrams.units[:, 0]
    rare = unigrams.log_probs[units == unknown] if unknown in units else unigrams.log_probs[units < begin].min()
    log_probs, backoffs = np.full(begin + 1, float(np.min(rare))), np.zeros(begin + 1)
    log_probs[units], backoffs[units] = unigrams.log_probs, unigrams.backoffs
    return Grams(np.arange(begin + 1)[:, None], log_probs, backoffs)


def perplexity(lm: NgramLM, sentences: Sequence[Sequence[int]]) -> float:
    """Of ``sentences`` of unit ids, a unit; the ends of sentences are not counted. Infinite beyond what a float holds."""
    total, count = 0.0, sum(map(len, sentences))
    going_on = sorted(sentences, key=len, reverse=True)
    state = lm.start(lm.keys.device).expand(len(going_on))
    for place in range(len(going_on[0]) if going_on else 0):
        rows = [sentence[place] for sentence in going_on if len(sentence) > place]
        log_probs, state = lm.step(torch.tensor(rows, device=state.device), state[: len(rows)])
        total += float(log_probs.sum())
    try:
        return math.exp(-total / max(count, 1))
    except OverflowError:
        return math.inf
