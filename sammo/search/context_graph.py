"""Hotwords: an Aho-Corasick automaton over token ids that rewards given phrases.

The rewards are those of icefall's ContextGraph, as its modified beam search uses it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Sequence

from sammo.errors import UserError

ROOT = 0


class ContextGraph:
    """Rewards for token sequences that match a phrase, given token by token while a phrase may still match.

    A state is an integer, :data:`ROOT` at the start. What a partial match was given is taken back when
    it fails. Phrases may share prefixes; a shared token gives the largest of their scores, and as in
    icefall only phrases added later see such a raised score.

    Args:
      phrases: token ids of each phrase.
      context_score: reward of each token of a phrase.
      scores: own reward per token for each phrase; 0 means ``context_score``.

    Raises:
      UserError: a phrase without tokens, or another number of scores than of phrases.
    """

    def __init__(
        self,
        phrases: Sequence[Sequence[int]],
        context_score: float = 1.0,
        scores: Sequence[float] | None = None,
    ) -> None:
        if scores is not None and len(scores) != len(phrases):
            raise UserError(f"{len(phrases)} hotwords but {len(scores)} hotword scores: give one score for each")
        self.children: list[dict[int, int]] = [{}]
        self.token_score = [0.0]
        self.node_score = [0.0]  # rewards from the root to here
        self.output_score = [0.0]  # node scores of the phrases that end here
        self.is_end = [False]
        self.fail = [ROOT]
        self.output = [ROOT]  # the longest phrase that ends here as a proper suffix; ROOT for none
        for index, phrase in enumerate(phrases):
            if not phrase:
                raise UserError(f"hotword number {index + 1} has no tokens")
            self._add(phrase, (scores[index] if scores else 0.0) or context_score)
        self._link()
        self._steps: dict[tuple[int, int, bool], tuple[float, int]] = {}

    def _add(self, phrase: Sequence[int], score: float) -> None:
        node = ROOT
        for position, token in enumerate(phrase):
            child = self.children[node].get(token)
            if child is None:
                child = self.children[node][token] = len(self.children)
                self.children.append({})
                self.token_score.append(score)
                self.node_score.append(0.0)
                self.output_score.append(0.0)
                self.is_end.append(False)
                self.fail.append(ROOT)
                self.output.append(ROOT)
            self.token_score[child] = max(score, self.token_score[child])
            self.node_score[child] = self.node_score[node] + self.token_score[child]
            self.is_end[child] = self.is_end[child] or position == len(phrase) - 1
            self.output_score[child] = self.node_score[child] if self.is_end[child] else 0.0
            node = child

    def _link(self) -> None:
        """Fail and output arcs, breadth first."""
        queue = deque(self.children[ROOT].values())
        while queue:
            node = queue.popleft()
            for token, child in self.children[node].items():
                self.fail[child] = self._goto(self.fail[node], token)
                suffix = self.fail[child]
                self.output[child] = suffix if self.is_end[suffix] else self.output[suffix]
                self.output_score[child] += self.output_score[self.output[child]]
                queue.append(child)

    def _goto(self, node: int, token: int) -> int:
        while node != ROOT and token not in self.children[node]:
            node = self.fail[node]
        return self.children[node].get(token, ROOT)

    def step(self, state: int, token: int, strict: bool = False) -> tuple[float, int]:
        """Read one token.

        Args:
          state: where the automaton is.
          token: the next token.
          strict: True counts every phrase that ends here and goes on matching longer ones; False, as in beam search,
            counts the longest and starts anew.

        Returns:
          The reward, negative where a partial match fails, and the next state.
        """
        key = (state, token, strict)
        known = self._steps.get(key)
        if known is None:
            known = self._steps[key] = self._compute_step(state, token, strict)
        return known

    def _compute_step(self, state: int, token: int, strict: bool) -> tuple[float, int]:
        if token in self.children[state]:
            node = self.children[state][token]
            score = self.token_score[node]
        else:
            node = self._goto(self.fail[state], token)
            score = self.node_score[node] - self.node_score[state]
        if strict or self.output_score[node] == 0.0:
            return score + self.output_score[node], node
        matched = node if self.is_end[node] or self.output[node] == ROOT else self.output[node]
        return score + self.node_score[matched] - self.node_score[node], ROOT

    def digest(self) -> str:
        """Hex digits that are the same for graphs of the same states and rewards only."""
        return hashlib.sha256(repr((self.children, self.token_score, self.is_end)).encode()).hexdigest()[:16]

    def finalize(self, state: int) -> float:
        """What the end of an utterance adds: minus the reward that an incomplete phrase has been given."""
        return -self.node_score[state]
