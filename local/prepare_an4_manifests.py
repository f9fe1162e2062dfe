#!/usr/bin/env python3
"""Turns CMU's AN4 database as it is distributed into WAV files and manifests of utterances, without features.

Reads etc/an4_{train,test}.{fileids,transcription} and, for each id, wav/ID.raw (16 kHz, 16 bit, no header, either byte
order: the samples tell which) or wav/ID.sph. Some speakers of the training list become the part valid.

Usage: local/prepare_an4_manifests.py --an4-dir DIR --wav-dir DIR --manifest-dir DIR [--byte-order auto|big|little]
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pcm import Pcm, byte_order, read_raw, read_sphere, some, write_wav

from sammo.corpora import AN4
from sammo.data.frames import SAMPLING_RATE
from sammo.data.manifests import write_cuts
from sammo.errors import UserError, run_main
from sammo.progress import progress

if TYPE_CHECKING:
    from lhotse.cut import MonoCut

LISTS = ("train", "test")
LAST_PARENTHESIS = re.compile(r"^(.*)\(([^()\s]+)\)\s*$")
TAG = re.compile(r"<[^<>\s]*>")


class Utterance(NamedTuple):
    """One line of a list; ``audio`` is a .raw or .sph file."""

    id: str
    speaker: str
    text: str
    audio: Path


def read_list(an4_dir: Path, name: str) -> list[Utterance]:
    """The utterances of etc/an4_NAME.*, sorted by id; UserError for absent files, audio and transcripts."""
    texts = read_transcripts(an4_dir / "etc" / f"an4_{name}.transcription")
    found: dict[str, Utterance] = {}
    silent, untold = [], []
    for fileid in read_text(an4_dir / "etc" / f"an4_{name}.fileids").split():
        path = Path(fileid)
        audio = next((file for end in (".raw", ".sph") if (file := an4_dir / "wav" / (fileid + end)).is_file()), None)
        if path.name in found:
            raise UserError(f"etc/an4_{name}.fileids in {an4_dir}: the id {path.name} occurs twice")
        if audio is None:
            silent.append(fileid)
        elif path.name not in texts:
            untold.append(fileid)
        else:
            found[path.name] = Utterance(path.name, path.parent.name, texts[path.name], audio)
    if silent:
        raise UserError(
            f"AN4 directory {an4_dir}: {len(silent)} audio files wav/ID.raw or .sph are missing: {some(silent)}"
        )
    if untold:
        raise UserError(f"AN4 directory {an4_dir}: no line in etc/an4_{name}.transcription for {some(untold)}")
    if not found:
        raise UserError(f"AN4 directory {an4_dir}: etc/an4_{name}.fileids is empty")
    return [found[key] for key in sorted(found)]


def read_transcripts(path: Path) -> dict[str, str]:
    """Texts by id from lines "<s> TEXT </s> (id)"; tags are left out, letters are made upper case."""
    texts = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        match = LAST_PARENTHESIS.match(line)
        if match is None:
            raise UserError(f"{path}, line {number}: expected 'TEXT (id)', found {line!r}")
        texts[match.group(2)] = " ".join(TAG.sub(" ", match.group(1)).upper().split())
    return texts


def read_text(path: Path) -> str:
    """The content of one of the lists; UserError where it is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start})") from error


def check_layout(an4_dir: Path) -> None:
    """UserError with what ``an4_dir`` lacks."""
    hint = "--an4-dir is the directory that holds etc and wav"
    if not an4_dir.is_dir():
        raise UserError(f"no AN4 directory {an4_dir}; {hint}")
    wanted = [f"etc/an4_{name}.{kind}" for name in LISTS for kind in ("fileids", "transcription")]
    missing = [name for name in wanted if not (an4_dir / name).is_file()]
    if not (an4_dir / "wav").is_dir():
        missing.append("wav")
    if missing:
        raise UserError(f"AN4 directory {an4_dir} is incomplete: no {', '.join(missing)}; {hint}")


def person(speaker: str) -> str:
    """Whose voice a speaker's directory holds: mdcs and mdcs2 are taken to be the same one's."""
    return speaker.rstrip("0123456789")


