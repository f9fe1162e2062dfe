"""State and arithmetic of ScaledAdam for one parameter group."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sammo.errors import UserError
from sammo.kernels import by_triton
from sammo.optim.layout import Layout


class ClippingStats(NamedTuple):
    """Gradient clipping of one parameter group at its last step.

    Attributes:
      norm: total norm, every gradient weighted with its parameter's root mean square.
      threshold: norm that gradients are scaled down to; None before the first estimate.
      scale: factor that the last gradients were multiplied with, 1.0 if not clipped.
      fraction_clipped: share of clipped steps since the threshold was last estimated.
      quartiles: minimum, quartiles and maximum of the norms at the last estimate.
    """

    norm: float
    threshold: float | None
    scale: float
    fraction_clipped: float
    quartiles: tuple[float, ...]


class GroupState:
    """Optimizer state of one parameter group: matrices in one :class:`Layout`, vectors over parameters."""

    def __init__(self, params: list[Tensor], options: dict[str, Any]) -> None:
        self.layout = layout = Layout(params)
        device = layout.device
        # Parameters that take plain Adam steps, and the size of these over the learning rate.
        scales = options["plain_lr_scale"]
        named = zip(params, options["names"])
        plain = [scales.get(name, options["scalar_lr_scale"] if p.numel() == 1 else 0.0) for p, name in named]
        self.plain_scale = torch.tensor(plain, device=device)
        self.is_plain = self.plain_scale > 0.0
        self.scalars = [p for p in params if p.numel() == 1]
        self.numel = torch.tensor([p.numel() for p in params], device=device, dtype=torch.float32)
        self.exp_avg_sq = layout.zeros()
        self.delta = layout.zeros()
        self.param_rms = torch.zeros(len(params), device=device)
        self.scale_exp_avg_sq = torch.zeros(len(params), device=device)
        self.scale_grads = torch.zeros(options["size_update_period"], len(params), device=device)
        self.step = 0
        self.norms = torch.zeros(options["clipping_update_period"])
        self.threshold: float | None = None
        self.num_clipped = 0
        self.steps_since_estimate = 0
        self.stats = ClippingStats(math.nan, None, 1.0, 0.0, ())

        self.fused = by_triton(self.delta)
        self.delta_views = layout.views(self.delta)
        self.grad_scratch, self.param_scratch = layout.scratch(), layout.scratch()
        self.grad_views = [layout.views(self.grad_scratch, block) for block in layout.blocks]
        self.param_views = [layout.views(self.param_scratch, block) for block in layout.blocks]

    def load_block(self, index: int, with_params: bool = True) -> tuple[Tensor, Tensor]:
        """Gradients and parameters of a block in scratch, (rows, WIDTH) each; no gradient counts as zero."""
        block = self.layout.blocks[index]
        rows = block.stop - block.start
        params = self.layout.params[block.first : block.last]
        grads, values = self.grad_scratch[:rows], self.param_scratch[:rows]
        pairs = [(view, p.grad) for view, p in zip(self.grad_views[index], params) if p.grad is not None]
        if block.padded or len(pairs) < len(params):  # else every value is overwritten
            grads.zero_()
        if pairs:
            if any(grad.is_sparse for _, grad in pairs):
                raise UserError("ScaledAdam does not take sparse gradients: build embeddings with sparse=False")
            torch._foreach_copy_([view for view, _ in pairs], [grad for _, grad in pairs])
        if with_params:
            if block.padded:
                values.zero_()
            torch._foreach_copy_(self.param_views[index], params)
        return grads, values

    def sums(self, with_squares: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Per parameter: sums of grad^2, grad * param, and param^2 (if with_squares)."""
        layout = self.layout
        grad_sq, dot, param_sq = (torch.empty(layout.rows, device=layout.device) for _ in range(3))
        for index, block in enumerate(layout.blocks):
            grads, values = self.load_block(index)
            rows = slice(block.start, block.stop)
            if self.fused:
                from sammo.kernels.scaled_adam import sums

                sums(grads, values, grad_sq[rows], dot[rows], param_sq[rows] if with_squares else None)
                continue
            torch.sum(grads * values, dim=1, out=dot[rows])
            if with_squares:
                torch.sum(values.square_(), dim=1, out=param_sq[rows])
            torch.sum(grads.square_(), dim=1, out=grad_sq[rows])
        return layout.sum_rows(grad_sq), layout.sum_rows(dot), layout.sum_rows(param_sq) if with_squares else None

    def update(self, clip: float, factor: Tensor, scale_step: Tensor | None, options: dict[str, Any]) -> None:
        """Move the parameters: ``factor`` and ``scale_step`` are per parameter, ``clip`` scales the gradients."""
        beta1, beta2 = options["betas"]
        # Bias correction of Adam's second moment; the first moment deliberately has none (slower first steps).
        correction = 1.0 - beta2 ** (self.step + 1)
        root = 1.0 / math.sqrt(correction) if correction < 0.99 else 1.0
        factor_rows = self.layout.to_rows(factor * -clip)
        scale_rows = None if scale_step is None else self.layout.to_rows(scale_step)
        for index, block in enumerate(self.layout.blocks):
            rows = slice(block.start, block.stop)
            grads, values = self.load_block(index, with_params=scale_rows is not None)
            exp_avg_sq, delta, factors = self.exp_avg_sq[rows], self.delta[rows], factor_rows[rows]
            scales = None if scale_rows is None else scale_rows[rows]
            if self.fused:
                from sammo.kernels.scaled_adam import step as fused_step

                fused_step(
                    grads, values, exp_avg_sq, delta, factors, scales, clip, (beta1, beta2), root, options["eps"]
                )
            else:
                if clip == 0.0:
                    grads.zero_()  # they are not finite: 0 * inf would spoil the state
                exp_avg_sq.mul_(beta2).addcmul_(grads, grads, value=(1.0 - beta2) * clip * clip)
                step = grads.div_(exp_avg_sq.sqrt().mul_(root).add_(options["eps"])).mul_(factors)
                if scales is not None:
                    step.addcmul_(values, scales)
                delta.lerp_(step, 1.0 - beta1)
            params = self.layout.params[block.first : block.last]
            torch._foreach_add_(params, self.delta_views[block.first : block.last])
        if self.scalars:
            torch._foreach_clamp_max_(self.scalars, options["scalar_max"])
            torch._foreach_clamp_min_(self.scalars, -options["scalar_max"])

    def tensors(self) -> dict[str, list[Tensor]]:
        """What a checkpoint keeps of each parameter, as views of this group's state."""
        return {
            "exp_avg_sq": self.layout.views(self.exp_avg_sq),
            "delta": self.delta_views,
            "param_rms": list(self.param_rms),
            "scale_exp_avg_sq": list(self.scale_exp_avg_sq),
            "scale_grads": list(self.scale_grads.unbind(1)),
        }

    def tensor_state(self) -> list[dict[str, Tensor]]:
        """Per parameter, views of the tensors that a checkpoint keeps, in its own shape where it has one."""
        columns = self.tensors()
        return [dict(zip(columns, values)) for values in zip(*columns.values())]

    def host_state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the parameters' tensors."""
        return {
            "step": self.step,
            "norms": self.norms,
            "threshold": self.threshold,
            "num_clipped": self.num_clipped,
            "steps_since_estimate": self.steps_since_estimate,
        }

    def restore(self, tensors: list[dict[str, Tensor]], host: dict[str, Any]) -> None:
        """Copy in what :meth:`tensor_state` and :meth:`host_state` gave."""
        for name, views in self.tensors().items():
            for view, entry in zip(views, tensors):
                view.copy_(entry[name])
        self.norms.copy_(host["norms"])
        self.step = host["step"]
        self.threshold = host["threshold"]
        self.num_clipped = host["num_clipped"]
        self.steps_since_estimate = host["steps_since_estimate"]
