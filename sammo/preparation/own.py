"""What ``sammo prepare`` does: recordings and transcripts in, a corpus to train on out."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Sequence

from lhotse import Recording, SupervisionSegment
from lhotse.audio import AudioSource
from lhotse.cut import MonoCut

from sammo.corpora import MARKER, Corpus, own_corpus, write_marker
from sammo.data.frames import SAMPLING_RATE, num_frames
from sammo.data.tokens import load_tokenizer
from sammo.errors import UserError
from sammo.files import atomic_write
from sammo.geometry import OUTPUT_RATE, output_frames
from sammo.lock import locked
from sammo.preparation.audio import Checked, check_audio
from sammo.preparation.config import PrepareConfig
from sammo.preparation.features import store_part
from sammo.preparation.recordings import Unusable, Utterance, find_utterances
from sammo.preparation.statistics import write_statistics
from sammo.preparation.units import training_texts, write_byte_pairs, write_characters
from sammo.preparation.validation import validate

Recorded = tuple[Utterance, Checked]


def prepare(source: Path, config: PrepareConfig) -> tuple[Corpus, float]:
    """Makes the corpus of ``source``, a folder or a table, below ``config.out_dir``; returns it and its training hours.

    Raises:
      UserError: nothing there can be used, or too little to be divided into parts.
    """
    nj = config.nj or os.cpu_count() or 1
    with locked(config.out_dir):
        utterances, unusable = find_utterances(source)
        logging.info(f"{source}: {len(utterances)} recordings with transcripts")
        checked = check_audio(utterances, config.out_dir / "audio", nj)
        usable: list[Recorded] = []
        for utterance, found in zip(utterances, checked):
            reason = found.problem or _unusable(utterance, found.samples / SAMPLING_RATE, config)
            if reason:
                unusable.append(Unusable(str(utterance.path), reason))
            else:
                usable.append((utterance, found))
        _report(unusable, config.out_dir / "unusable.tsv")
        if not usable:
            raise UserError(f"none of the {len(utterances)} recordings in {source} can be used: see unusable.tsv")
        parts = divide(usable, config.valid_share, config.test_share)
        has_words = _has_words([utterance.text for utterance, _ in usable], config.words)
        tests = [name for name in parts if name not in ("train", "valid")]
        corpus = own_corpus(config.name, tests, has_words, config.lang_type)
        fbank = config.out_dir / "fbank"
        _write_parts(corpus, parts, fbank, nj, config.perturb_speed)
        lang = _write_units(corpus, fbank, config)
        for part in corpus.parts:
            validate(corpus.manifest_path(fbank, part), load_tokenizer(lang), "")
        write_marker(fbank, corpus)
        print(write_statistics(corpus, fbank, fbank, ""), end="")
    return corpus, sum(found.samples for _, found in parts[corpus.train]) / SAMPLING_RATE / 3600


def _unusable(utterance: Utterance, seconds: float, config: PrepareConfig) -> str:
    if seconds < config.min_seconds or output_frames(num_frames(seconds)) < 1:
        return f"it has {seconds:.2f} s, fewer than --min-seconds {config.min_seconds:g}"
    if seconds > config.max_seconds:
        return f"it has {seconds:.1f} s, more than --max-seconds {config.max_seconds:g}; cut it into utterances"
    characters = len("".join(utterance.text.split()))
    if characters > OUTPUT_RATE * seconds:
        return f"its transcript has {characters} characters for {seconds:.2f} s, more than can be said"
    return ""


def _report(unusable: Sequence[Unusable], path: Path) -> None:
    """Lists what is left out in ``path``, and says how much and where."""
    with atomic_write(path) as file:
        print("file\treason", file=file)
        for item in unusable:
            print(f"{item.path}\t{item.reason}".encode("utf-8", "backslashreplace").decode(), file=file)
    if unusable:
        logging.warning(f"{len(unusable)} files are left out, {path} says why; the first:")
        for item in unusable[:3]:
            logging.warning(f"  {item.path}: {item.reason}")


def _has_words(texts: Sequence[str], words: str) -> bool:
    """Whether spaces divide words; a transcript of a single word says nothing."""
    if words != "auto":
        return words == "true"
    telling = [text for text in texts if len(text) >= 10] or texts
    return 2 * sum(" " in text for text in telling) > len(telling)


def divide(recorded: Sequence[Recorded], valid_share: float, test_share: float) -> dict[str, list[Recorded]]:
    """Parts by name, train first: those that the table names, and valid and test out of the rest where it names none.

    Whole speakers are held out, chosen by a checksum of their names, so that the same recordings are always in the same
    part. Where there are too few speakers, single recordings are.

    Raises:
      UserError: too few recordings for three parts.
    """
    parts: dict[str, list[Recorded]] = {"train": [], "valid": []}
    for item in recorded:
        parts.setdefault(item[0].part or "train", []).append(item)
    wanted = [("valid", valid_share)] if not parts["valid"] else []
    wanted += [("test", test_share)] if len(parts) == 2 else []
    if not parts["train"]:
        raise UserError(f"no recording is in the part train; the table has {', '.join(sorted(parts))}")
    groups = _by_speaker(parts["train"])
    if len(groups) <= len(wanted):
        logging.warning(f"{len(groups)} speaker(s) in train are too few to hold some out: single recordings are")
        groups = {item[0].id: [item] for item in parts["train"]}
    if len(groups) <= len(wanted):
        raise UserError(f"{len(groups)} recordings are too few for the parts train, valid and test")
    total = sum(item[1].samples for item in parts["train"])
    order = sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest())
    for place, (part, share) in enumerate(wanted, start=1):
        sizes = {name: sum(item[1].samples for item in groups[name]) for name in order}
        held = _choose(sizes, share * total, most=len(order) - 1 - len(wanted[place:]))
        parts[part] = [item for name in held for item in groups[name]]
        order = [name for name in order if name not in held]
    parts["train"] = [item for name in order for item in groups[name]]
    return {name: sorted(items, key=lambda item: item[0].id) for name, items in parts.items()}


def _by_speaker(recorded: Sequence[Recorded]) -> dict[str, list[Recorded]]:
    """A recording without a speaker is one of its own."""
    groups: dict[str, list[Recorded]] = {}
    for item in recorded:
        groups.setdefault(item[0].speaker or item[0].id, []).append(item)
    return groups


def _choose(sizes: dict[str, int], wanted: float, most: int) -> list[str]:
    """At most ``most`` names, in their order, whose sizes come to about ``wanted``: none that would exceed it by half,
    unless all do."""
    chosen: list[str] = []
    for name, size in sizes.items():
        taken = sum(sizes[other] for other in chosen)
        if taken < wanted and taken + size <= 1.5 * wanted and len(chosen) < most:
            chosen.append(name)
    return chosen or [min(sizes, key=sizes.__getitem__)]


def _write_parts(corpus: Corpus, parts: dict[str, list[Recorded]], fbank: Path, nj: int, perturb_speed: bool) -> None:
    fbank.mkdir(parents=True, exist_ok=True)
    (fbank / MARKER).unlink(missing_ok=True)  # until all of the corpus is there
    for part, recorded in parts.items():
        _forget_changed(recorded, fbank, part)
        cuts = [_cut(*item) for item in recorded]
        store_part(corpus, part, cuts, fbank, nj, perturb_speed)
        speakers = Counter(utterance.speaker for utterance, _ in recorded)
        hours = sum(found.samples for _, found in recorded) / SAMPLING_RATE / 3600
        logging.info(f"{part}: {len(cuts)} utterances, {hours:.2f} h, {len(speakers)} speakers")


def _forget_changed(recorded: Sequence[Recorded], fbank: Path, part: str) -> None:
    """Removes features of earlier runs where one of the files is another now, though it may be as long as it was."""
    stamp = "".join(f"{found.path}\t{found.size}\t{found.modified}\n" for _, found in recorded)
    digest = hashlib.sha256(stamp.encode("utf-8", "surrogateescape")).hexdigest()
    path = fbank / f".{part}.sha256"
    if path.is_file() and path.read_text(encoding="ascii", errors="replace") == digest:
        return
    for features in fbank.glob(f"feats_{part}*"):
        shutil.rmtree(features)
    with atomic_write(path) as file:
        file.write(digest)


def _cut(utterance: Utterance, found: Checked) -> MonoCut:
    """The whole recording as a cut with one supervision."""
    duration = found.samples / SAMPLING_RATE
    recording = Recording(
        id=utterance.id,
        sources=[AudioSource(type="file", channels=[0], source=found.audio)],
        sampling_rate=SAMPLING_RATE,
        num_samples=found.samples,
        duration=duration,
    )
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0.0,
        duration=duration,
        text=utterance.text,
        speaker=utterance.speaker or None,
    )
    return MonoCut(
        id=utterance.id, start=0.0, duration=duration, channel=0, recording=recording, supervisions=[supervision]
    )


def _write_units(corpus: Corpus, fbank: Path, config: PrepareConfig) -> Path:
    texts = training_texts(corpus.manifest_path(fbank, corpus.train), "")
    if corpus.unit == "bpe":
        lang = config.out_dir / f"lang_bpe_{config.vocab_size}"
        units = write_byte_pairs(lang, texts, config.vocab_size, corpus.has_words)
    else:
        lang = config.out_dir / "lang_char"
        units = write_characters(lang, texts, corpus.has_words)
    logging.info(f"{lang}: {units} units")
    return lang
