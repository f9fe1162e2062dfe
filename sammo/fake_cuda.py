"""What a GPU would be asked to do, on a machine without one.

Inside :func:`fake_cuda`, tensors on "cuda" have a device, a type, a shape and strides but no memory (PyTorch's fake
tensors), tensors on the CPU are real, and Triton kernels are written down instead of being launched. Code that mixes
devices, takes a view that strides do not allow or waits for the GPU is found. Values, speed and memory are not: what is
read from the fake GPU is invented.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, Callable, Iterator, Mapping, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sammo.constants import forget_constants

aten = torch.ops.aten
H100 = SimpleNamespace(major=9, minor=0, multi_processor_count=132, total_memory=80 * 2**30)
LIBRARY = f"{Path(__file__).parent}{os.sep}"


class Launch(NamedTuple):
    """A Triton kernel that would have run."""

    kernel: Any  # triton.JITFunction
    arguments: dict[str, Any]  # name -> value, constants included; "num_warps" and the like too where they were given
    where: str  # who launched it


class Trace(TorchDispatchMode):
    """What happened inside :func:`fake_cuda`.

    Attributes:
      waits: place in the library -> how often the program waited there for the GPU: values read from it, copies from
        pageable memory that are not asked to go on in the background.
      launches: of Triton kernels.
      nonzero_finds: whether nothing is zero, or everything.
      on_kernel: called with (function, arguments, outputs) of every operation on the fake GPU, and with a Launch.
      makers: sequence number of a node of autograd -> who made it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.launches: list[Launch] = []
        self.nonzero_finds = True
        self.on_kernel: Callable[..., None] | None = None
        self.makers: dict[int, str] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and func.namespace == "aten" and func._can_decompose():
            # In inference mode operations come here before they are taken apart.
            with self:
                return func.decompose(*args, **kwargs)
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        devices = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
        fake = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if not fake and all(device.type == "cpu" for device in devices):
            with no_dispatch():
                return func(*args, **kwargs)
        if func.namespace == "aten" and func.overloadpacket.__name__ in ("_use_cudnn_ctc_loss", "_use_miopen_ctc_loss"):
            return False
        if func is aten._local_scalar_dense.default:
            self._wait(args[0])
            return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
        if func is aten.nonzero.default:
            self._wait(args[0])
            return torch.empty(
                args[0].numel() * self.nonzero_finds, args[0].ndim, dtype=torch.int64, device=args[0].device
            )
        for tensor in tensors:
            if isinstance(tensor, FakeTensor):
                tensor.constant = None  # PyTorch would compute with it on the real GPU
        outputs = _ctc(func, args) if func in CTC else func(*args, **kwargs)
        self._check_copy(func, args, kwargs, outputs)
        if self.on_kernel is not None:
            # An operation makes its node before it comes here.
            node = torch.autograd._get_sequence_nr() - 1  # pyright: ignore[reportPrivateImportUsage]
            if node not in self.makers:
                self.makers[node] = caller(qualified=True)
            self.on_kernel(func, (args, kwargs), outputs)
        return outputs

    def _check_copy(self, func: Any, args: Any, kwargs: dict[str, Any], outputs: Any) -> None:
        if func is aten._to_copy.default:
            source, target, background = args[0], outputs, kwargs.get("non_blocking", False)
        elif func is aten.copy_.default:
            (target, source), background = args[:2], args[2] if len(args) > 2 else False
        else:
            return
        kinds = source.device.type, target.device.type
        if "cuda" in kinds and kinds[0] != kinds[1] and not (background and kinds[0] == "cpu"):
            self._wait(source if source.is_cuda else target)

    def _wait(self, tensor: Tensor) -> None:
        if tensor.is_cuda:
            self.waits[caller()] += 1

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        """Takes the place of triton's JITFunction.run."""
        options = {name: kwargs.pop(name) for name in ("grid", "warmup") if name in kwargs}
        assert options["grid"] is not None
        arguments = {**dict(zip(kernel.arg_names, args)), **kwargs}
        if callable(options["grid"]):
            options["grid"](arguments)
        strangers = [name for name, value in arguments.items() if isinstance(value, Tensor) and not value.is_cuda]
        assert not strangers, f"{kernel.__name__}: {strangers} are not on the GPU"
        launch = Launch(kernel, arguments, caller())
        self.launches.append(launch)
        if self.on_kernel is not None:
            self.on_kernel(launch, None, None)


CTC = (aten._ctc_loss.default, aten._ctc_loss.Tensor, aten._ctc_loss_backward.default, aten._ctc_loss_backward.Tensor)


def _ctc(func: Any, args: Any) -> Any:
    """PyTorch has no fake CTC: losses (N,) and alphas (N, T, 2 S + 1) from (T, N, V), or the gradient."""
    if func in CTC[2:]:
        return torch.empty_like(args[1])
    log_probs, targets = args[:2]
    frames, batch, _ = log_probs.shape
    return log_probs.new_empty(batch), log_probs.new_empty(batch, frames, 2 * targets.shape[-1] + 1)


