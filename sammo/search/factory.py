"""One place that makes a search from options."""

from __future__ import annotations

from sammo.errors import UserError
from sammo.options import METHODS
from sammo.search.base import Model, Searcher
from sammo.search.beam import ModifiedBeamSearch
from sammo.search.context_graph import ContextGraph
from sammo.search.fast_beam import FastBeamSearch
from sammo.search.greedy import GreedySearch
from sammo.search.lm import LanguageModel


def make_searcher(
    model: Model,
    method: str = "greedy_search",
    beam_size: int = 4,
    *,
    blank_penalty: float = 0.0,
    temperature: float = 1.0,
    context_graph: ContextGraph | None = None,
    lm: LanguageModel | None = None,
    lm_scale: float = 0.0,
    beam: float = 20.0,
    max_states: int = 64,
    max_contexts: int = 8,
) -> Searcher:
    """Make a search over a transducer's encoder output.

    Args:
      model: a transducer; the search runs where the joiner's weights are, in the model's own dtype.
      method: one of :data:`METHODS`.
      beam_size: hypotheses per frame of modified_beam_search.
      blank_penalty: subtracted from the blank's logit; above 0, more symbols and fewer deletions.
      temperature: divides the logits; greedy search's choices do not depend on it, its score does.
      context_graph: hotwords, modified_beam_search only.
      lm, lm_scale: shallow fusion, modified_beam_search only.
      beam, max_states, max_contexts: limits of fast_beam_search.

    Raises:
      UserError: unknown method, an option that the method does not have, k2 missing.
    """
    if method not in METHODS:
        raise UserError(f"unknown decoding method {method!r}: choose from {', '.join(METHODS)}")
    if method != "modified_beam_search" and (context_graph is not None or lm is not None):
        raise UserError(f"hotwords and language models need --decoding-method modified_beam_search, not {method}")
    if method == "modified_beam_search":
        return ModifiedBeamSearch(model, beam_size, blank_penalty, temperature, context_graph, lm, lm_scale)
    if method == "fast_beam_search":
        return FastBeamSearch(model, beam, max_states, max_contexts, blank_penalty, temperature)
    return GreedySearch(model, blank_penalty, temperature)
