"""Log-probabilities of a cell's next symbol and of blank: one kernel forward, one backward, nothing held beside the logits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_V = 1024


@triton.jit
def _logprobs_kernel(
    logits_ptr, symbols_ptr, symbol_ptr, blank_ptr, normalizer_ptr, V, blank_id, BLOCK_V: tl.constexpr
):  # fmt: skip
    """From a row of logits (rows, V) its normalizer and, less that, the values of its symbol and of blank, (rows,) each."""
    row = tl.program_id(0).to(tl.int64)
    logits = logits_ptr + row * V
    top = tl.full((BLOCK_V,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_V,), tl.float32)
    for start in range(0, V, BLOCK_V):
        v = start + tl.arange(0, BLOCK_V)
        x = tl.load(logits + v, mask=v < V, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, x)
        base = tl.where(higher == -float("inf"), 0.0, higher)
        total = total * tl.exp(top - base) + tl.exp(x - base)
        top = higher
    highest = tl.max(top, 0)
    normalizer = highest + tl.log(tl.sum(total * tl.exp(top - highest), 0))
    tl.store(normalizer_ptr + row, normalizer)
    tl.store(symbol_ptr + row, tl.load(logits + tl.load(symbols_ptr + row)).to(tl.float32) - normalizer)
    tl.store(blank_ptr + row, tl.load(logits + blank_id).to(tl.float32) - normalizer)


@triton.jit
def _logprobs_backward_kernel(
    logits_ptr, symbols_ptr, normalizer_ptr, symbol_grad_ptr, blank_grad_ptr, out_ptr, V, blank_id,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """out (rows, V), which may be the logits."""
    row = tl.program_id(0).to(tl.int64)
    v = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    by_symbol, by_blank = tl.load(symbol_grad_ptr + row), tl.load(blank_grad_ptr + row)
    x = tl.load(logits_ptr + row * V + v, mask=v < V, other=0.0).to(tl.float32)
    grad = -(by_symbol + by_blank) * tl.exp(x - tl.load(normalizer_ptr + row))
    grad += tl.where(v == tl.load(symbols_ptr + row), by_symbol, 0.0) + tl.where(v == blank_id, by_blank, 0.0)
    tl.store(out_ptr + row * V + v, grad, mask=v < V)


def logprobs(logits: Tensor, symbols: Tensor, blank_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """logits (rows, V), symbols (rows,) int64 -> log-probabilities of the symbol and of blank, and the normalizer, (rows,)
    each in float32."""
    logits, symbols = logits.contiguous(), symbols.contiguous()
    rows, vocab = logits.shape
    symbol, blank, normalizer = (torch.empty(rows, device=logits.device) for _ in range(3))
    if rows:
        _logprobs_kernel[(rows,)](
            logits, symbols, symbol, blank, normalizer, vocab, blank_id, BLOCK_V=BLOCK_V
        )  # fmt: skip
    return symbol, blank, normalizer


def logprobs_backward(
    logits: Tensor,
    symbols: Tensor,
    normalizer: Tensor,
    symbol_grad: Tensor,
    blank_grad: Tensor,
    blank_id: int,
    in_place: bool,
) -> Tensor:
    """The gradient of the logits, in their type; with ``in_place`` where they are."""
    logits, symbols = logits.contiguous(), symbols.contiguous()
    rows, vocab = logits.shape
    out = logits if in_place else torch.empty_like(logits)
    if rows:
        _logprobs_backward_kernel[(rows, triton.cdiv(vocab, BLOCK_V))](
            logits, symbols, normalizer, symbol_grad.contiguous(), blank_grad.contiguous(), out, vocab, blank_id,
            BLOCK_V=BLOCK_V,
        )  # fmt: skip
    return out
