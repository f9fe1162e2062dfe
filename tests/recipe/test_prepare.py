"""prepare.sh from a CSJ directory to units, statistics and shards, and what happens when it is run again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.csj import make_csj, make_musan
from fixtures.paths import ROOT
from lhotse import CutSet

from sammo.data.tokens import load_tokenizer


def prepare(*options: str, cwd: Path = ROOT, script: str = "./prepare.sh") -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run([script, *options], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("corpus")
    make_csj(directory / "csj")
    make_musan(directory / "musan")
    return directory


@pytest.fixture(scope="module")
def options(corpus: Path) -> list[str]:
    pairs = {"csj-dir": corpus / "csj", "musan-dir": corpus / "musan", "data-dir": corpus / "data", "nj": 2}
    return [str(item) for name, value in pairs.items() for item in (f"--{name}", value)] + [
        "--lang-type",
        "char bpe",
        "--vocab-sizes",
        "70",
    ]


@pytest.fixture(scope="module")
def prepared(corpus: Path, options: list[str]) -> Path:
    result = prepare(*options, "--shar", "true")
    assert result.returncode == 0, result.stdout + result.stderr
    return corpus / "data"


def test_parts_modes_and_speed_copies(prepared):
    train = {cut.supervisions[0].id: cut for cut in CutSet.from_file(prepared / "fbank/csj_cuts_train.jsonl.gz")}
    talks = {"A01F0200", "D01F0300-L", "D01F0300-R", "S00F0400", "A02M0500"}
    assert {name.split("_")[0] for name in train} == talks
    assert max(cut.duration for cut in train.values()) < 10.0
    for speed in (0.9, 1.1):
        copies = CutSet.from_file(prepared / f"fbank/csj_cuts_train_sp{speed}.jsonl.gz")
        for copy in copies:
            original = train[copy.id.removesuffix(f"_sp{speed}")]
            assert copy.duration == pytest.approx(original.duration / speed, abs=0.01)
            assert copy.supervisions[0].custom["fluent"] == original.supervisions[0].custom["fluent"]
    paths = [prepared / f"fbank/csj_cuts_{part}.jsonl.gz" for part in ("valid", "eval1")]
    texts = [cut.supervisions[0].custom for path in paths for cut in CutSet.from_file(path)]
    talk = next(custom for custom in texts if "今日" in custom["raw"])
    assert talk["disfluent"] == "えー今日はお音声の話をします" and talk["fluent"] == "今日は音声の話をします"
    count = next(custom for custom in texts if "二" in custom["raw"])
    assert count["number"] == "研究を２回続けた" and count["fluent"] == "研究を二回続けた"
    assert not any("×" in custom["raw"] for custom in texts)


def test_units_and_statistics(prepared):
    characters = load_tokenizer(prepared / "lang_char")
    assert characters.blank_id == 0 and characters.decode(characters.encode("今日は音声")) == "今日は音声"
    bpe = load_tokenizer(prepared / "lang_bpe_70")
    assert bpe.vocab_size == 70 and bpe.decode(bpe.encode("音声の話をします")) == "音声の話をします"
    assert len(bpe.encode("音声の話をします")) < len("音声の話をします")
    statistics = json.loads((prepared / "fbank/statistics.json").read_text())
    assert statistics["parts"]["valid"]["cuts"] > 0 and statistics["parts"]["train"]["speakers"] == 5
    assert statistics["overlap_with_training"]["eval1"]["share_inside"] > 0  # the sentences are five
    assert json.loads((prepared / "shar/index.json").read_text())["shards"]


def mtimes(directory: Path) -> dict[Path, int]:
    """When the files were written; the lock is written by every run."""
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file() and path.name != ".lock"}


def test_second_run_skips_everything(prepared, options):
    before = mtimes(prepared)
    result = prepare(*options, "--shar", "true")
    assert result.returncode == 0 and result.stdout.count("done already") == 10
    assert before == mtimes(prepared)


def test_repairs_what_is_half_done(prepared, options, corpus):
    """A lost marker and a lost piece are made again, and what depends on them too; complete pieces are kept."""
    copy = corpus / "repair"
    shutil.copytree(prepared, copy)
    pieces = copy / "fbank/feats_train"
    for path in [copy / "fbank/.csj.done", copy / "fbank/csj_cuts_train.jsonl.gz", pieces / "00000.jsonl.gz"]:
        path.unlink()
    (pieces / "00000.lca").write_bytes(b"torn")
    at = options.index("--data-dir") + 1
    again = [*options[:at], str(copy), *options[at + 1 :]]
    result = prepare(*again, "--stage", "3", "--stop-stage", "5")
    assert result.returncode == 0, result.stderr
    assert "Stage 5: Add transcript modes\n" in result.stdout
    repaired = CutSet.from_file(copy / "fbank/csj_cuts_train.jsonl.gz").to_eager()
    original = CutSet.from_file(prepared / "fbank/csj_cuts_train.jsonl.gz").to_eager()
    assert [cut.id for cut in repaired] == [cut.id for cut in original]
    assert all("fluent" in cut.supervisions[0].custom and cut.load_features() is not None for cut in repaired)


def test_from_the_recipe_directory(prepared, options):
    result = prepare(*options, "--stop-stage", "1", cwd=ROOT / "egs/csj/ASR")
    assert result.returncode == 0 and "Stage 1" in result.stdout and "done already" in result.stdout


def test_help_lists_stages():
    result = prepare("--help")
    assert result.returncode == 0
    assert all(f"\n  {number} " in result.stdout for number in range(13))
    # Of which each process gets one thread, which is what nproc alone would answer.
    assert f"(default: the number of cores, here {len(os.sched_getaffinity(0))})" in result.stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--corpus", "csj"], "--corpus csj needs --csj-dir"),
        (["--csj-dir", "/nowhere"], "no CSJ directory /nowhere"),
        (["--frobnicate", "1"], "unknown option --frobnicate"),
        (["--nj"], "--nj needs a value"),
        (["--nj", "two"], "--nj must be a number"),
        (["--corpus", "ted"], "--corpus must be mini or csj"),
        (["--lang-type", "word"], "--lang-type must be char, bpe or both"),
        (["--unseen-minutes", "some"], "--unseen-minutes must be minutes"),
        (["--homophones", "yes"], "--homophones must be true or false"),
        (["--corpus", "csj", "--csj-dir", ".", "--homophones", "true"], "--homophones is for the small corpus"),
    ],
)
def test_wrong_options(arguments, message, tmp_path):
    result = prepare("--data-dir", str(tmp_path / "data"), *arguments)
    assert result.returncode == 1 and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_refuses_code_in_a_mode_file(prepared, options, tmp_path):
    evil = tmp_path / "evil.ini"
    code = f"F = exec:open({str(tmp_path / 'ran')!r}, 'w')"
    text = (ROOT / "local/conf/fluent.ini").read_text(encoding="utf-8")
    evil.write_text(text.replace("F = 1", code), encoding="utf-8")
    before = (prepared / "fbank/csj_cuts_train.jsonl.gz").read_bytes()
    result = prepare(*options, "--mode-files", str(evil), "--stage", "5", "--stop-stage", "5")
    assert result.returncode == 1 and "is code" in result.stderr and "refused" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "ran").exists()
    assert (prepared / "fbank/csj_cuts_train.jsonl.gz").read_bytes() == before
