"""Several processes: started here or by torchrun or Slurm, and never left waiting for one that is gone."""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sammo.device import choose_device
from sammo.errors import UserError
from sammo.training.config import TrainConfig
from sammo.training.signals import STOP_SIGNALS

GRACE_SECONDS = 10.0  # between asking the other processes to end and ending them
LAUNCHER = "SAMMO_LAUNCHER_PID"


class World:
    """This process among ``size`` processes; all methods work with one process, too.

    Small agreements between processes go over gloo on the CPU, so that they neither wait for a GPU nor hang when
    another process dies: its closed connection is noticed at once.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, device: torch.device | None = None) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank
        self.device = device or torch.device("cpu")
        self._control: Any = None

    @classmethod
    def start(cls, config: TrainConfig) -> World:
        """Joins the other processes that the environment (of torchrun, for instance) speaks of.

        Raises:
          UserError: the device is not there, or the others do not come.
        """
        rank, size, local_rank = (
            _from_environment(name, default) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        )
        world = cls(rank, size, local_rank, choose_device(config.device, local_rank))
        if world.device.type == "cuda":
            torch.cuda.set_device(world.device)
        if size > 1:
            world._join(timedelta(minutes=config.dist_timeout_minutes))
        return world

    def _join(self, timeout: timedelta) -> None:
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, rank=self.rank, world_size=self.size, timeout=timeout)
            self._control = dist.new_group(backend="gloo", timeout=timeout)
        except (RuntimeError, ValueError) as error:
            where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise UserError(f"rank {self.rank} cannot join the {self.size} processes at {where} ({error})") from error

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def all(self, flag: bool) -> bool:
        """Whether ``flag`` holds in every process."""
        if self.size == 1:
            return flag
        self._check_launcher()
        missing = torch.tensor(int(not flag))
        dist.all_reduce(missing, group=self._control)
        return missing.item() == 0

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` holds in some process."""
        return not self.all(not flag)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place; ``values`` on this process's device."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any] | None:
        """Rank 0 gets the ``value`` of each process (tensors, numbers, strings, containers), the others None."""
        if self.size == 1:
            return [value]
        data = _to_bytes(value)
        lengths = [torch.tensor(0) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor(data.numel()), group=self._control)
        data = torch.nn.functional.pad(data, (0, int(max(lengths)) - data.numel()))
        parts = [torch.empty_like(data) for _ in range(self.size)] if self.is_main else None
        dist.gather(data, parts, dst=0, group=self._control)
        return None if parts is None else [_from_bytes(part[:length]) for part, length in zip(parts, lengths)]

    def from_main(self, value: Any) -> Any:
        """The ``value`` of rank 0, in every process."""
        if self.size == 1:
            return value
        data = _to_bytes(value if self.is_main else None)
        length = torch.tensor(data.numel())
        dist.broadcast(length, src=0, group=self._control)
        if not self.is_main:
            data = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(data, src=0, group=self._control)
        return _from_bytes(data)

    def close(self) -> None:
        """Leaves in order; not for a process that fails, whose closed connections tell the others."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def _check_launcher(self) -> None:
        launcher = os.environ.get(LAUNCHER)
        if launcher is not None and os.getppid() != int(launcher):
            raise UserError(f"rank {self.rank} stops: the process that started it is gone")


def lost_connection(world: World, error: BaseException) -> UserError | None:
    """The one line for an ``error`` that comes of another process's end; None if it is something else."""
    text = str(error)
    signs = ("Connection closed", "Connection reset", "Broken pipe", "NCCL", "Timed out", "timed out", "gloo")
    if world.size == 1 or not isinstance(error, RuntimeError) or not any(sign in text for sign in signs):
        return None
    first = text.strip().splitlines()[0]
    return UserError(f"rank {world.rank} stops: another process is gone or does not answer ({first})")


def _from_environment(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdigit():
        raise UserError(f"environment variable {name} is {value!r}, not a number")
    return int(value)


def _to_bytes(value: Any) -> Tensor:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _from_bytes(data: Tensor) -> Any:
    return torch.load(io.BytesIO(data.numpy().tobytes()), weights_only=True)


# ------------------------------------------------------------------------------------ starting processes


def started_by_launcher() -> bool:
    """Whether torchrun, Slurm's job script or :func:`launch` has set up this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(processes: int, port: int = 0) -> int:
    """Runs this very command in ``processes`` processes of this machine and waits for them.

    When one fails, the others are ended and the failure is reported. Signals to stop are passed on.

    Returns:
      0, or the exit code of the first that failed.
    """
    port = port or _free_port()
    children = []
    for rank in range(processes):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            LAUNCHER: str(os.getpid()),
        }
        command = [sys.executable, *sys.orig_argv[1:]]
        # A session of its own: Ctrl-C then reaches the processes once, from here.
        children.append(subprocess.Popen(command, env=environment, start_new_session=True))
    forwarded = _forward_signals(children)
    try:
        return _wait(children)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
        for number, handler in forwarded.items():
            signal.signal(number, handler)


def _wait(children: list[subprocess.Popen]) -> int:
    while any(child.poll() is None for child in children):
        for rank, child in enumerate(children):
            if child.poll() not in (None, 0):
                _end_others(rank, child, children)
                return child.returncode if child.returncode > 0 else 1
        time.sleep(0.1)
    return next((child.returncode for child in children if child.returncode), 0)


def _end_others(rank: int, failed: subprocess.Popen, children: list[subprocess.Popen]) -> None:
    how = f"was killed by signal {-failed.returncode}" if failed.returncode < 0 else f"ended with {failed.returncode}"
    logging.error(f"rank {rank} {how}: stopping the others")
    deadline = time.monotonic() + GRACE_SECONDS
    # They see the closed connection and say so; one that does not within its grace is ended.
    while time.monotonic() < deadline and any(child.poll() is None for child in children):
        time.sleep(0.1)
    for child in children:
        if child.poll() is None:
            child.kill()


def _forward_signals(children: list[subprocess.Popen]) -> dict[int, Any]:
    def forward(number: int, _: Any) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    return {number: signal.signal(number, forward) for number in STOP_SIGNALS}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
