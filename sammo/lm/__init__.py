"""N-gram language models over output units: estimated from text, kept as ARPA files, searched with as tensors."""

from sammo.lm.arpa import file_digest
from sammo.lm.estimate import write_witten_bell
from sammo.lm.ngram import NgramLM, perplexity

__all__ = ["NgramLM", "file_digest", "perplexity", "write_witten_bell"]
