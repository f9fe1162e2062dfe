"""Two processes train as one would, end together, and never wait for one that is gone."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from fixtures.training import differences, make_trainer, start
from fixtures.training_parallel import data, record, starve, without_randomness

from sammo.checkpoint import read_checkpoint
from sammo.device import choose_device
from sammo.errors import MachineError, UserError, run_main
from sammo.training.config import TrainConfig
from sammo.training.distributed import World, machine_failure


@pytest.fixture(scope="module")
def parallel(tmp_path_factory):
    """A directory with what two processes have trained, see fixtures/training_parallel.py."""
    directory = tmp_path_factory.mktemp("parallel")
    run = start("tests/fixtures/training_parallel.py", directory, 2, "curve")
    output, _ = run.communicate(timeout=600)
    assert run.returncode == 0, output
    (directory / "output.txt").write_text(output)
    return directory


def results(directory: Path) -> list[dict]:
    return [torch.load(directory / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_train_as_one(parallel, tmp_path):
    single = without_randomness(make_trainer(tmp_path, data()))
    losses = record(single)
    single.run()
    ranks = results(parallel)
    assert differences(ranks[0], ranks[1]) == []
    # 4 batches an epoch, though the second process had a fifth.
    assert len(losses) == len(ranks[0]["losses"]) == 8
    assert losses[-1] < losses[0]
    assert ranks[0]["losses"] == pytest.approx(losses, rel=1e-3)
    checkpoint = read_checkpoint(parallel / "epoch-2.pt")
    assert len(checkpoint.training.random) == 2 and checkpoint.batch_idx_train == 8
    assert differences(checkpoint.model, ranks[0]["model"]) == []


def test_gradients_lie_where_they_are_sent_from(parallel):
    """PyTorch warns of a gradient with other strides than the bucket that it is copied to."""
    assert "strides" not in (parallel / "output.txt").read_text()


def test_all_processes_skip_what_one_has_no_memory_for(parallel, tmp_path):
    """In the middle of its backward pass, when the others have some of its gradients and wait for the rest."""
    single = without_randomness(make_trainer(tmp_path, data()))
    losses = record(single)
    starve(single, 3, [])
    single.run()
    ranks = results(parallel / "starved")
    assert ranks[1]["sent"][0] > 0
    assert differences(ranks[0]["model"], ranks[1]["model"]) == []
    for rank in ranks:
        assert [math.isnan(loss) for loss in rank["losses"]] == [index == 2 for index in range(8)]
        assert rank["losses"] == pytest.approx(losses, rel=1e-3, nan_ok=True)
    assert read_checkpoint(parallel / "starved/epoch-1.pt").training.skipped == 1
    assert [path.name for path in (parallel / "starved").glob("bad-*")] == ["bad-batch-3-rank-1.pt"]


def test_a_process_that_dies_stops_the_others(tmp_path):
    begin = time.monotonic()
    run = start("tests/fixtures/training_parallel.py", tmp_path, 2, "die")
    output, _ = run.communicate(timeout=600)
    assert time.monotonic() - begin < 300
    assert run.returncode == 1
    assert "rank 1 was killed by signal 9: the others are stopped" in output
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "rank 0 stops: another process is gone" in errors[0], output
    assert "Traceback" not in output


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_signals_reach_all_processes(tmp_path, number, code):
    run = start("tests/fixtures/training_parallel.py", tmp_path, 2, "orphan")
    lines = [run.stdout.readline() for _ in range(2)]
    assert all(" is " in line for line in lines), lines
    run.send_signal(number)
    output, _ = run.communicate(timeout=300)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("stopped-*"))) < 2:  # after SIGKILL the kernel tells them that their launcher is gone
        assert time.monotonic() < deadline, output
        time.sleep(0.05)
    assert run.returncode == code and "Traceback" not in output, output


@pytest.mark.parametrize(
    ("error", "size", "kind", "message"),
    [
        ("CUDA error: uncorrectable ECC error encountered", 1, MachineError, "rank 0 stops: its GPU on .* fails"),
        ("NCCL error in: x.cpp:1, unhandled system error", 2, MachineError, "rank 0 stops: another process is gone"),
        ("[../gloo/pair.cc:534] Connection closed by peer", 2, MachineError, "another process is gone"),
        ("NCCL error in: x.cpp:1", 1, None, ""),
        ("mat1 and mat2 shapes cannot be multiplied", 2, None, ""),
    ],
)
def test_failures_of_machines(error, size, kind, message):
    found = machine_failure(World(size=size), RuntimeError(error))
    assert (found and type(found)) == kind and re.search(message, str(found or ""))


def test_no_memory_outside_of_steps():
    found = machine_failure(World(), torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    assert type(found) is UserError and "out of GPU memory outside of training steps" in str(found)


def test_a_failure_of_the_machine_has_its_own_exit_code(capsys):
    def fail():
        raise MachineError("rank 3 stops")

    with pytest.raises(SystemExit) as exit:
        run_main(fail)
    assert exit.value.code == 75 and capsys.readouterr().err == "error: rank 3 stops\n"


def test_network_interfaces(monkeypatch):
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "ib0")])
    with pytest.raises(UserError, match="no --network-interface eth7 here; there are lo, ib0"):
        World.start(TrainConfig(device="cpu", network_interface="eth7"))
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
    World.start(TrainConfig(device="cpu", network_interface="ib0"))
    assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == "ib0"

    def refuse(*args, **options):
        raise RuntimeError("unable to resolve hostname to a (local) address")

    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *args, **options: None)
    monkeypatch.setattr(torch.distributed, "new_group", refuse)
    with pytest.raises(UserError, match="cannot join the 2 processes .*try --network-interface with one of lo, ib0"):
        World(size=2)._join(timedelta(1))


def test_one_process_needs_no_others():
    world = World()
    assert world.all(True) and not world.any(False) and world.is_main
    assert world.gather({"a": 1}) == [{"a": 1}] and world.from_main("x") == "x"


def test_devices(monkeypatch):
    assert choose_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(UserError, match="PyTorch sees no GPU"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="process 1 of this machine has no GPU: there are 1"):
        choose_device("auto", 1)


def test_bad_environment(monkeypatch):
    monkeypatch.setitem(os.environ, "RANK", "first")
    with pytest.raises(UserError, match="RANK is 'first', not a number"):
        World.start(TrainConfig(device="cpu"))
