"""Transducer search: greedy, modified beam search and, with k2, fast beam search."""

from sammo.search.base import Hypothesis, Searcher, SearchState
from sammo.search.context_graph import ContextGraph
from sammo.search.factory import METHODS, make_searcher
from sammo.search.hotwords import hotwords_digest, read_hotwords
from sammo.search.lm import LanguageModel

__all__ = [
    "METHODS",
    "ContextGraph",
    "Hypothesis",
    "LanguageModel",
    "SearchState",
    "Searcher",
    "hotwords_digest",
    "make_searcher",
    "read_hotwords",
]
