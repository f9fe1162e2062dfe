"""What the recipe has to know of a corpus, and the corpora that it knows."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable

from sammo.errors import UserError
from sammo.files import atomic_write, parse_json

MARKER = "corpus.json"  # in the manifest directory: {"corpus": NAME or the value}, written by the preparation
METRICS, UNITS = ("CER", "WER"), ("char", "bpe")
_NAME = re.compile(r"[\w+-][\w.+-]{0,99}")
_MANIFEST = re.compile(r"[\w.+-]*\{part\}[\w.+-]*")


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
        """The names in ``parts``, each once, "tests" standing for all test parts; UserError where there are none."""
        found = [name for part in parts for name in (self.tests if part == "tests" else (part,))]
        if not found:
            raise UserError(f"--parts names no part; {self.name} has {', '.join(self.parts)}")
        return list(dict.fromkeys(found))

    def manifest_path(self, manifest_dir: str | Path, part: str) -> Path:
        """The cut manifest of ``part``, or of a speed-perturbed copy such as "train_sp0.9"."""
        return Path(manifest_dir) / self.manifest.format(part=part)

    def to_json(self) -> str | dict[str, Any]:
        """The name of a corpus that every Sammo knows, or all of another one's value."""
        return self.name if CORPORA.get(self.name) == self else dataclasses.asdict(self)


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


def own_corpus(name: str, tests: Iterable[str], has_words: bool, unit: str) -> Corpus:
    """Recordings of one's own as ``sammo prepare`` writes them.

    Raises:
      UserError: a name that is none, because it would lead to files elsewhere for instance.
    """
    corpus = Corpus(name, tuple(tests), "cuts_{part}.jsonl.gz", unit=unit, metric="WER" if has_words else "CER")
    try:
        return from_json(dataclasses.asdict(corpus))
    except ValueError as error:
        raise UserError(f"corpus {name!r} with parts {', '.join(corpus.parts)}: {error}") from error


def corpus_named(name: str) -> Corpus:
    """The corpus called ``name``; UserError with the choices for a name that is not there."""
    if name not in CORPORA:
        raise UserError(f"unknown corpus {name!r}; it is one of {', '.join(CORPORA)}")
    return CORPORA[name]


def from_json(value: Any) -> Corpus:
    """The inverse of :meth:`Corpus.to_json`; ValueError for what is none."""
    if isinstance(value, str):
        try:
            return corpus_named(value)
        except UserError as error:
            raise ValueError(str(error)) from error
    lists = {item.name for item in dataclasses.fields(Corpus) if str(item.type).startswith("tuple")}
    names = {item.name for item in dataclasses.fields(Corpus)}
    if not isinstance(value, dict) or not {"name", "tests", "manifest"} <= value.keys() <= names:
        raise ValueError("it describes no corpus")
    if not all(isinstance(item, (list, tuple) if name in lists else str) for name, item in value.items()):
        raise ValueError("one of its values is text in place of a list, or no text")
    fields: dict[str, Any] = {name: tuple(item) if name in lists else item for name, item in value.items()}
    corpus = Corpus(**fields)
    if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in (corpus.name, *corpus.parts, *corpus.modes)):
        raise ValueError("its name or one of its parts or modes is no word")
    if len(set(corpus.parts)) < len(corpus.parts):
        raise ValueError("two of its parts have the same name")
    if corpus.default_mode not in ("", *corpus.modes):
        raise ValueError("its default mode is none of its modes")
    if corpus.metric not in METRICS or corpus.unit not in UNITS or not _MANIFEST.fullmatch(corpus.manifest):
        raise ValueError("its metric, unit or manifest is none")
    return corpus


def find_corpus(manifest_dir: str | Path, name: str | None = None) -> Corpus:
    """The corpus called ``name``, or without a name the one that ``manifest_dir`` was prepared from, or else CSJ."""
    marker = Path(manifest_dir) / MARKER
    if name in CORPORA:
        return CORPORA[name]
    if not os.path.lexists(marker):
        return corpus_named(name) if name else CSJ
    try:
        if not marker.is_file():
            raise OSError("it is no regular file")
        found = from_json(parse_json(marker.read_text(encoding="utf-8"))["corpus"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = repr(error) if isinstance(error, (KeyError, TypeError)) else error
        raise UserError(f"{marker} is damaged ({reason}); prepare the corpus again or pass --corpus") from error
    return found if not name or found.name == name else corpus_named(name)


def write_marker(manifest_dir: str | Path, corpus: Corpus) -> None:
    """Notes in ``manifest_dir`` that ``corpus`` was prepared into it."""
    with atomic_write(Path(manifest_dir) / MARKER) as file:
        json.dump({"corpus": corpus.to_json()}, file)
        file.write("\n")
