"""Run by test_kernels.py: compiles the kernels of this project for sm_80 and sm_90."""

from __future__ import annotations

import random
from typing import Any

import torch
import triton
from torch import Tensor
from training_fixtures import random_batch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sammo.fake_cuda import Launch, fake_cuda
from sammo.transducer import Transducer, model_config
from sammo.transducer.lattice_triton import recursion

TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int64: "i64", torch.int32: "i32"}
TYPES |= {torch.bool: "i1"}
SYMBOLS = [2**power - 1 for power in range(4, 11)]


def source(launch: Launch) -> tuple[str, dict[str, str], dict[str, Any], dict[str, Any]]:
    """Name, types of the arguments, constants, and options of a launch."""
    types, constants = {}, {}
    for parameter in launch.kernel.params:
        value = launch.arguments.get(parameter.name)
        if parameter.is_constexpr or value is None:
            types[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, Tensor):
            types[parameter.name] = "*" + TYPES[value.dtype]
        else:
            types[parameter.name] = "fp32" if isinstance(value, float) else "i32"
    names = {parameter.name for parameter in launch.kernel.params}
    options = {name: value for name, value in launch.arguments.items() if name not in names}
    return launch.kernel.__name__, types, constants, options


def launches() -> dict[str, Launch]:
    """Description -> a launch of it, for all that occur."""
    random.random = lambda: 0.0  # everything acts
    found = {}
    with fake_cuda() as trace:
        for name in ("sammo", "zipformer"):
            with torch.device("cuda"):
                model = Transducer(model_config(name, "tiny", 500)).train()
            for enabled in (False, True):
                batch = random_batch(0, 3, 400)
                for chunk in (16, -1):
                    with torch.autocast("cuda", torch.bfloat16, enabled=enabled):
                        losses = model(batch["features"].cuda(), batch["lengths"], batch["tokens"], chunk_size=chunk)
                    (losses.simple + losses.pruned).sum().backward()
        for symbols in SYMBOLS:
            recursion(torch.empty(2, symbols, 9, device="cuda"), torch.empty(2, symbols + 1, 8, device="cuda"), None)
        for launch in trace.launches:
            if launch.kernel.fn.__module__.startswith("sammo."):
                found[str(source(launch))] = launch
    return found


if __name__ == "__main__":
    for description, launch in launches().items():
        _, types, constants, options = source(launch)
        for capability in (80, 90):
            print(capability, description)
            compiled = triton.compile(
                ASTSource(launch.kernel, signature=types, constexprs=constants),
                target=GPUTarget("cuda", capability, 32),
                options=options,
            )
            assert compiled.asm["ptx"]
    print("compiled")
