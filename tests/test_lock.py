"""Two runs in one directory: the second is told who the first is, and a lock without a holder is none."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys

import pytest
from fixtures.paths import ROOT

from sammo.errors import UserError
from sammo.lock import NAME, locked

HOLD = """
import sys
from sammo.lock import locked
with locked(sys.argv[1], 'train.py --seed 1'):
    print('held', flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "exp"], env=environment, **pipes)
    assert process.stdout and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_owner_is_named(tmp_path, holder):
    with pytest.raises(UserError) as caught, locked(tmp_path / "exp"):
        pass
    message = str(caught.value)
    assert f"process {holder.pid} on {socket.gethostname()} since 2" in message and "(train.py --seed 1)" in message
    with locked(tmp_path / "other"):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process(tmp_path, holder, number):
    holder.send_signal(number)
    holder.wait()
    assert (tmp_path / "exp" / NAME).read_text()  # stale
    with locked(tmp_path / "exp"), pytest.raises(UserError, match=f"process {os.getpid()} "), locked(tmp_path / "exp"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}'])
def test_an_owner_that_cannot_be_read(tmp_path, content):
    with locked(tmp_path):
        (tmp_path / NAME).write_text(content)
        with pytest.raises(UserError, match="in use by another run"), locked(tmp_path):
            pass


def test_prepare_sh_twice_at_once(tmp_path):
    """The second one ends before it has changed anything; a killed one leaves no lock."""
    command = [ROOT / "prepare.sh", "--data-dir", tmp_path / "data", "--stage", "100"]
    environment = {**os.environ, "PYTHON": sys.executable}
    with locked(tmp_path / "data", "./prepare.sh --hours 2"):
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
        assert f"is in use by process {os.getpid()} on" in result.stderr and "(./prepare.sh --hours 2)" in result.stderr
    assert [path.name for path in (tmp_path / "data").iterdir()] == [NAME]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"prepare.sh --data-dir {tmp_path / 'data'}" in (tmp_path / "data" / NAME).read_text()


def test_two_trainings_in_one_directory(tmp_path):
    from sammo.commands.train import add_arguments, run

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with locked(tmp_path / "exp", "train.py --base-lr 0.03"):
        with pytest.raises(UserError, match="exp is in use by process .*train.py --base-lr 0.03"):
            run(parser.parse_args(["--exp-dir", str(tmp_path / "exp"), "--base-lr", "0.01"]))
    assert [path.name for path in (tmp_path / "exp").iterdir()] == [NAME]