def hold_out(utterances: list[Utterance], speakers: int) -> tuple[list[Utterance], list[Utterance]]:
    """(train, valid): evenly spaced ``speakers`` of the sorted list are held out.

    Their names begin with f and m, so that both parts get women and men in proportion.
    """
    groups = defaultdict(list)
    for utterance in utterances:
        groups[person(utterance.speaker)].append(utterance)
    people = sorted(groups)
    if not 0 < speakers < len(people):
        raise UserError(f"--valid-speakers must be 1 to {len(people) - 1}, got {speakers}")
    held = {people[(2 * index + 1) * len(people) // (2 * speakers)] for index in range(speakers)}
    valid = [utterance for utterance in utterances if person(utterance.speaker) in held]
    return [utterance for utterance in utterances if person(utterance.speaker) not in held], valid


def convert(utterance: Utterance, wav_dir: Path, order: str) -> MonoCut:
    """Writes the WAV file of ``utterance`` and returns its cut; ``order`` is that of .raw files."""
    pcm = read_sphere(utterance.audio) if utterance.audio.suffix == ".sph" else read_raw(utterance.audio, order)
    if pcm.sampling_rate != SAMPLING_RATE:
        raise UserError(f"{utterance.audio} is sampled at {pcm.sampling_rate} Hz, expected {SAMPLING_RATE}")
    path = wav_dir / f"{utterance.id}.wav"
    write_wav(path, pcm)
    return make_cut(utterance, path, pcm)


def make_cut(utterance: Utterance, path: Path, pcm: Pcm) -> MonoCut:
    """The whole of ``path`` as a cut with one supervision."""
    from lhotse import Recording, SupervisionSegment
    from lhotse.audio import AudioSource
    from lhotse.cut import MonoCut

    duration = len(pcm.samples) / pcm.sampling_rate
    recording = Recording(
        id=utterance.id,
        sources=[AudioSource(type="file", channels=[0], source=str(path))],
        sampling_rate=pcm.sampling_rate,
        num_samples=len(pcm.samples),
        duration=duration,
    )
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0.0,
        duration=duration,
        text=utterance.text,
        language="English",
        speaker=utterance.speaker,
        gender={"f": "female", "m": "male"}.get(utterance.speaker[:1]),
    )
    return MonoCut(
        id=utterance.id, start=0.0, duration=duration, channel=0, recording=recording, supervisions=[supervision]
    )


def prepare(an4_dir: Path, wav_dir: Path, manifest_dir: Path, order: str = "auto", valid_speakers: int = 6) -> None:
    """Writes WAV files and an4_cuts_{train,valid,test}.jsonl.gz; raises UserError for what it cannot use."""
    check_layout(an4_dir)
    train, valid = hold_out(read_list(an4_dir, "train"), valid_speakers)
    parts = {AN4.train: train, AN4.valid: valid, "test": read_list(an4_dir, "test")}
    everything = [utterance for part in parts.values() for utterance in part]
    ids = {utterance.id for utterance in everything}
    if len(ids) < len(everything):
        raise UserError(f"AN4 directory {an4_dir}: an id is in both of etc/an4_train.fileids and etc/an4_test.fileids")
    raw = [utterance.audio for utterance in everything if utterance.audio.suffix == ".raw"]
    if raw and order == "auto":
        order = byte_order(raw)
        print(f"{len(raw)} files without header: {order}-endian, by their samples")
    wav_dir = wav_dir.resolve()
    for directory in (wav_dir, manifest_dir):
        directory.mkdir(parents=True, exist_ok=True)
    bar = iter(progress(everything, len(everything), "AN4 audio"))
    for part, utterances in parts.items():
        cuts = [convert(next(bar), wav_dir, order) for _ in utterances]
        write_cuts(AN4.manifest_path(manifest_dir, part), cuts)
        seconds = sum(cut.duration for cut in cuts)
        speakers = sorted({utterance.speaker for utterance in utterances})
        named = f" ({', '.join(speakers)})" if part == AN4.valid else ""
        print(f"{part}: {len(cuts)} utterances, {seconds / 60:.1f} minutes, {len(speakers)} speakers{named}")
    next(bar, None)  # lets the bar close


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--an4-dir", type=Path, required=True)
    parser.add_argument("--wav-dir", type=Path, required=True, help="Where the audio goes.")
    parser.add_argument("--manifest-dir", type=Path, required=True)
    parser.add_argument("--byte-order", choices=("auto", "big", "little"), default="auto", help="Of .raw files.")
    parser.add_argument("--valid-speakers", type=int, default=6, help="Speakers held out of training (default: 6).")
    args = parser.parse_args()
    prepare(args.an4_dir, args.wav_dir, args.manifest_dir, args.byte_order, args.valid_speakers)


if __name__ == "__main__":
    run_main(main)
