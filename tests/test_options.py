"""Options: made of dataclasses, and explained at once."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from fixtures.paths import ROOT

from sammo.options import add_options, from_args, option, processes


@dataclass(frozen=True)
class Base:
    out_dir: Path | None = option(None, "Where.")
    widths: tuple[int, ...] = option((1, 2), "All 100 % of them.")


@dataclass(frozen=True)
class Schema(Base):
    rate: float = option(0.5, "Rate.", aliases=("--speed",))
    count: int | None = option(None, "Count.")
    kind: str = option("a", "Kind.", ("a", "b"))
    shuffle: bool = option(True, "Shuffle.")
    force: bool = option(False, "Force.", flag=True)
    times: tuple[float, ...] | None = option(None, "Times.")


def parse(*words: str, **options) -> Schema:
    parser = argparse.ArgumentParser()
    add_options(parser, Schema, "group", **options)
    return from_args(Schema, parser.parse_args(words))


def test_types_and_defaults():
    assert parse() == Schema()
    words = "--out-dir x --widths 3,-1 --speed 2 --count 4 --kind b --shuffle no --force --times 0.5,2".split()
    assert parse(*words) == Schema(Path("x"), (3, -1), 2.0, 4, "b", False, True, (0.5, 2.0))
    assert parse("--times", "").times == ()
    assert parse(rate=0.25, without=("kind",)) == Schema(rate=0.25)
    with pytest.raises(TypeError, match="Schema has no fields nothing"):
        parse(nothing=1)


@pytest.mark.parametrize("words", [["--kind", "c"], ["--widths", "1,x"], ["--shuffle", "maybe"], ["--times", "y"]])
def test_wrong_values(words, capsys):
    with pytest.raises(SystemExit):
        parse(*words)
    assert f"argument {words[0]}" in capsys.readouterr().err


def test_help_tells_defaults(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    out = " ".join(capsys.readouterr().out.split())
    assert "All 100 % of them. (default: 1,2)" in out and "Shuffle. (default: true)" in out and "Where. --" in out


def test_searches_and_states_are_those_of_the_library():
    import torch

    from sammo.options import METHODS, STATE_DTYPES
    from sammo.search import METHODS as SEARCHES

    assert SEARCHES == METHODS and all(isinstance(getattr(torch, name), torch.dtype) for name in STATE_DTYPES)


HELP = """
import contextlib, io, os, runpy, sys
from sammo import cli
heavy = ["torch", "lhotse", "numpy", "soundfile", "matplotlib"]
for name in cli.COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.parse([name, "--help"])
for script in sys.argv[1:]:
    if "/egs/" not in script:
        del heavy[2:]
    sys.argv, sys.path[0] = [script, "--help"], os.path.dirname(script)
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    assert shown.getvalue().startswith("usage: "), script
    assert [name for name in heavy if name in sys.modules] == [], script
"""


def test_help_loads_nothing_heavy():
    """Scripts of preparation and benchmarks may load numpy."""
    folders = ("egs/csj/ASR/sammo", "local", "benchmarks")
    scripts = [path for folder in folders for path in sorted((ROOT / folder).glob("*.py"))]
    scripts = [
        str(path)
        for path in scripts
        if "argparse" in (text := path.read_text()) and "__main__" in text or "run_script" in text
    ]
    assert len(scripts) > 25
    command = [sys.executable, "-c", HELP, *scripts]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stderr == "", done.stderr


@pytest.mark.parametrize("value", ["0", "-1", "100000", "x", "9" * 5000])
def test_no_script_starts_processes_without_bound(value, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--nj", type=processes)
    assert parser.parse_args(["--nj", "1024"]).nj == 1024
    with pytest.raises(SystemExit):
        parser.parse_args([f"--nj={value}"])
    assert "expected 1 to 1024 processes, got" in capsys.readouterr().err
    scripts = [path.read_text(encoding="utf-8") for path in (ROOT / "local").glob("*.py")]
    assert sum('"--nj"' in text for text in scripts) == sum('"--nj", type=processes' in text for text in scripts) > 5
