"""What the recipe has to know of a corpus, and the corpora that it knows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable

from sammo.errors import UserError
from sammo.files import atomic_write

MARKER = "corpus.json"  # in the manifest directory: {"corpus": NAME}, written by prepare.sh


@dataclass(frozen=True)
class Corpus:
    """The parts of a corpus and how it is transcribed and scored.

    Attributes:
      train, valid, tests: names of the parts; results over ``tests`` are pooled in reports.
      excluded: parts that prepare.sh writes, too, and that no report pools.
      manifest: name of a part's cut manifest; ``{part}`` stands for the part.
      modes: custom fields of the supervisions that hold transcripts; none: the supervision's own text is the only one.
      default_mode: the mode to learn and to score with; "" is the supervision's own text.
      unit: the usual output units, "char" or "bpe".
      metric: "CER" or "WER", the error rate that tables show first. A corpus that is scored by words has spaces between
        them in its transcripts and among its units; in others white space means nothing.
    """

    name: str
    tests: tuple[str, ...]
    manifest: str
    train: str = "train"
    valid: str = "valid"
    excluded: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    default_mode: str = ""
    unit: str = "char"
    metric: str = "CER"

    @property
    def parts(self) -> tuple[str, ...]:
        """All parts, training first."""
        return (self.train, self.valid, *self.tests, *self.excluded)

    @property
    def has_words(self) -> bool:
        """Whether spaces divide its transcripts into words."""
        return self.metric == "WER"

    def chosen(self, parts: Iterable[str]) -> list[str]:
        """The names in ``parts``, "tests" standing for all test parts."""
        return [name for part in parts for name in (self.tests if part == "tests" else (part,))]

    def manifest_path(self, manifest_dir: str | Path, part: str) -> Path:
        """The cut manifest of ``part``, or of a speed-perturbed copy such as "train_sp0.9"."""
        return Path(manifest_dir) / self.manifest.format(part=part)


CSJ = Corpus(
    name="csj",
    tests=("eval1", "eval2", "eval3"),
    excluded=("excluded",),
    manifest="csj_cuts_{part}.jsonl.gz",
    modes=("fluent", "disfluent", "number"),
    default_mode="fluent",
)
AN4 = Corpus(name="an4", tests=("test",), manifest="an4_cuts_{part}.jsonl.gz", metric="WER")

CORPORA = {corpus.name: corpus for corpus in (CSJ, AN4)}


def corpus_named(name: str) -> Corpus:
    """The corpus called ``name``; UserError with the choices for a name that is not there."""
    if name not in CORPORA:
        raise UserError(f"unknown corpus {name!r}; it is one of {', '.join(CORPORA)}")
    return CORPORA[name]


def find_corpus(manifest_dir: str | Path, name: str | None = None) -> Corpus:
    """The corpus called ``name``, or without a name the one that ``manifest_dir`` was prepared from, or else CSJ."""
    marker = Path(manifest_dir) / MARKER
    if name:
        return corpus_named(name)
    if not marker.is_file():
        return CSJ
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))["corpus"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{marker} is damaged ({error!r}); run prepare.sh again or pass --corpus") from error
    try:
        return corpus_named(found)
    except UserError as error:
        raise UserError(f"{marker}: {error}") from error


def write_marker(manifest_dir: str | Path, corpus: Corpus) -> None:
    """Notes in ``manifest_dir`` that ``corpus`` was prepared into it."""
    with atomic_write(Path(manifest_dir) / MARKER) as file:
        json.dump({"corpus": corpus.name}, file)
        file.write("\n")
