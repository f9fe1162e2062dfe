"""Gradients over several processes, and how all of them leave a batch that one of them cannot finish."""

from __future__ import annotations

import gc
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from sammo.training.distributed import World


class Parallel:
    """Calls a model so that its gradients become the mean over all processes while they are computed.

    A process whose GPU runs out of memory would leave the others waiting for its gradients: :meth:`give_up` sends them NaN,
    so that all processes skip the batch, and :meth:`renew` prepares for the next one. With one process it calls the model
    and nothing else.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self.model, self.world = model, world
        self._module: nn.Module = model
        self._sent = 0  # buckets of gradients in this batch
        self.renew()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output; arguments stay on their devices: lengths are for the CPU."""
        self._sent = 0
        return self._module(*args, **kwargs)

    def renew(self) -> None:
        """Forgets an unfinished batch. All processes must call it."""
        if self.world.size == 1:
            return
        self._module = self.model
        gc.collect()  # what reduced the gradients is in a cycle, and still hears of every new one
        parallel = DistributedDataParallel(self.model, gradient_as_bucket_view=True)
        parallel.register_comm_hook(self, _count_and_average)
        self._module = parallel

    def give_up(self) -> None:
        """Ends the batch's backward pass, wherever it is, with gradients of NaN in all processes.

        No tensor of the batch may be kept by then: memory is needed for the gradients.
        """
        if self.world.size > 1:
            # As torch's own Join does for a process that has no more batches.
            parallel: Any = self._module  # its reducer is private to torch
            buckets = parallel.reducer._get_zeros_like_grad_buckets()[self._sent :]
            sent = [dist.all_reduce(bucket.buffer().fill_(torch.nan), async_op=True) for bucket in buckets]
            for work in sent:
                assert work is not None  # it is of an operation that was asked not to wait
                work.wait()
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.full_like(parameter, torch.nan)


def _count_and_average(parallel, bucket):  # torch refuses annotations that are strings
    """DistributedDataParallel's own reduction; it sends buckets in the order of their numbers."""
    parallel._sent += 1
    group = dist.group.WORLD
    assert group is not None
    return allreduce_hook(group, bucket)
