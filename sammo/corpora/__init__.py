"""A corpus is a value: its parts, manifests, transcripts and error rate, which code asks for instead of knowing."""

from sammo.corpora.corpus import (
    AN4,
    CORPORA,
    CSJ,
    MARKER,
    Corpus,
    corpus_named,
    find_corpus,
    from_json,
    own_corpus,
    write_marker,
)

__all__ = [
    "AN4",
    "CORPORA",
    "CSJ",
    "MARKER",
    "Corpus",
    "corpus_named",
    "find_corpus",
    "from_json",
    "own_corpus",
    "write_marker",
]
