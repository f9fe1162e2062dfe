"""reproduce.sh from trainings to tables and back from its logs, on next to no data, with a training that fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.data import make_corpus, make_cuts
from fixtures.paths import ROOT
from lhotse import CutSet

TABLES = "main halved carried homophones"
COMMAND = [str(ROOT / "egs/csj/ASR/sammo/reproduce.sh")]


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=1800)


def rows(path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith("| ")]


@pytest.mark.slow
def test_from_trainings_to_tables(tmp_path):
    """What fails is named at the end, and the others are tabulated; the same command does the rest and nothing again."""
    if sys.prefix != str(ROOT / ".venv"):
        pytest.skip("reproduce.sh uses .venv: run the tests by ./test.sh")
    data, work = tmp_path / "data", tmp_path / "work"
    fbank = make_corpus(data, train=60, valid=3)
    for number, part in enumerate(("eval2", "eval3")):
        make_cuts(fbank, part, 3, seed=2000 + 100 * number).to_file(fbank / f"csj_cuts_{part}.jsonl.gz")
    questions = (
        cut.with_id(f"科学-化学-{i + 1}s-0") for i, cut in enumerate(make_cuts(fbank, "homophones", 2, seed=3000))
    )
    CutSet.from_cuts(questions).to_file(fbank / "csj_cuts_homophones.jsonl.gz")
    broken = work / "exp/main/conformer/seed1/epoch-1.pt"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no checkpoint")
    (broken.parent / "results").mkdir()  # as a decoding that failed leaves it
    options = ["--data-dir", data, "--work-dir", work, "--epochs", "3", "--seeds", "1", "--tables", TABLES]

    done = run(*COMMAND, *options)
    report = work / "report/main/cer.md"
    assert done.returncode == 1 and report.is_file(), done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].split() == ["main/conformer/seed1", "(see", f"{work}/logs)"]
    assert {row.split("|")[2].split(",")[0].strip() for row in rows(report)} >= {"Sammo", "Zipformer"}
    assert "Conformer" not in report.read_text()

    logs = {path.name: len(path.read_text()) for path in (work / "logs").iterdir()}
    broken.unlink()
    done = run(*COMMAND, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in (work / "logs").iterdir():
        trained = "batch 1/" in path.read_text()[logs[path.name] :]
        assert trained == (path.name == "main-conformer-seed1.log")
    assert "Conformer, left 256" in report.read_text()
    for name in ("apart", "joined"):
        first, last = (work / f"exp/carried/{name}/seed1/epoch-{number}.pt" for number in (1, 3))
        assert first.samefile(work / "exp/main/sammo/seed1/epoch-1.pt") and last.is_file()
        assert "found checkpoint" in (work / f"logs/carried-{name}-seed1.log").read_text()
    halved = [row for row in rows(work / "report/halved/cer.md") if "| Sammo" in row]
    assert any("simulated | 90 |" in row for row in halved)
    assert any("chunk by chunk, float16 state | 45 |" in row for row in halved)
    assert json.loads((work / "report/timing/timing.json").read_text())

    recalled = json.loads((work / "report/homophones/homophones.json").read_text())["answers"]
    assert {answers["delay"] for answers in recalled} == {1.0, 2.0} and len({a["system"] for a in recalled}) == 13

    kept = tmp_path / "collected"
    assert run(*COMMAND, *options, "--collect", kept).returncode == 0
    again = tmp_path / "again"
    assert run(*COMMAND, "--logs", kept, "--work-dir", again, "--tables", TABLES).returncode == 0
    for table in ("main", "halved"):
        made = [rows(directory / f"report/{table}/cer.md") for directory in (work, again)]
        assert made[0] and made[0] == made[1]


def as_told(report: Path) -> list[str]:
    """The rows of a report's first two tables as RESULTS.md has them: no experiment and decoding, seeds by themselves."""
    found, minus = [], False
    for row in rows(report):
        experiment, system, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        minus = minus or experiment == "minus"
        if system.startswith(("Sammo", "Zipformer", "Conformer")):
            seeds = re.search(r"\((\d+) seeds\)", row)
            cells = cells if minus else [cells[1], seeds[1] if seeds else "1", *cells[2:]]
            found.append(re.sub(r" \(\d+ seeds\)", "", f"| {' | '.join((system, *cells))} |"))
        elif minus and experiment != "minus":
            break
    return found


@pytest.mark.slow
def test_results_has_the_numbers_of_the_logs_beside_it(tmp_path):
    """Every row of its first two tables, by the command that it names."""
    if sys.prefix != str(ROOT / ".venv"):
        pytest.skip("reproduce.sh uses .venv: run the tests by ./test.sh")
    recipe = ROOT / "egs/csj/ASR"
    done = run(*COMMAND, "--logs", recipe / "results", "--work-dir", tmp_path, "--tables", "main")
    assert done.returncode == 0, done.stdout + done.stderr
    made, told = as_told(tmp_path / "report/main/cer.md"), rows(recipe / "RESULTS.md")
    assert len(made) > 20 and [row for row in made if row not in told] == []
