"""mini-CSJ on disc: written by the script, read by lhotse's own recipes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from fixtures.paths import ROOT

pytest.importorskip("pyopenjtalk")

from fixtures.homophones import homophones_in  # noqa: E402
from lhotse import SupervisionSegment, SupervisionSet  # noqa: E402
from lhotse.recipes.csj import DECISIONS, CSJSDBParser, concat_csj_supervisions, prepare_csj  # noqa: E402
from lhotse.recipes.musan import prepare_musan  # noqa: E402
from mini_csj import build, lexicon, sdb, talks  # noqa: E402

OPTIONS = ("--hours", "0.01", "--eval-minutes", "0.05", "--seed", "7")
REMOVED = {"F": 1, "D": 1, "D2": 1}  # what the modes "fluent" and "number" leave out


def script(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "local" / "make_mini_csj.py"), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=600
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("mini")
    done = script("--out", root / "csj", "--musan-out", root / "musan", "--musan-minutes", "0.2", "--nj", 1, *OPTIONS)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def manifests(corpus):
    return prepare_csj(corpus / "csj", corpus / "trans", None, None, 1)


def every(manifests):
    for part in manifests.values():
        recordings = {recording.id: recording for recording in part["recordings"]}
        for supervision in part["supervisions"]:
            yield recordings[supervision.recording_id], supervision


def test_lhotse_reads_every_part(manifests):
    assert {part: len(rows["recordings"]) for part, rows in manifests.items()} == {
        "eval1": 10, "eval2": 10, "eval3": 10, "excluded": 10, "valid": 40, "core": 3, "noncore": 6,
    }  # fmt: skip
    assert all(
        len({s.recording_id for s in rows["supervisions"]}) == len(rows["recordings"]) for rows in manifests.values()
    )
    assert {s.recording_id[-2:] for _, s in every(manifests) if s.recording_id[0] == "D"} == {"-L", "-R"}


def test_supervisions_lie_within_the_audio_and_do_not_overlap(manifests):
    ends: dict[str, float] = {}
    for recording, supervision in every(manifests):
        assert recording.sampling_rate == 16000 and recording.num_channels == 1
        assert ends.get(recording.id, 0.0) < supervision.start
        assert supervision.end < recording.duration
        assert 0.4 < supervision.duration < build.LONGEST + 0.1
        assert supervision.text == supervision.custom["disfluent"] != ""
        ends[recording.id] = supervision.end


def test_speech_is_where_the_time_stamps_say(manifests):
    for recording in list(manifests["eval1"]["recordings"]) + list(manifests["noncore"]["recordings"]):
        audio = recording.load_audio()[0]
        speech = np.zeros(len(audio), dtype=bool)
        for supervision in manifests["eval1" if recording in manifests["eval1"]["recordings"] else "noncore"][
            "supervisions"
        ]:
            if supervision.recording_id == recording.id:
                speech[int(supervision.start * 16000) : int((supervision.end + 0.3) * 16000)] = True
        inside, outside = np.sqrt(np.mean(audio[speech] ** 2)), np.sqrt(np.mean(audio[~speech] ** 2))
        assert inside > 3 * outside and 0.01 < inside < 0.25 and np.abs(audio).max() < 1.0


def test_transcript_modes_differ(manifests):
    modes = {
        "disfluent": CSJSDBParser(DECISIONS),
        "fluent": CSJSDBParser({**DECISIONS, **REMOVED}),
        "number": CSJSDBParser({**DECISIONS, **REMOVED, "A_num": 1}),
    }
    texts = {mode: [parser.parse(s.custom["raw"]) for _, s in every(manifests)] for mode, parser in modes.items()}
    for one, other in (("fluent", "disfluent"), ("fluent", "number")):
        assert sum(a != b for a, b in zip(texts[one], texts[other])) >= 5
    assert texts["disfluent"] == [s.text for _, s in every(manifests)]
    assert set("０１２３４５６７８９") & set("".join(texts["number"])) and not set("０１２３４５６７８９") & set(
        "".join(texts["fluent"])
    )


def test_utterances_can_be_joined(manifests):
    for part in ("eval1", "core"):
        joined = concat_csj_supervisions(manifests[part]["supervisions"], gap=1.0, maxlen=10.0)
        assert 0 < len(joined) <= len(manifests[part]["supervisions"])


@pytest.fixture(scope="module")
def full_talks():
    """(talk, its joined cuts, its utterances) of a test, a validation and a training talk of the default corpus."""
    plan = {talk.id: talk for talk in talks.plan_corpus(2.0, 7.0, 0)}
    chosen = [plan["A01M0110"], plan["A04M0899"], next(talk for talk in plan.values() if talk.part == "train")]
    out = []
    for talk in chosen:
        segments, _ = build.synthesize(talk, build.Settings(0))
        supervisions = [
            SupervisionSegment(
                f"{talk.id}_{i:04d}", talk.id, segment.start, segment.end - segment.start, text=text, speaker=talk.id,
                custom={"raw": "".join(word.surface for word in segment.words)},
            )
            for i, segment in enumerate(segments)
            for text in ["".join(word.plain for word in segment.words)]
        ]  # fmt: skip
        cuts = concat_csj_supervisions(SupervisionSet.from_segments(supervisions), gap=1.0, maxlen=10.0)
        out.append((talk, list(cuts), segments))
    return out


def test_paragraphs_become_long_cuts(full_talks):
    for talk, cuts, segments in full_talks:
        long = [cut.duration for cut in cuts if cut.duration > 5]
        share = sum(long) / sum(cut.duration for cut in cuts)
        assert (0.5 < share < 0.75) if talk.part == "train" else share > 0.85
        assert all(cut.duration < 20 for cut in cuts)
        assert all(0.4 < segment.end - segment.start < build.LONGEST for segment in segments)
        assert sum(segment.end - segment.start for segment in segments) == pytest.approx(talk.seconds, abs=3.0)


def test_a_topic_word_precedes_the_homophones_of_a_joined_cut(full_talks):
    cued = count = 0
    for talk, cuts, _ in full_talks:
        topic = lexicon.TOPICS[talk.topic]
        cues = [lexicon.spoken(word) for word in topic.nouns + topic.actions]
        right = {group.by_topic[talk.topic] for group in lexicon.HOMOPHONES}
        for cut in cuts:
            for at, spelling in homophones_in(cut.text):
                assert spelling in right
                cued += any(cue in cut.text[:at] for cue in cues)
                count += 1
    assert count > 40 and cued >= 0.9 * count


def test_homophone_table(corpus):
    table = json.loads((corpus / "csj" / build.HOMOPHONES_NAME).read_text(encoding="utf8"))
    assert len(table["groups"]) == len(lexicon.HOMOPHONES)
    assert table["groups"][0]["by_topic"]["medicine"] == "化学" and table["groups"][0]["spellings"] == ["科学", "化学"]
    names = {path.stem for path in (corpus / "csj" / "WAV").glob("*/*.wav")}
    assert set(table["talks"]) == names and set(table["talks"].values()) == set(lexicon.TOPICS)


def test_sdb_files_are_shift_jis_with_all_columns(corpus):
    files = sorted((corpus / "csj" / "MORPH" / "SDB").glob("*/*.sdb"))
    assert len(files) == 8 + 30 + 39 + 6
    for file in files:
        text = file.read_bytes().decode("shift_jis", errors="strict")
        assert text.endswith("\n") and "\r" not in text
        rows = [line.split("\t") for line in text.splitlines()]
        assert all(len(row) == sdb.COLUMNS and row[2] == file.stem and row[11] for row in rows)
        assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))


def test_same_seed_same_bytes_for_any_number_of_jobs(corpus, tmp_path):
    plan = talks.plan_corpus(0.01, 0.05, 7)
    few = [talk for talk in plan if talk.id in ("A01M0110", "D03F0058")] + plan[:1]
    for nj, seed in ((1, 7), (2, 7), (1, 8)):
        root = tmp_path / f"{nj}-{seed}"
        build.run_jobs([(talk, build.build_talk, (root, talk, build.Settings(seed))) for talk in few], nj, "talks")
        for talk in few:
            paths = [build.sdb_path(root, talk), *(build.wav_path(root, talk, name) for name in talk.names())]
            same = [path.read_bytes() == (corpus / "csj" / path.relative_to(root)).read_bytes() for path in paths]
            assert all(same) if seed == 7 else not any(same)


def test_second_run_repairs_and_skips(corpus, tmp_path):
    root = tmp_path / "csj"
    shutil.copytree(corpus / "csj", root)
    victim = root / "WAV" / "core" / "A01M0110.wav"
    victim.write_bytes(victim.read_bytes()[:5000])
    (root / "MORPH" / "SDB" / "noncore" / "D01M0019.sdb").write_bytes(b"\xff\xff")
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*.wav")}
    done = script("--out", root, "--nj", 1, *OPTIONS)
    assert done.returncode == 0 and "2 talks made, 81 there already" in done.stderr
    for path in root.rglob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (corpus / "csj" / path.relative_to(root)).read_bytes()
    changed = {path.name for path in times if path.stat().st_mtime_ns != times[path]}
    assert changed == {"A01M0110.wav", "D01M0019-L.wav", "D01M0019-R.wav"}


def test_lhotse_reads_the_noise_set(corpus):
    parts = prepare_musan(corpus / "musan")
    assert {part: len(rows["recordings"]) for part, rows in parts.items()} == {"music": 6, "noise": 8, "speech": 6}
    assert len(parts["music"]["supervisions"]) == 6
    for rows in parts.values():
        for recording in rows["recordings"]:
            audio = recording.load_audio()
            assert recording.sampling_rate == 16000 and 0.3 < np.abs(audio).max() <= 0.51
    assert (
        len(list((corpus / "musan").glob("*/*/LICENSE"))) == len(list((corpus / "musan").glob("*/*/ANNOTATIONS"))) == 3
    )


def test_wav_files_are_16_bit_mono(corpus):
    for path in list((corpus / "csj" / "WAV").glob("*/*.wav"))[:5] + list((corpus / "musan").glob("*/*/*.wav"))[:5]:
        with wave.open(str(path), "rb") as audio:
            assert (audio.getframerate(), audio.getsampwidth(), audio.getnchannels()) == (16000, 2, 1)


@pytest.mark.parametrize(
    "prepare, arguments, message",
    [
        (None, ("--hours", "0"), "--hours must be above 0"),
        (None, ("--hours", "nan"), "--hours must be above 0"),
        (None, ("--voices", "{tmp}/none"), "no such directory"),
        ("voices/broken.htsvoice", ("--voices", "{tmp}/voices"), "cannot be loaded"),
        ("voices/readme.txt", ("--voices", "{tmp}/voices"), "no .htsvoice file"),
        ("csj", (), "is a file"),
        ("csj/WAV/other.wav", (), "was not made by this script"),
        ("csj/mini_csj.json", (), "not readable as JSON"),
    ],
)
def test_bad_input_is_one_line(tmp_path, prepare, arguments, message):
    if prepare:
        path = tmp_path / prepare
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not what it should be")
    before = sorted(tmp_path.rglob("*"))
    done = script("--out", tmp_path / "csj", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_other_options_are_refused(corpus):
    done = script("--out", corpus / "csj", "--hours", "0.02", "--eval-minutes", "0.05", "--seed", "8")
    assert done.returncode == 1 and "other options (hours, seed)" in done.stderr
