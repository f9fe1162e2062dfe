"""CSJ directories and mode files that cannot be used: one clear line each, before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from add_transcript_mode import add_modes  # noqa: E402
from check_csj import check_corpus  # noqa: E402
from fixtures.csj import make_csj, make_musan, sdb_line
from fixtures.paths import ROOT
from lhotse import CutSet, Recording
from lhotse.cut import MonoCut
from prepare_csj_manifests import prepare  # noqa: E402
from prepare_musan_manifests import prepare as prepare_musan  # noqa: E402
from transcript_modes import read_mode, read_modes  # noqa: E402

from sammo.errors import UserError
from sammo.preparation.features import compute_features, divide
from sammo.preparation.validation import validate


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return make_csj(tmp_path_factory.mktemp("csj"))


@pytest.fixture
def csj(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "csj"))


def refused(csj_dir: Path) -> str:
    """The error line, after making sure that nothing was written."""
    with pytest.raises(UserError) as error:
        prepare(csj_dir, csj_dir.parent / "transcript", csj_dir.parent / "manifests", nj=1)
    assert not (csj_dir.parent / "transcript").exists()
    assert not list((csj_dir.parent / "manifests").glob("*"))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_whole_corpus_passes(whole):
    assert check_corpus(whole) == 79


def test_no_directory(tmp_path):
    assert "no CSJ directory" in refused(tmp_path / "csj")


def test_no_volume(csj):
    shutil.rmtree(csj / "MORPH/SDB/core")
    assert "is incomplete: no MORPH/SDB/core" in refused(csj)


def test_missing_ids(csj):
    for name in ("A01M0110", "S11M1174"):
        (csj / f"MORPH/SDB/noncore/{name}.sdb").unlink()
    message = refused(csj)
    assert "2 of the 75 ids" in message and "A01M0110" in message and "S11M1174" in message


def test_missing_audio(csj):
    (csj / "WAV/core/D01F0300-R.wav").unlink()
    assert "1 audio files are missing: WAV/core/D01F0300-R.wav" in refused(csj)


def test_nothing_to_train_on(csj):
    for path in (csj / "MORPH/SDB").glob("*/*.sdb"):
        if path.stem in ("A01F0200", "D01F0300", "S00F0400", "A02M0500"):
            path.unlink()
    assert "nothing to train on" in refused(csj)


def change(csj_dir: Path, line: bytes) -> None:
    """Puts ``line`` in place of the third line of a talk."""
    path = csj_dir / "MORPH/SDB/core/A01F0200.sdb"
    lines = path.read_bytes().split(b"\r\n")
    lines[2] = line
    path.write_bytes(b"\r\n".join(lines))


@pytest.mark.parametrize(
    "line, message",
    [
        (b"x\t\x81\xff\xff", "A01F0200.sdb, line 3: not Shift-JIS"),
        (b"x\tx\tA01F0200", "A01F0200.sdb, line 3: 3 columns"),
        (sdb_line("A01F0200", 1, 0.2, 1.7, "(Z_話)").encode("shift_jis"), "line 3: unknown tag 'Z' in '(Z_話)'"),
        (sdb_line("A01F0200", 1, 0.2, 1.7, "話").replace("-", "~", 1).encode("shift_jis"), "line 3: column 4 is"),
        (sdb_line("", 1, 0.2, 1.7, "話").encode("shift_jis"), r"line 3: column 3 (speaker id) is empty"),
    ],
)
def test_broken_transcripts_name_file_and_line(csj, line, message):
    change(csj, line)
    assert message in refused(csj)


def test_all_known_tags_pass(csj):
    words = ["(F_<H>え)", "(D2_が)", "(?_字,時)", "(M_(F_え))", "(A_二;２)", "(笑_(W_コ;(?_これ)))", "(L_え)"]
    change(csj, "\r\n".join(sdb_line("A01F0200", 1, 0.2, 1.7, word) for word in words).encode("shift_jis"))
    assert check_corpus(csj) == 79


def test_damaged_audio_file(csj):
    (csj / "WAV/noncore/A01M0110.wav").write_bytes(b"RIFF but no audio")
    with pytest.raises(UserError, match="lhotse prepare csj cannot read"):
        prepare(csj, csj.parent / "transcript", csj.parent / "manifests", nj=1)
    assert not list((csj.parent / "manifests").glob("csj_*"))
    shutil.copy(csj / "WAV/noncore/A01M0137.wav", csj / "WAV/noncore/A01M0110.wav")
    prepare(csj, csj.parent / "transcript", csj.parent / "manifests", nj=1)  # the half-sorted transcripts do not matter
    assert (csj.parent / "manifests/csj_supervisions_eval1.jsonl.gz").is_file()


def test_musan(tmp_path):
    musan = make_musan(tmp_path / "musan")
    prepare_musan(musan, tmp_path / "manifests")
    assert (tmp_path / "manifests/musan_recordings_noise.jsonl.gz").is_file()
    shutil.rmtree(musan / "noise")
    with pytest.raises(UserError, match=r"no noise/\*\*/\*.wav"):
        prepare_musan(musan, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def mode_file(path: Path, old: str, new: str) -> Path:
    text = (ROOT / "local/conf/fluent.ini").read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("F = 1", "F = eval:choices[0], choices_tag[0]", "is code"),
        ("F = 1", "F = exec:ret = 1", "is code"),
        ("F = 1", 'F = " EXEC:ret = 1"', "only 0 and 1 are allowed"),
        ("F = 1", "F = 2", "only 0 and 1 are allowed"),
        ("F = 1", "", "no decision for tag 'F'"),
        ("F = 1", "F = 1\nZ = 1", "unknown tag 'Z'"),
        ("F = 1", "F = 1\nF = 0", r"expected \[CONSTANTS\] MODE"),
        ("MODE = fluent", "", r"expected \[CONSTANTS\] MODE"),
        ("MODE = fluent", "MODE = raw", "MODE must be one word"),
    ],
)
def test_mode_files(tmp_path, old, new, message):
    with pytest.raises(UserError, match=message) as error:
        read_mode(mode_file(tmp_path / "x.ini", old, new))
    assert "x.ini" in str(error.value) and "\n" not in str(error.value)


def test_modes_of_the_recipe():
    modes = read_modes(sorted((ROOT / "local/conf").glob("*.ini")))
    assert sorted(modes) == ["disfluent", "fluent", "number"]
    with pytest.raises(UserError, match="mode fluent is defined twice"):
        read_modes([ROOT / "local/conf/fluent.ini"] * 2)
    with pytest.raises(UserError, match="no transcript-mode file"):
        read_mode(ROOT / "local/conf/absent.ini")


@pytest.fixture
def recordings(tmp_path) -> list[MonoCut]:
    cuts = []
    for index in range(4):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, np.random.default_rng(index).normal(0, 0.1, 16000 * 2), 16000)
        recording = Recording.from_file(path, recording_id=str(index))
        cuts.append(MonoCut(id=f"cut{index}", start=0.0, duration=2.0, channel=0, recording=recording))
    return cuts


def test_features_of_damaged_audio(recordings, tmp_path):
    (tmp_path / "2.wav").write_bytes(b"nothing")
    with pytest.raises(UserError, match="the audio of cut cut2 .*2.wav.* cannot be read"):
        compute_features(recordings, tmp_path / "feats", 1, "test")
    assert not list((tmp_path / "feats").glob("*.jsonl.gz"))


def test_features_of_other_cuts_are_made_again(recordings, tmp_path):
    first = compute_features(recordings[:2], tmp_path / "feats", 1, "test")[0].load_features()
    again = compute_features(recordings[2:], tmp_path / "feats", 1, "test")
    assert [cut.id for cut in again] == ["cut2", "cut3"]
    assert not np.array_equal(first, again[0].load_features())


def test_pieces_are_of_equal_size_and_whole():
    cuts = [MonoCut(id=str(i), start=0.0, duration=10.0, channel=0) for i in range(1000)]
    pieces = divide(cuts)
    assert [cut.id for piece in pieces for cut in piece] == [cut.id for cut in cuts]
    assert 28 <= len(pieces) <= 36


def test_validation_finds_what_is_wrong(recordings, tmp_path):
    done = compute_features(recordings, tmp_path / "feats", 1, "test")
    CutSet(done).to_file(tmp_path / "musan_cuts.jsonl.gz")
    assert "4 cuts" in validate(tmp_path / "musan_cuts.jsonl.gz", None, "fluent")
    CutSet(done).to_file(tmp_path / "csj_cuts_x.jsonl.gz")
    with pytest.raises(UserError, match="cut cut0: 0 supervisions, expected 1"):
        validate(tmp_path / "csj_cuts_x.jsonl.gz", None, "fluent")
    archive = tmp_path / "feats/00000.lca"
    archive.write_bytes(archive.read_bytes()[:-10])
    with pytest.raises(UserError, match="cut cut3: its features are missing"):
        validate(tmp_path / "musan_cuts.jsonl.gz", None, "fluent")


def test_a_transcript_that_the_parser_refuses(recordings, tmp_path):
    from lhotse import SupervisionSegment

    segment = SupervisionSegment("s", "0", 0.0, 2.0, custom={"raw": "(Z_話)+名詞+カナ"})
    recordings[0].supervisions = [segment]
    path = tmp_path / "cuts.jsonl.gz"
    CutSet(recordings[:1]).to_file(path)
    before = path.read_bytes()
    message = add_modes(path, read_modes([ROOT / "local/conf/fluent.ini"]))
    assert "transcript of cut0 in mode fluent: NotImplementedError: Unknown tag Z" in message
    assert path.read_bytes() == before


class Shuffled:
    """What os.scandir returns, in another order."""

    def __init__(self, entries):
        self.entries = iter(entries)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.entries)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return None

    close = __exit__


def test_the_order_of_the_file_system_does_not_matter(csj, tmp_path, monkeypatch):
    """Directory listings in another order: the same manifests and units, byte for byte."""
    import os
    import random

    from compute_fbank_csj import PARTS, utterances

    from sammo.corpora import CSJ
    from sammo.preparation.features import store_part

    make_musan(tmp_path / "musan")
    scandir, listdir = os.scandir, os.listdir
    found = []
    for seed in (None, 1):
        with monkeypatch.context() as patch:
            if seed is not None:
                shuffle = random.Random(seed).sample
                mixed = lambda items: shuffle(items, len(items))  # noqa: E731
                patch.setattr(
                    os, "scandir", lambda path=".": Shuffled(mixed(sorted(scandir(path), key=lambda e: e.name)))
                )
                patch.setattr(os, "listdir", lambda path=".": mixed(sorted(listdir(path))))
            work = tmp_path / "work"
            manifests, fbank = work / "manifests", work / "fbank"
            prepare(csj, work / "transcript", manifests, nj=1)
            prepare_musan(tmp_path / "musan", manifests)
            fbank.mkdir()
            for part in ("valid", "train"):
                store_part(CSJ, part, utterances(manifests, PARTS[part]), fbank, 1)
        files = [path for path in sorted(work.rglob("*")) if path.is_file()]
        found.append({str(path.relative_to(work)): path.read_bytes() for path in files})
        shutil.rmtree(work)
    assert len(found[0]) > 20
    for other in found[1:]:
        assert [name for name in found[0] if found[0][name] != other.get(name)] == [] and other.keys() == found[
            0
        ].keys()
