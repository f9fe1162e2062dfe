"""The command line: every subcommand explains itself, and errors are one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sammo import cli, doctor
from sammo.commands import doctor as command
from sammo.engines import Engines, anywhere
from sammo.errors import UserError, run_main


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_subcommand_has_help(name, capsys):
    with pytest.raises(SystemExit) as ending:
        cli.parse([name, "--help"])
    assert ending.value.code == 0
    assert cli.COMMANDS[name][1].split()[0].lower() in capsys.readouterr().out.lower()


def test_a_user_error_is_one_line_and_exit_code_1(tmp_path):
    command = [sys.executable, "-m", "sammo.cli", "report", str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("error: no directory") and "nothing" in line


def test_run_main_exit_codes(capsys):
    def fail():
        raise UserError("first\nsecond")

    for main, code in ((lambda: None, 0), (lambda: 3, 3), (fail, 1)):
        with pytest.raises(SystemExit) as ending:
            run_main(main)
        assert ending.value.code == code
    assert capsys.readouterr().err == "error: first second\n"


def test_doctor_tries_what_can_run(capsys):
    assert command.run(cli.parse(["doctor", "--device", "cpu"])) == 0
    out = capsys.readouterr().out
    assert "scan engines on cpu; auto takes torch" in out
    assert "runs (the reference)" in out and "needs a CUDA device" in out


def test_doctor_finds_a_wrong_engine(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "LOSS_ENGINES", Engines("loss", {"k2": anywhere, "native": anywhere}))
    original = doctor._loss
    monkeypatch.setattr(
        doctor,
        "_loss",
        lambda engine, device: [v * (1 if engine == "native" else 1.01) for v in original("native", device)],
    )
    assert command.run(cli.parse(["doctor", "--device", "cpu"])) == 1
    assert "k2            WRONG" in capsys.readouterr().out
