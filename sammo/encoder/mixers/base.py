"""What every mixer is: the module of a layer that carries what attention does not reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Mapping, NamedTuple

from torch import Tensor, nn

from sammo.encoder.plan import Plan
from sammo.engines import Engines

if TYPE_CHECKING:
    from sammo.encoder.config import EncoderConfig


class Decay(NamedTuple):
    """What T frames leave of the recurrent state S before them: S_T = transition S_0 + what the frames write."""

    # (N, T, H): log of the share of a state that each frame leaves, the root mean square over the directions of S.
    log: Tensor
    transition: Tensor  # of all frames together: (N, H, 1, 1), a factor, or (N, H, K, K), a matrix on the left


class Mixer(nn.Module):
    """A mixer is one subclass in one file, and one line in ``MIXERS``.

    Class attributes:
      label: what ``sammo info`` calls it.
      options: fields of EncoderConfig that it is made from.
      engines: operation -> its engines; ``self.<operation>_engine`` is the name of the one to use.
      dynamics: parameters that set how long a head remembers and how much it takes in; they take plain Adam steps, see
        TrainConfig.ssm_lr_scale.
      recurrent_leaf: name of the state's field that every frame rewrites as a whole, (N, H, K, V), and of which
        :meth:`decay` tells how much frames leave; None: the state has no such field.
      attends: whether it uses the layer's attention weights, and so sees as far back as they do.
    """

    label: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    engines: ClassVar[Mapping[str, Engines]] = {}
    dynamics: ClassVar[tuple[str, ...]] = ()
    recurrent_leaf: ClassVar[str | None] = None
    attends: ClassVar[bool] = False

    @classmethod
    def check(cls, config: EncoderConfig) -> None:
        """UserError where the configuration does not fit this mixer."""

    @classmethod
    def from_config(cls, config: EncoderConfig, stack: int) -> Mixer:
        """The mixer of a layer of this stack."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, weights: Tensor | None = None, plan: Plan | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        """Mix over time.

        Args:
          x: (N, T, C).
          weights: (B, heads, rows, left + rows), the layer's attention weights.
          plan: which frames see which.
          state: of :meth:`init_state` or of the window before; None: nothing came before.

        Returns:
          (N, T, C), or a scalar zero of a mixer that adds nothing, and the next state.
        """
        raise NotImplementedError

    def init_state(self, batch: int, left: int | None = None) -> Any:
        """The state of streams that have not begun: zeros. ``left``: frames of left context of the attention weights;
        None: they have none."""
        return ()

    def time_constants(self) -> Tensor | None:
        """(H,) frames after which a head's state has fallen to 1/e, where the input does not change its decay; None
        without heads that decay."""
        return None

    def decay(self, x: Tensor, state: Any) -> Decay:
        """What the frames x (N, T, C) leave of the recurrent state before them, ``state``."""
        raise NotImplementedError
