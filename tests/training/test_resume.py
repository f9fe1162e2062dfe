"""train.py killed at random moments: the same command ends where an uninterrupted run ends, bit for bit."""

from __future__ import annotations

import argparse
import dataclasses
import random
import signal
import threading
import time

import pytest
from fixtures.data import make_corpus
from fixtures.training import SMALL_OPTIONS, differences, start

from sammo.checkpoint import list_checkpoints, read_checkpoint
from sammo.commands.train import add_arguments
from sammo.commands.train import run as run_training
from sammo.errors import UserError

TRAIN = "egs/csj/ASR/sammo/train.py"
STEPS = 24


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    corpus = tmp_path_factory.mktemp("corpus")
    make_corpus(corpus, train=36, valid=3)
    words = ["--manifest-dir", corpus / "fbank", "--lang", corpus / "lang_char", "--num-threads", 1, "--device", "cpu"]
    words += "--max-duration 8 --ref-duration 8 --num-epochs 2 --log-interval 1 --average-period 3".split()
    words += "--valid-interval 9 --save-every-n 2 --keep-last-k 3 --drop-last false --tensorboard false".split()
    words += ["--num-workers", 1]
    return [*words, "--max-steps", STEPS, *SMALL_OPTIONS]


class Run:
    """A process of train.py, and what it has said so far."""

    def __init__(self, exp_dir, options, *more):
        self.process = start(TRAIN, "--exp-dir", exp_dir, *options, *more)
        self.lines = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(self._read()), daemon=True)
        self.text = ""
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.text += line
            yield line

    def wait(self):
        code = self.process.wait(timeout=600)
        self._reader.join(10)
        return code

    def wait_for(self, words):
        deadline = time.monotonic() + 300
        while words not in self.text and self.process.poll() is None:
            assert time.monotonic() < deadline, self.text
            time.sleep(0.01)


def end(exp_dir):
    """The last checkpoint, without how long it took and where it lies."""
    checkpoint = read_checkpoint(exp_dir / "epoch-2.pt")
    training = dataclasses.replace(checkpoint.training, wall_seconds=0.0, options={})
    return dataclasses.replace(checkpoint, training=training)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, options):
    """An experiment directory that was trained without a break."""
    exp_dir = tmp_path_factory.mktemp("whole")
    run = Run(exp_dir, options)
    assert run.wait() == 0, run.text
    return exp_dir


@pytest.mark.slow
def test_killed_and_stopped_runs_end_the_same(tmp_path, options, whole):
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    batch = 0
    for _ in range(2):
        run = Run(tmp_path, options)
        batch += draw.randint(2, 5)
        run.wait_for(f"({batch} in all)")
        time.sleep(draw.uniform(0.0, 0.1))  # in the middle of a batch, a validation or a save
        run.process.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL, run.text
    assert batch < 5 or "resuming in epoch" in run.text

    run = Run(tmp_path, options)
    run.wait_for(f"({batch + 2} in all)")
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 0, run.text
    assert "stopped by SIGTERM; the same command resumes" in run.text
    newest = max(list_checkpoints(tmp_path, "checkpoint"), key=lambda file: file.number)
    assert newest.number >= batch + 2
    newest.path.write_bytes(newest.path.read_bytes()[:-1000])

    run = Run(tmp_path, options)
    assert run.wait() == 0, run.text
    assert f"{newest.path.name} is damaged" in run.text and "instead" in run.text
    assert differences(end(whole), end(tmp_path)) == [], f"seed {seed}"
    assert not list(tmp_path.glob(".tmp*"))


def train(exp_dir, options, *more):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run_training(parser.parse_args([str(word) for word in ("--exp-dir", exp_dir, *options, *more)]))


def test_nothing_left_to_do(whole, options):
    before = {path: path.stat().st_mtime_ns for path in whole.glob("*.pt")}
    assert train(whole, options) == 0
    others = "--num-epochs 9 --log-interval 7 --save-every-n 5 --num-workers 0 --valid-interval 3 --loss-engine native"
    assert train(whole, options, *others.split()) == 0
    assert before == {path: path.stat().st_mtime_ns for path in whole.glob("*.pt")}


def test_other_cuts_in_the_manifests(whole, options, tmp_path):
    make_corpus(tmp_path, train=35, valid=3)
    with pytest.raises(UserError, match="the training cuts .train-cuts. were others than those in the manifests now"):
        train(whole, options, "--manifest-dir", tmp_path / "fbank")


@pytest.mark.parametrize(
    "more, message",
    [
        (
            ["--encoder", "zipformer"],
            "the checkpoint is of another model: mixer is mamba2 there and nla here and 1 more",
        ),
        (["--start-epoch", "1"], r"holds \d newer checkpoints \(.*\): move them away, or leave --start-epoch out"),
        (["--start-batch", "77"], r"no checkpoint .*checkpoint-77.pt; there are checkpoint-"),
        (["--start-epoch", "9"], r"no checkpoint .*epoch-8.pt; there are checkpoint-"),
        (["--max-steps", "99", "--num-epochs", "3", "--max-duration", "9"], "options: --max-duration was 8.0, is 9.0"),
        (
            ["--max-steps", "99", "--num-epochs", "3", "--max-duration", "9", "--may-change", "max-duration"],
            "inside an epoch with max_duration 8",
        ),
        (["--base-lr", "0.01", "--data-seed", "5"], "--base-lr was 0.045, is 0.01; --data-seed was 0, is 5. Give what"),
        (["--lang", "/nowhere"], "no language directory /nowhere"),
    ],
)
def test_refusals(whole, options, more, message):
    with pytest.raises(UserError, match=message):
        train(whole, options, *more)
