"""``python -m sammo.corpora WHAT [NAME | MANIFEST_DIR]`` for shell scripts: a corpus's parts, tests, unit, ..., in a line."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from sammo.corpora import CORPORA, Corpus, find_corpus
from sammo.errors import UserError, run_main

WHAT = ("parts", *(item.name for item in dataclasses.fields(Corpus)))


def main() -> None:
    what, where = (*sys.argv[1:], "", "")[:2]
    if what not in WHAT:
        raise UserError(f"python -m sammo.corpora WHAT [NAME | MANIFEST_DIR]: WHAT is one of {', '.join(WHAT)}")
    corpus = CORPORA.get(where) or find_corpus(Path(where or "data/fbank"))
    value = getattr(corpus, what)
    print(value if isinstance(value, str) else " ".join(value))


if __name__ == "__main__":
    run_main(main)