def caller(qualified: bool = False) -> str:
    """The innermost function of the library that is running, as "encoder/encoder.py:forward"; ``qualified``: with its
    class, and in a backward pass with the node that runs."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if qualified and code is backward.__code__:
            return frame.f_locals["running"][0]
        if code.co_filename.startswith(LIBRARY) and code.co_filename != __file__:
            owner = frame.f_locals.get("self") if qualified else None
            name = code.co_name if owner is None else f"{type(owner).__name__}.{code.co_name}"
            return f"{code.co_filename[len(LIBRARY) :]}:{name}"
        frame = frame.f_back
    return "elsewhere"


@contextmanager
def fake_cuda() -> Iterator[Trace]:
    """Make "cuda" a device whose tensors are fake."""
    trace = Trace()
    always = mock.Mock(return_value=True)
    with ExitStack() as stack:
        forget_constants()
        stack.callback(forget_constants)
        makers = trace.makers
        for name, value in (
            ("torch.cuda.is_bf16_supported", always),
            ("torch.cuda.device", lambda _: nullcontext()),
            ("torch.cuda.current_device", lambda: 0),
            ("torch.cuda.synchronize", mock.Mock()),
            ("torch.cuda.get_device_properties", lambda *_: SimpleNamespace(name="fake", **vars(H100))),
            ("torch.cuda.get_rng_state", lambda *_: torch.get_rng_state()),
            ("torch.cuda.set_rng_state", mock.Mock()),
            ("torch.cuda.max_memory_allocated", lambda *_: 0),
            ("torch.cuda.reset_peak_memory_stats", mock.Mock()),
            ("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
            ("torch.Tensor.backward", lambda loss, gradient=None: backward(loss, gradient, makers)),
        ):
            stack.enter_context(mock.patch(name, value))
        _write_down_launches(stack, trace)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(trace)
        yield trace


def _write_down_launches(stack: ExitStack, trace: Trace) -> None:
    try:
        from triton.runtime.autotuner import Autotuner
        from triton.runtime.jit import JITFunction
    except ImportError:
        return

    def run(kernel: Any, *args: Any, **kwargs: Any) -> None:
        trace.launch(kernel, *args, **kwargs)

    def tuned(tuner: Any, *args: Any, **kwargs: Any) -> None:
        tuner.best_config = tuner.configs[0]
        tuner.fn.run(*args, **{**kwargs, **tuner.best_config.all_kwargs()})

    stack.enter_context(mock.patch.object(JITFunction, "run", run))
    stack.enter_context(mock.patch.object(Autotuner, "run", tuned))


# ------------------------------------------------------------------------------------ backward


def backward(loss: Tensor, gradient: Tensor | None = None, makers: Mapping[int, str] = MappingProxyType({})) -> None:
    """Takes the place of Tensor.backward: PyTorch's engine asks the CUDA driver for streams, this one calls the nodes.

    Like the engine it adds what arrives at a node from several sides, makes zeros for outputs without a gradient where
    the node is a Python function, and sums and casts to the shape and the type of the forward value. Hooks are not
    called.
    """
    assert loss.grad_fn is not None, "nothing to differentiate"
    running = ["the first gradient"]  # for caller()
    waiting: Counter[Any] = Counter()  # node -> edges that lead to it
    seen, stack = {loss.grad_fn}, [loss.grad_fn]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is None:
                continue
            waiting[node] += 1
            if node not in seen:
                seen.add(node)
                stack.append(node)
    arrived: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    arrived[loss.grad_fn][loss.output_nr] = torch.ones_like(loss) if gradient is None else gradient
    ready = [loss.grad_fn]
    while ready:
        node = ready.pop()
        running[0] = f"{makers.get(node._sequence_nr(), '')} {node.name()}"
        with torch.no_grad():
            results = _call(node, arrived.pop(node, {}))
        for (following, place), result in zip(node.next_functions, results):
            if following is None:
                continue
            if result is not None:
                with torch.no_grad():
                    _arrive(arrived[following], place, result, following)
            waiting[following] -= 1
            if not waiting[following]:
                ready.append(following)


def _call(node: Any, gradients: dict[int, Tensor]) -> list[Tensor | None]:
    """What a node passes on, one a next function."""
    if not gradients:
        return [None] * len(node.next_functions)
    if hasattr(node, "variable"):  # a leaf
        leaf, (gradient,) = node.variable, gradients.values()
        leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
        return []
    metadata = node._input_metadata
    arguments = [gradients.get(index) for index in range(len(metadata))]
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        results = node(*arguments)
        return list(results) if isinstance(results, tuple) else [results]
    for index, (argument, known) in enumerate(zip(arguments, metadata)):
        if argument is None:
            arguments[index] = torch.zeros(known.shape, dtype=known.dtype, device=known.device)
    results = node.apply(*arguments)
    results = results if isinstance(results, tuple) else (results,)
    # One result an argument of forward; next functions are those of the tensors among them.
    wanted = iter([result for result, needed in zip(results, node.needs_input_grad) if needed])
    return [None if following is None else next(wanted) for following, _ in node.next_functions]


def _arrive(there: dict[int, Tensor], place: int, gradient: Tensor, node: Any) -> None:
    known = node.variable if hasattr(node, "variable") else node._input_metadata[place]
    if gradient.shape != tuple(known.shape):
        gradient = gradient.sum_to_size(tuple(known.shape))
    assert gradient.device == known.device, f"{node.name()}: a gradient on {gradient.device}"
    if gradient.dtype != known.dtype:
        gradient = gradient.to(known.dtype)
    there[place] = gradient if place not in there else there[place] + gradient
