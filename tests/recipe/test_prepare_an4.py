"""egs/an4/ASR/prepare.sh: parts, transcripts, units, the same bytes each time; what it refuses."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fixtures.an4 import AN4_DIR, ROOT, make_an4, speech_like
from lhotse import CutSet
from prepare_an4_manifests import hold_out, prepare, read_list, read_transcripts  # noqa: E402

from sammo.corpora import find_corpus
from sammo.data.datamodule import CsjDataModule, DataConfig
from sammo.data.manifests import read_records
from sammo.data.tokens import load_tokenizer
from sammo.errors import UserError


def run(*options: str | Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = [str(ROOT / "egs/an4/ASR/prepare.sh"), *map(str, options)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def digests(directory: Path) -> dict[str, str]:
    """Of everything below ``directory`` but the lock, which names the process of the last run."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_an4(tmp_path_factory.mktemp("an4") / "an4")


@pytest.fixture(scope="module")
def options(corpus) -> list[str | Path]:
    units = ["--lang-type", "char bpe", "--vocab-sizes", "40"]
    return ["--an4-dir", corpus, "--data-dir", corpus.parent / "data", "--valid-speakers", "2", *units]


@pytest.fixture(scope="module")
def prepared(corpus, options) -> Path:
    result = run(*options, "--nj", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "24 files without header: big-endian, by their samples" in result.stdout
    return corpus.parent / "data"


def test_parts(prepared):
    parts = {
        part: list(CutSet.from_file(prepared / f"fbank/an4_cuts_{part}.jsonl.gz"))
        for part in ("train", "valid", "test")
    }
    speakers = {part: {cut.supervisions[0].speaker for cut in cuts} for part, cuts in parts.items()}
    assert speakers == {"train": {"fabc", "fghi2", "mabc", "mghi"}, "valid": {"fdef", "mdef"}, "test": {"fxyz", "mxyz"}}
    for part, cuts in parts.items():
        # Training is shuffled once, so that a limited buffer sees many speakers.
        assert ([cut.id for cut in cuts] == sorted(cut.id for cut in cuts)) == (part != "train")
        for cut in cuts:
            assert cut.has_features and cut.num_features == 80 and cut.supervisions[0].text.isupper()
    cut = next(cut for cut in parts["test"] if cut.id == "an19-fxyz-b")
    assert cut.supervisions[0].text == "JULY TWENTY SIXTH" and cut.supervisions[0].gender == "female"
    assert np.array_equal(np.round(cut.load_audio()[0] * 32768).astype(np.int16), speech_like(1.8, 19))


def test_speed_copies(prepared):
    original = {cut.id: cut.duration for cut in CutSet.from_file(prepared / "fbank/an4_cuts_train.jsonl.gz")}
    for speed in (0.9, 1.1):
        copies = CutSet.from_file(prepared / f"fbank/an4_cuts_train_sp{speed}.jsonl.gz")
        found = {cut.id.removesuffix(f"_sp{speed}"): cut.duration * speed for cut in copies}
        assert found == pytest.approx(original, abs=1e-3)


def test_the_corpus_is_found_and_loads(prepared):
    assert find_corpus(prepared / "fbank").name == "an4"
    tokenizer = load_tokenizer(prepared / "lang_char")
    config = DataConfig(
        manifest_dir=prepared / "fbank",
        max_duration=5.0,
        enable_musan=False,
        num_workers=0,
        drop_last=False,
        speed_perturb=True,
    )
    module = CsjDataModule(config, tokenizer)
    batches = list(module.train_dataloader(1))
    assert sum(len(batch["cut_ids"]) for batch in batches) == 3 * 12  # at three speeds
    for batch in batches:
        assert [tokenizer.decode(tokens.tolist()) for tokens in batch["tokens"]] == batch["texts"]
    assert sum(len(batch["cut_ids"]) for batch in module.test_dataloader(*module.corpus.tests)) == 6


@pytest.mark.parametrize("lang", ["lang_char", "lang_bpe_40"])
def test_units_keep_the_spaces(prepared, lang):
    tokenizer = load_tokenizer(prepared / lang)
    assert tokenizer.has_words
    text = next(read_records(prepared / "fbank/an4_cuts_test.jsonl.gz"))["supervisions"][0]["text"]
    assert " " in text and tokenizer.decode(tokenizer.encode(text)) == text


def test_same_bytes_each_time_and_nothing_twice(prepared, options):
    before = digests(prepared)
    again = run(*options)
    assert again.returncode == 0 and again.stdout.count("done already") == 6
    assert digests(prepared) == before
    shutil.rmtree(prepared)
    assert run(*options, "--nj", "2").returncode == 0
    assert digests(prepared) == before


@pytest.mark.parametrize("kind", [{"order": "<"}, {"order": ">", "sph": True}, {"order": "<", "sph": True}])
def test_every_distribution_gives_the_same_audio(corpus, tmp_path, kind):
    prepare(corpus, tmp_path / "wav", tmp_path / "manifests", valid_speakers=2)
    other = make_an4(tmp_path / "other", **kind)
    prepare(other, tmp_path / "other-wav", tmp_path / "other-manifests", valid_speakers=2)
    assert digests(tmp_path / "wav") == digests(tmp_path / "other-wav")


@pytest.fixture
def copy(corpus, tmp_path) -> Path:
    return Path(shutil.copytree(corpus, tmp_path / "an4"))


def refused(an4_dir: Path, **options) -> str:
    with pytest.raises(UserError) as error:
        prepare(an4_dir, an4_dir.parent / "wav", an4_dir.parent / "manifests", **{"valid_speakers": 2, **options})
    assert not (an4_dir.parent / "manifests").exists() and "\n" not in str(error.value)
    return str(error.value)


def test_incomplete_directories(copy, tmp_path):
    assert "no AN4 directory" in refused(tmp_path / "none")
    for path in ("wav/an4_clstk/fabc/an1-fabc-b.raw", "wav/an4_clstk/mabc/an10-mabc-b.raw"):
        (copy / path).unlink()
    assert "2 audio files wav/ID.raw or .sph are missing: an4_clstk/mabc/an10-mabc-b, an4_clstk/fabc/an1" in refused(
        copy
    )
    for name in ("train", "test"):
        (copy / f"etc/an4_{name}.fileids").unlink()
    assert "is incomplete: no etc/an4_train.fileids, etc/an4_test.fileids; --an4-dir is" in refused(copy)
    shutil.rmtree(copy / "wav")
    assert "etc/an4_test.fileids, wav; --an4-dir" in refused(copy)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_lists_that_do_not_fit(copy):
    lines = (copy / "etc/an4_train.transcription").read_text().splitlines(keepends=True)
    (copy / "etc/an4_train.transcription").write_text("".join(lines[1:]))
    assert "no line in etc/an4_train.transcription for an4_clstk/mghi/an18-mghi-b" in refused(copy)
    (copy / "etc/an4_train.transcription").write_text("".join(lines))
    append(copy / "etc/an4_train.transcription", "NO ID\n")
    assert "line 19: expected 'TEXT (id)', found 'NO ID'" in refused(copy)
    (copy / "etc/an4_train.transcription").write_text("".join(lines))
    append(copy / "etc/an4_train.fileids", "an4_clstk/fabc/an1-fabc-b\n")
    assert "the id an1-fabc-b occurs twice" in refused(copy)


def test_other_refusals(copy):
    assert "--valid-speakers must be 1 to 5, got 6" in refused(copy, valid_speakers=6)
    for path in (copy / "wav").rglob("*.raw"):
        path.write_bytes(bytes(4000))
    assert "cannot be told by their samples" in refused(copy)


def test_transcripts(tmp_path):
    path = tmp_path / "a.transcription"
    path.write_text("<s> YES </s> (an1-x-b)\n\nrubout  g m (an2-x-b)\n<s> ENTER <sil> (FIVE) </s> (cen8-x-b)\n")
    assert read_transcripts(path) == {"an1-x-b": "YES", "an2-x-b": "RUBOUT G M", "cen8-x-b": "ENTER (FIVE)"}


def test_one_person_under_two_names_is_in_one_part(copy):
    utterances = [item._replace(speaker=item.speaker.replace("fdef", "fabc2")) for item in read_list(copy, "train")]
    for count in range(1, 5):
        train, valid = (({item.speaker for item in part}) for part in hold_out(utterances, count))
        assert not train & valid and ("fabc" in train) == ("fabc2" in train)


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "--an4-dir DIR is missing"),
        (["--an4-dir", "/nowhere"], "no AN4 directory /nowhere"),
        (["--an4-dir", ".", "--byte-order", "middle"], "--byte-order must be auto, big or little"),
        (["--an4-dir", ".", "--lang-type", "phone"], "--lang-type must be char, bpe or both"),
        (["--frobnicate", "1"], "unknown option --frobnicate"),
    ],
)
def test_command_line(tmp_path, words, message):
    result = run(*words, "--data-dir", tmp_path / "data")
    assert result.returncode == 1 and result.stderr.startswith("error: ") and message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(not AN4_DIR.is_dir(), reason="no AN4")
def test_real_corpus(tmp_path):
    prepare(AN4_DIR, tmp_path / "wav", tmp_path / "manifests")
    counts = {}
    speakers = {}
    for part in ("train", "valid", "test"):
        cuts = list(read_records(tmp_path / f"manifests/an4_cuts_{part}.jsonl.gz"))
        counts[part] = len(cuts)
        speakers[part] = {cut["supervisions"][0]["speaker"] for cut in cuts}
        assert all(set(cut["supervisions"][0]["text"]) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ ") for cut in cuts)
    assert counts["train"] + counts["valid"] == 948 and counts["test"] == 130
    assert {len(speakers["train"]), len(speakers["valid"])} == {68, 6} and len(speakers["test"]) == 10
    assert not speakers["valid"] & speakers["train"] and {name[0] for name in speakers["valid"]} == {"f", "m"}
