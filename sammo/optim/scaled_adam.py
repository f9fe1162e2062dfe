"""ScaledAdam, the optimizer of Zipformer (Yao et al., ICLR 2024, section 3.5)."""

from __future__ import annotations

import logging
import math
from typing import Any, Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from sammo.errors import UserError
from sammo.optim.group import ClippingStats, GroupState

logger = logging.getLogger(__name__)

# Of a group's parameters: sums of grad^2, of grad * param, of param^2 where a step needs it, and weighted ones of grad^2.
Measured = tuple[Tensor, Tensor, Tensor | None, Tensor]

# The threshold is estimated early, and generously, at these steps; then once per clipping period.
EARLY_ESTIMATES = (10, 20, 40)


class ScaledAdam(Optimizer):
    """Adam whose step is proportional to each parameter's root mean square (rms), and which learns that scale.

    A parameter of more than one element moves by ``-lr * rms * grad / sqrt(mean grad^2)``, with momentum; every
    ``size_update_period`` steps it also grows or shrinks by a step of ``lr * scalar_lr_scale`` in the direction
    that its gradient along itself asks for. One-element parameters get plain Adam at ``lr * scalar_lr_scale``,
    and so do, at a rate of their own, those that ``plain_lr_scale`` names: parameters whose size says nothing
    about the step that suits them, as the logarithms that set the time constants of a state space model.

    Gradients are clipped to ``clipping_scale`` times the median of the total norm over the last
    ``clipping_update_period`` steps, each gradient being weighted with its parameter's rms. A total norm that
    is not finite drops that step's gradients. A parameter without gradient (None) counts as having a zero one.

    Args:
      params: parameters, (name, parameter) pairs, or groups: dicts with "params" or "named_params" and options.
      lr: learning rate; Eden starts from about 0.045.
      clipping_scale: None for no clipping; 2.0 is usual.
      betas: decay of the momentum and of the mean squared gradient.
      scalar_lr_scale: learning rate of scales and of one-element parameters over ``lr``.
      eps: added to the root mean squared gradient.
      param_min_rms: rms below which a parameter is not shrunk, and its step not made smaller.
      param_max_rms: rms that learning the scale does not go beyond.
      scalar_max: largest magnitude of a one-element parameter.
      plain_lr_scale: name -> learning rate over ``lr``, above 0, of parameters that take plain Adam steps. The group
        must give names.
      size_update_period: steps between updates of scales and rms.
      clipping_update_period: steps between estimates of the clipping threshold.

    Raises:
      UserError: sparse gradients, or most gradients of a clipping period not finite.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.03,
        clipping_scale: float | None = None,
        betas: tuple[float, float] = (0.9, 0.98),
        scalar_lr_scale: float = 0.1,
        eps: float = 1e-8,
        param_min_rms: float = 1e-5,
        param_max_rms: float = 3.0,
        scalar_max: float = 10.0,
        size_update_period: int = 4,
        clipping_update_period: int = 100,
        plain_lr_scale: dict[str, float] | None = None,
    ) -> None:
        defaults = dict(
            lr=lr,
            clipping_scale=clipping_scale,
            betas=betas,
            scalar_lr_scale=scalar_lr_scale,
            eps=eps,
            param_min_rms=param_min_rms,
            param_max_rms=param_max_rms,
            scalar_max=scalar_max,
            size_update_period=size_update_period,
            clipping_update_period=clipping_update_period,
            plain_lr_scale=plain_lr_scale or {},
        )
        self._groups: dict[int, GroupState] = {}
        self._measured: list[Measured] | None = None
        self._norms: list[float] | None = None
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group: ``{"params": ..., **options}`` or ``{"named_params": ..., **options}``."""
        group = dict(param_group)
        entries = group.pop("named_params") if "named_params" in group else group["params"]
        entries = [entries] if isinstance(entries, Tensor) else list(entries)
        number = len(self.param_groups)
        group["names"] = [
            entry[0] if isinstance(entry, tuple) else f"group {number} parameter {index}"
            for index, entry in enumerate(entries)
        ]
        group["params"] = [entry[1] if isinstance(entry, tuple) else entry for entry in entries]
        super().add_param_group(group)
        plain = group["plain_lr_scale"]
        if set(plain) - set(group["names"]) or not all(scale > 0 for scale in plain.values()):
            raise UserError(f"plain_lr_scale {plain}: give parameters of the group, and rates above 0")

    @torch.no_grad()
    def measure(self) -> Tensor:
        """(2 * groups,): of every group the norm of its gradients and the weighted one that clipping goes by.

        For programs that do not want to wait for a GPU more than once: read these among other numbers and give them to
        :meth:`use_norms`. What is computed here is not computed again in the step.
        """
        measured, norms = [], []
        for index, options in enumerate(self.param_groups):
            group = self._group(index)
            grad_sq, dot, param_sq = group.sums(_is_size_step(group, options) or group.step == 0)
            if group.step == 0 and param_sq is not None:
                group.param_rms.copy_((param_sq / group.numel).sqrt())
            weights = torch.where(group.is_plain, group.plain_scale, group.param_rms)
            sumsq = grad_sq * weights.square()
            measured.append((grad_sq, dot, param_sq, sumsq))
            norms += [grad_sq.sum().sqrt(), sumsq.sum().sqrt()]
        self._measured, self._norms = measured, None
        return torch.stack(norms)

    def use_norms(self, norms: list[float]) -> None:
        """What :meth:`measure` returned, read, for the step that follows."""
        self._norms = norms

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self._measured = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what ``closure``, if given, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._measured is None or self._norms is None:
            self.use_norms(self.measure().tolist())
        assert self._measured is not None and self._norms is not None
        for index, (options, measured) in enumerate(zip(self.param_groups, self._measured)):
            self._step_group(self._group(index), options, measured, self._norms[2 * index + 1])
        self._measured = None
        return loss

    def clipping_stats(self) -> list[ClippingStats]:
        """Statistics of gradient clipping for logging, one entry per parameter group."""
        return [self._group(index).stats for index in range(len(self.param_groups))]

    def _group(self, index: int) -> GroupState:
        options = self.param_groups[index]
        group = self._groups.get(index)
        if group is None or group.layout.device != options["params"][0].device:
            moved, group = group, GroupState(options["params"], options)
            if moved is not None:
                group.restore(moved.tensor_state(), moved.host_state())
            self._groups[index] = group
        return group

    def _step_group(self, group: GroupState, options: dict[str, Any], measured: Measured, norm: float) -> None:
        grad_sq, dot, param_sq, sumsq = measured
        size_step = _is_size_step(group, options)
        clip = 1.0
        if options["clipping_scale"] is not None:
            clip = self._clip(group, options, norm, grad_sq, sumsq)
        if clip == 0.0:
            dot = torch.zeros_like(dot)
        group.scale_grads[group.step % options["size_update_period"]] = dot * clip
        if size_step and param_sq is not None:
            group.param_rms.copy_((param_sq / group.numel).sqrt())
        scalar_lr = options["lr"] * options["scalar_lr_scale"]
        sizes = torch.where(group.is_plain, group.plain_scale, group.param_rms.clamp(min=options["param_min_rms"]))
        factor = sizes * options["lr"]
        scale_step = self._scale_step(group, options, scalar_lr) if size_step and group.step > 0 else None
        group.update(clip, factor, scale_step, options)
        group.step += 1

    def _scale_step(self, group: GroupState, options: dict[str, Any], scalar_lr: float) -> Tensor:
        """Relative growth of each parameter, from the gradients along it since the last size update."""
        period = options["size_update_period"]
        beta2 = options["betas"][1] ** period
        group.scale_exp_avg_sq.mul_(beta2).add_(group.scale_grads.square().mean(dim=0), alpha=1.0 - beta2)
        correction = 1.0 - beta2 ** ((group.step + 1) // period)
        denominator = group.scale_exp_avg_sq.sqrt() + options["eps"]
        growth = group.scale_grads.sum(dim=0) / denominator * (-scalar_lr * math.sqrt(correction))
        growth.masked_fill_(group.param_rms < options["param_min_rms"], 0.0)
        growth.clamp_(min=-0.1, max=0.1)
        growth = torch.minimum(growth, (options["param_max_rms"] - group.param_rms) / group.param_rms)
        return growth.masked_fill_(group.is_plain, 0.0)

    def _clip(self, group: GroupState, options: dict[str, Any], norm: float, grad_sq: Tensor, sumsq: Tensor) -> float:
        """The factor, at most 1, to scale this step's gradients with; keeps the statistics."""
        quartiles = group.stats.quartiles
        if group.step > 0:
            group.norms[group.step % len(group.norms)] = norm
            if group.step % len(group.norms) == 0 or group.step in self._early(group):
                quartiles = self._estimate_threshold(group, options["clipping_scale"])
        scale = 1.0
        if not math.isfinite(norm):
            scale = 0.0
        elif group.threshold is not None:
            scale = min(1.0, group.threshold / (norm + 1e-20))
        group.steps_since_estimate += 1
        group.num_clipped += scale < 1.0
        fraction = group.num_clipped / group.steps_since_estimate
        group.stats = ClippingStats(norm, group.threshold, scale, fraction, quartiles)
        if scale < 0.5:
            logger.warning("gradients scaled by %.3g: norm %.3e, threshold %s", scale, norm, group.threshold)
            self._explain(group, options["names"], sumsq, grad_sq)
        return scale

    @staticmethod
    def _early(group: GroupState) -> list[int]:
        return [step for step in EARLY_ESTIMATES if step < len(group.norms)]

    def _estimate_threshold(self, group: GroupState, clipping_scale: float) -> tuple[float, ...]:
        early = group.step in self._early(group)
        norms = group.norms.sort()[0]
        if early:
            norms = norms[-group.step :]  # the others are not filled yet
        quarter = len(norms) // 4
        quartiles = tuple(norms[min(len(norms) - 1, quarter * n)].item() for n in range(5))
        if not math.isfinite(quartiles[2]):
            raise UserError(
                f"too many gradients are not finite (step {group.step}): lower the learning rate, or look for bad input"
            )
        # Norms may still be changing fast at first.
        group.threshold = clipping_scale * quartiles[2] * (2.0 if early else 1.0)
        logger.info(
            "clipping_scale %g, grad-norm quartiles %s, threshold %.3e, clipped %.1f %%",
            clipping_scale,
            " ".join(f"{value:.3e}" for value in quartiles),
            group.threshold,
            100.0 * group.num_clipped / max(1, group.steps_since_estimate),
        )
        group.num_clipped = group.steps_since_estimate = 0
        return quartiles

    @staticmethod
    def _explain(group: GroupState, names: list[str], sumsq: Tensor, grad_sq: Tensor) -> None:
        """Log which parameter dominates the norm, and whose gradient is largest beside its own past."""
        top = int(sumsq.argmax())
        logger.warning(
            "dominated by %s: %.2f of the squared norm, grad_sumsq %.3e, rms %.3e",
            names[top],
            (sumsq[top] / sumsq.sum()).item(),
            grad_sq[top].item(),
            group.param_rms[top].item(),
        )
        past = group.layout.sum_rows(group.exp_avg_sq.sum(dim=1))
        ratios = (grad_sq / past).sqrt().nan_to_num(nan=math.inf)
        values, indices = ratios.topk(min(5, len(names)))
        listed = ", ".join(f"{names[i]} {value:.1f}" for value, i in zip(values.tolist(), indices.tolist()))
        logger.warning("largest gradients over their usual size: %s", listed)

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings only; tensors are views of the live state, as torch's own are.

        Returns:
          "param_groups": options, names and indices of parameters; "state": per index the tensors of a parameter
          in its own shape; "clipping": per group the step and the clipping statistics.
        """
        packed, state, host, offset = [], {}, [], 0
        for index, options in enumerate(self.param_groups):
            group = self._group(index)
            count = len(options["params"])
            entry = {key: value for key, value in options.items() if key != "params"}
            packed.append({**entry, "params": list(range(offset, offset + count))})
            host.append(group.host_state())
            if group.step > 0:
                state.update({offset + i: tensors for i, tensors in enumerate(group.tensor_state())})
            offset += count
        return {"state": state, "param_groups": packed, "clipping": host}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over options and state; continuing is identical, bit by bit, to never having stopped.

        Raises:
          UserError: the parameters are not those that the state was saved for.
        """
        saved_groups = state_dict["param_groups"]
        if len(saved_groups) != len(self.param_groups):
            raise UserError(f"optimizer state has {len(saved_groups)} groups, this one {len(self.param_groups)}")
        for options, saved in zip(self.param_groups, saved_groups):
            if options["names"] != saved["names"]:
                differ = set(options["names"]) ^ set(saved["names"])
                raise UserError(f"optimizer state is of other parameters: {sorted(differ)[:5] or 'another order'}")
        for index, (saved, host) in enumerate(zip(saved_groups, state_dict["clipping"])):
            options = self.param_groups[index]
            options.update({key: value for key, value in saved.items() if key not in ("params", "names")})
            options["betas"] = tuple(options["betas"])
            self._groups[index] = GroupState(options["params"], options)
            tensors = [state_dict["state"][i] for i in saved["params"]] if host["step"] > 0 else []
            for name, p, entry in zip(options["names"], options["params"], tensors):
                if entry["delta"].shape != p.shape:
                    shapes = f"{tuple(entry['delta'].shape)}, the parameter {tuple(p.shape)}"
                    raise UserError(f"optimizer state of {name} has shape {shapes}")
            self._groups[index].restore(tensors, host)


def _is_size_step(group: GroupState, options: dict[str, Any]) -> bool:
    period = options["size_update_period"]
    return group.step % period == period - 1
