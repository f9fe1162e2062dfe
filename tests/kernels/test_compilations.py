"""How often Triton would compile the kernels of a training, told from their launches on fake tensors."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from fixtures.training import random_batch, small_config

from sammo.fake_cuda import Launch, fake_cuda
from sammo.regularize import set_batch_count
from sammo.transducer import Transducer

ONE_LAYER: dict[str, Any] = {
    name: (values,) for name, values in (("downsampling", 2), ("encoder_dim", 64), ("num_layers", 1))
}
ONE_LAYER |= {name: (values,) for name, values in (("unmasked_dim", 48), ("feedforward_dim", 64), ("num_heads", 4))}


def compiled(launch: Launch) -> tuple:
    """What Triton compiles a kernel for: types, constants, and of integers whether they are long, 1, or multiples of 16."""
    key: list = [launch.kernel.__name__]
    for parameter in launch.kernel.params:
        value = launch.arguments.get(parameter.name)
        if isinstance(value, torch.Tensor):
            key.append(value.dtype)
        elif parameter.is_constexpr or value is None or isinstance(value, (bool, float)):
            key.append(value if parameter.is_constexpr or value is None else type(value))
        else:
            aligned = value % 16 == 0 and not parameter.do_not_specialize_on_alignment
            key.append((value >= 2**31, *([] if parameter.do_not_specialize else [value == 1, aligned])))
    return tuple(key)


def test_other_lengths_compile_nothing_anew(monkeypatch):
    """Utterances of all lengths, in chunks that were there before: a training does not stand still in the middle for a
    kernel, nor a benchmark measure the compiler."""
    pytest.importorskip("triton")
    monkeypatch.setattr(random, "random", lambda: 0.0)  # everything acts
    config = small_config(**ONE_LAYER, conv_kernel=(7,), frontend_channels=(16, 16, 16), mamba_head_dim=16)
    known: set[tuple] = set()
    with fake_cuda() as trace:
        with torch.device("cuda"):
            model = Transducer(config).train()
        set_batch_count(model, 100.0)
        for number, (size, frames) in enumerate(((3, 407), (16, 520), (5, 452))):
            batch, new = random_batch(number, size, frames), set()
            for chunk in (16, -1):
                with torch.autocast("cuda", torch.bfloat16):
                    losses = model(batch["features"].cuda(), batch["lengths"], batch["tokens"], chunk_size=chunk)
                (losses.simple + losses.pruned).sum().backward()
            for launch in trace.launches:
                if launch.kernel.fn.__module__.startswith("sammo."):
                    new.add(compiled(launch))
            trace.launches.clear()
            assert not number or not new - known, sorted(map(str, new - known))
            known |= new
    assert len(known) > 20
