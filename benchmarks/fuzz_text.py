"""Families of benchmarks/fuzz.py that are text: language models and tables of recordings, descriptions of corpora."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Callable

from fuzz_families import ODD, Family, mutate, odd_json

from sammo.corpora import AN4, MARKER, Corpus, find_corpus, own_corpus, write_marker
from sammo.data.tokens import BLANK, SOS_EOS, UNKNOWN
from sammo.lm import NgramLM
from sammo.lm.estimate import write_witten_bell
from sammo.lm.ngram import perplexity
from sammo.preparation.recordings import find_utterances

PIECES = [BLANK, *"あいうえお", UNKNOWN, SOS_EOS]
WORDS = (
    "nan",
    "-inf",
    "inf",
    "1e400",
    "-1e400",
    "0.5",
    "-99",
    "1_0",
    "0x1",
    "٣",
    "",
    "9" * 400,
    "<unk>",
    "</s>",
    "ngram 3=9",
)


def odd_line(lines: list[str], rng: random.Random) -> list[str]:
    """Lines lost, doubled, exchanged, or with another word in one."""
    lines = list(lines)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        kind = rng.randrange(4)
        if kind == 0:
            lines[at] = ""
        elif kind == 1:
            lines.insert(at, lines[other])
        elif kind == 2:
            lines[at], lines[other] = lines[other], lines[at]
        else:
            words = lines[at].split("\t")
            words[rng.randrange(len(words))] = rng.choice(WORDS)
            lines[at] = "\t".join(words)
    return lines


class LanguageModels(Family):
    """ARPA files: what is accepted gives log-probabilities, and what says the same gives the same ones."""

    def __init__(self, directory: Path):
        super().__init__(directory)
        path = directory / "seed.arpa"
        write_witten_bell(path, ["あいう", "あい", "うえお", "いう"], PIECES[1:6], 3)
        self.content = path.read_bytes()
        self.sentences = [[1, 2, 3, 3], [5, 4], [6, 1, 2]]

    def case(self, directory: Path, rng: random.Random) -> str | None:
        path = directory / "case.arpa"
        if rng.random() < 0.5:
            path.write_bytes(mutate(self.content, rng))
        else:
            path.write_text("\n".join(odd_line(self.content.decode().split("\n"), rng)), encoding="utf-8")
        lm = NgramLM(path, PIECES, PIECES.index(UNKNOWN))
        found = perplexity(lm, self.sentences)
        if not found >= 1.0:
            return f"a perplexity of {found}"
        return None


class Tables(Family):
    """Tables of recordings: whatever ids they give, no file's name leads out of a directory."""

    def __init__(self, directory: Path):
        super().__init__(directory)
        rows = [
            {"path": f"{name}.wav", "text": "あいう", "speaker": "x", "part": "train"} for name in ("a", "b/c", "d e")
        ]
        for row in rows:
            (directory / row["path"]).parent.mkdir(exist_ok=True)
            (directory / row["path"]).touch()
        names = list(rows[0])
        lines = [names, *([row[name] for name in names] for row in rows)]
        self.seeds = {
            "jsonl": [json.dumps(row) for row in rows],
            "tsv": ["\t".join(line) for line in lines],
            "csv": [",".join(line) for line in lines],
        }

    def case(self, directory: Path, rng: random.Random) -> str | None:
        kind = rng.choice(sorted(self.seeds))
        lines, path = self.seeds[kind], directory / f"case.{kind}"
        if rng.random() < 0.4:
            path.write_bytes(mutate("\n".join(lines).encode(), rng))
        elif kind == "jsonl":
            path.write_text("\n".join(json.dumps(odd_json(json.loads(line), rng)) for line in lines))
        else:
            cells = [str(odd) for odd in ODD if isinstance(odd, (str, float))]
            separator = {"tsv": "\t", "csv": ","}[kind]
            row = [rng.choice([*cells, '"', "a.wav"]) for _ in range(rng.choice((1, 4, 4, 9)))]
            path.write_bytes("\n".join([*lines, separator.join(row)]).encode("utf-8", "replace"))
        utterances, unusable = find_utterances(path)
        for utterance in utterances:
            way = Path(utterance.id)
            if way.is_absolute() or ".." in way.parts or not utterance.id.isprintable() or not utterance.text.strip():
                return f"{utterance}"
        return None if all(item.reason for item in unusable) else "left out without a reason"


class Corpora(Family):
    """corpus.json of a manifest directory: what is accepted names words only, and is written as it was read."""

    def __init__(self, directory: Path):
        super().__init__(directory)
        self.path, self.seeds = directory / MARKER, []
        other = Corpus("other", ("a", "b"), "{part}.jsonl.gz", excluded=("c",), modes=("x", "y"), default_mode="y")
        for corpus in (own_corpus("mine", ["test"], True, "bpe"), other, AN4):
            write_marker(directory, corpus)
            self.seeds.append(self.path.read_bytes())

    def case(self, directory: Path, rng: random.Random) -> str | None:
        content = rng.choice(self.seeds)
        if rng.random() < 0.4:
            self.path.write_bytes(mutate(content, rng))
        elif rng.random() < 0.05:
            self.path.write_text("[" * 100_000)
        else:
            self.path.write_text(json.dumps(odd_json(json.loads(content), rng)))
        corpus = find_corpus(directory)
        words = [corpus.name, *corpus.parts, *corpus.modes, corpus.metric, corpus.unit]
        ways = {corpus.manifest_path(directory, part) for part in corpus.parts}
        if not all(word.isprintable() and word == word.strip() != "" for word in words):
            return f"{corpus}"
        if len(ways) < len(corpus.parts) or any(way.parent != directory for way in ways):
            return f"manifests {ways}"
        if corpus.default_mode not in ("", *corpus.modes):
            return f"a mode {corpus.default_mode!r} of {corpus.modes}"
        value = json.loads(self.path.read_bytes())["corpus"]
        if isinstance(value, dict) and any(json.loads(json.dumps(vars(corpus)[name])) != value[name] for name in value):
            return f"{value} became {corpus}"
        write_marker(directory, corpus)
        return None if find_corpus(directory) == corpus else "written otherwise"


TEXT_FAMILIES: dict[str, Callable[[Path], Family]] = {"lm": LanguageModels, "tables": Tables, "corpus": Corpora}
