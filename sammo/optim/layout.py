"""Many parameters as a few matrices, so that an optimizer runs few and large operations.

Every parameter takes whole rows of ``WIDTH`` values, the last row padded with zeros. Per-parameter
factors then are one column, and per-parameter sums are row sums followed by a segment sum. This
batches over parameters of all shapes at once, where stacking those of one shape needs a pass per shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WIDTH = 256  # values per row: small beside a weight matrix, large beside the one factor per row
CPU_BLOCK = 2**19  # values per block; the arrays of a block then stay in the cache
CUDA_BLOCK = 2**23  # large enough to hide kernel launches, small enough to bound scratch memory


@dataclass(frozen=True)
class Block:
    """Consecutive parameters ``[first, last)``, their rows ``[start, stop)``, and whether these have padding."""

    first: int
    last: int
    start: int
    stop: int
    padded: bool


class Layout:
    """Where each parameter lies in a (rows, WIDTH) matrix, and the blocks it is worked through in.

    Args:
      params: parameters on one device.
    """

    def __init__(self, params: list[Tensor]) -> None:
        self.params = params
        self.device = params[0].device
        row_counts = [max(1, -(-p.numel() // WIDTH)) for p in params]
        self.starts = [0]
        for count in row_counts:
            self.starts.append(self.starts[-1] + count)
        self.rows = self.starts[-1]
        self.row_counts = torch.tensor(row_counts, device=self.device)
        self.row_to_param = torch.repeat_interleave(
            torch.arange(len(params), device=self.device), self.row_counts, output_size=self.rows
        )
        self.blocks = self._make_blocks(CUDA_BLOCK if self.device.type == "cuda" else CPU_BLOCK)
        self.scratch_rows = max(block.stop - block.start for block in self.blocks)

    def _make_blocks(self, size: int) -> list[Block]:
        blocks, first = [], 0
        for last in range(1, len(self.params) + 1):
            full = last < len(self.params) and (self.starts[last + 1] - self.starts[first]) * WIDTH > size
            if full or last == len(self.params):
                padded = any(p.numel() % WIDTH for p in self.params[first:last])
                blocks.append(Block(first, last, self.starts[first], self.starts[last], padded))
                first = last
        return blocks

    def zeros(self) -> Tensor:
        """A zero matrix (rows, WIDTH), float32."""
        return torch.zeros(self.rows, WIDTH, device=self.device)

    def scratch(self) -> Tensor:
        """A zero matrix that holds any one block."""
        return torch.zeros(self.scratch_rows, WIDTH, device=self.device)

    def views(self, matrix: Tensor, block: Block | None = None) -> list[Tensor]:
        """The parameters' parts of ``matrix``, in the parameters' shapes; of a block's own rows with ``block``."""
        first, last, offset = (0, len(self.params), 0) if block is None else (block.first, block.last, block.start)
        flat = matrix.view(-1)
        parts = []
        for index in range(first, last):
            begin = (self.starts[index] - offset) * WIDTH
            parts.append(flat[begin : begin + self.params[index].numel()].view(self.params[index].shape))
        return parts

    def sum_rows(self, row_sums: Tensor) -> Tensor:
        """Sums over each parameter: (rows,) -> (number of parameters,). Deterministic on every device."""
        return torch.segment_reduce(row_sums, "sum", lengths=self.row_counts, unsafe=True)

    def to_rows(self, per_param: Tensor) -> Tensor:
        """(number of parameters,) -> (rows, 1), to multiply a matrix with."""
        return per_param[self.row_to_param].unsqueeze(1)
