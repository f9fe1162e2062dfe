"""Linear layers, arranged for inference on CPUs.

In training, on GPUs, in other types than float32 and while a graph is being recorded, :func:`linear` is that of
:mod:`sammo.kernels.linear`. For inference on a CPU, large weights are multiplied in oneDNN's blocked layout, which
costs their memory once more. A chunk of one stream brings 2 to 32 rows to each weight, so that the step's time goes
into fetching the weights (254 MB in the medium preset) from memory; blocks that are read in the order in which they
lie there take half the time of rows that are not.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from sammo.kernels.linear import linear as plain_linear
from sammo.recording import is_recording

LARGE_WEIGHT = 2**16  # values; a smaller one stays in the cache, and few rows of it are not worth the call into oneDNN
# oneDNN chooses the layout for a number of rows. That for many is as fast as any for many, and the fastest for few rows
# of weights that come from memory: it reads them in order, which the layout for few does not.
MANY_ROWS = 512

_packed: WeakIdKeyDictionary = WeakIdKeyDictionary()  # weight -> (its state, its packed copy)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., C_in), weight (C_out, C_in), bias (C_out,) -> (..., C_out)."""
    if not _arranged(x, weight) or weight.numel() < LARGE_WEIGHT and x.numel() < MANY_ROWS * weight.shape[1]:
        return plain_linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, _pack(weight), bias, "none", [], "")


def _arranged(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and _has_packing()
        and not torch.is_autocast_enabled("cpu")
        and not is_recording()
    )


def _pack(weight: Tensor) -> Tensor:
    state = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
    kept = _packed.get(weight)
    if kept is None or kept[0] != state:
        kept = _packed[weight] = (state, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), MANY_ROWS))
    return kept[1]


_AVAILABLE: bool | None = None


def _has_packing() -> bool:
    """Whether this PyTorch was built with oneDNN's packed linear layers."""
    global _AVAILABLE
    if _AVAILABLE is None:
        _AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    return _AVAILABLE
