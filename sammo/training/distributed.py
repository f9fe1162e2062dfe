"""Several processes: started here or by torchrun or Slurm, and never left waiting for one that is gone."""

from __future__ import annotations

import logging
import os
import signal
import socket
from datetime import timedelta
from typing import Any, Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from sammo.device import choose_device
from sammo.errors import MachineError, UserError, run_main
from sammo.signals import STOP_SIGNALS
from sammo.training.config import TrainConfig

GRACE_SECONDS = 10.0  # in which the other processes may see that one is gone, and end
CTRL_C = 130  # exit code
MEMORY = ("Triton Error [CUDA]: out of memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
# What errors of PyTorch say where a GPU is broken, and where a connection is.
HARDWARE = ("ECC error", "NVLink error", "hardware error", "fallen off the bus", "device is lost")
CONNECTION = ("Connection closed", "Connection reset", "Broken pipe", "NCCL", "Timed out", "timed out", "gloo")


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
        if config.network_interface:
            if config.network_interface not in _interfaces():
                known = ", ".join(_interfaces())
                raise UserError(f"no --network-interface {config.network_interface} here; there are {known}")
            os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = config.network_interface
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
            raise UserError(
                f"rank {self.rank} cannot join the {self.size} processes at {where} ({error}); if they are of several "
                f"machines, try --network-interface with one of {', '.join(_interfaces())}"
            ) from error

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def all(self, flag: bool) -> bool:
        """Whether ``flag`` holds in every process."""
        if self.size == 1:
            return flag
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
        values: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, values, dst=0, group=self._control)
        return values

    def from_main(self, value: Any) -> Any:
        """The ``value`` of rank 0, in every process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._control)
        return values[0]

    def close(self) -> None:
        """Leaves in order; not for a process that fails, whose closed connections tell the others."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory did not suffice, for a tensor or, which PyTorch does not tell so, for what Triton or cuBLAS
    load beside them."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(sign in str(error) for sign in MEMORY)


def machine_failure(world: World, error: BaseException) -> UserError | None:
    """One line for an ``error`` of a GPU, of the network or by the end of another process; None for other errors."""
    text = " ".join(str(error).split())
    first = text[:300]
    if not isinstance(error, RuntimeError):
        return None
    if out_of_memory(error):
        return UserError(f"out of GPU memory outside of training steps ({first}): lower --max-duration")
    if any(sign in text for sign in HARDWARE):
        return MachineError(f"rank {world.rank} stops: its GPU on {socket.gethostname()} fails ({first})")
    if world.size > 1 and any(sign in text for sign in CONNECTION):
        return MachineError(f"rank {world.rank} stops: another process is gone or does not answer ({first})")
    return None


def _interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def _from_environment(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdigit():
        raise UserError(f"environment variable {name} is {value!r}, not a number")
    return int(value)


# ------------------------------------------------------------------------------------ starting processes


def started_by_launcher() -> bool:
    """Whether torchrun, Slurm's job script or :func:`launch` has set up this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(processes: int, port: int, function: Callable[..., int | None], *arguments: Any) -> int:
    """Calls ``function`` in ``processes`` processes of this machine and waits for them; 0, or the code of a failure.

    When one fails, the others are ended. Signals to stop are passed on. If this process dies, they stop, too.

    Args:
      port: by which they meet; 0: a free one.
      function, arguments: of a module, and what can be sent to another process.
    """
    environment = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port or _free_port())}
    arguments = (environment, function, arguments)
    context = start_processes(_begin, arguments, processes, join=False, start_method="spawn")
    assert context is not None  # join=False
    started: list[Any] = context.processes
    received: list[int] = []

    def forward(number: int, _: Any) -> None:
        received.append(number)
        for process in started:
            if process.is_alive():
                os.kill(process.pid, number)

    before = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    try:
        while not context.join(grace_period=GRACE_SECONDS):
            pass
    except ProcessExitedException as error:
        how = f"ended with {error.exit_code}"
        if error.exit_code < 0:
            how = f"was killed by signal {-error.exit_code}"
        logging.error(f"rank {error.error_index} {how}: the others are stopped")
        return max(1, error.exit_code)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return CTRL_C if signal.SIGINT in received else 0


def _begin(rank: int, environment: dict[str, str], function: Callable[..., int | None], arguments: tuple) -> None:
    """What a process of :func:`launch` runs."""
    os.setsid()  # Ctrl-C then reaches it once, by the launcher
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    # That it was asked to stop is no failure, for which the others would be ended while they save.
    run_main(lambda: 0 if (code := function(*arguments)) == CTRL_C else code)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
