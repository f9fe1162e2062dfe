"""The inputs and outputs of an exported graph that hold the encoder's state, in forms that sherpa-onnx has code for.

sherpa-onnx starts the states of its models with zeros, splits and joins them by stream and never reads their values. Any
state of a fixed size can therefore pass as that of an LSTM; a Zipformer's has the form of icefall's exports.
"""

from __future__ import annotations

import itertools
from typing import Any, Protocol, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sammo.encoder import Encoder, EncoderState
from sammo.encoder.mixers.nla import NonlinearAttention
from sammo.encoder.state import flat_leaves, leaf_widths, shape_leaves
from sammo.encoder.zipformer import LayerState, Zipformer
from sammo.errors import UserError

EMBED_CHANNELS = 128  # of the front-end, which sherpa-onnx takes for granted in a zipformer2


class StateLayout(Protocol):
    """How an encoder's state becomes inputs and outputs of a graph. Between chunks a runtime keeps a third form of it, a
    tree of tensors (N, ...) from ``start`` and ``keep``, which :func:`sammo.encoder.state.pack_state` packs to the same
    values as the encoder's own state."""

    model_type: str  # what sherpa-onnx calls it
    names: tuple[str, ...]  # of the inputs
    outputs: tuple[str, ...]

    def axis(self, name: str) -> int:
        """The dimension of the input or output ``name`` along which the streams lie."""
        ...

    def metadata(self) -> dict[str, str | int]:
        """What sherpa-onnx reads to make the first states."""
        ...

    def unpack(self, tensors: Sequence[Tensor]) -> EncoderState:
        """The graph's inputs -> the encoder's state."""
        ...

    def pack(self, state: EncoderState) -> tuple[Tensor, ...]:
        """The encoder's state -> the graph's outputs."""
        ...

    def start(self) -> Any:
        """The kept form of a stream that has not begun, N = 1."""
        ...

    def feed(self, kept: Any, /) -> tuple[Tensor, ...]:
        """Kept form -> the graph's inputs."""
        ...

    def keep(self, tensors: Sequence[Tensor]) -> Any:
        """The graph's outputs -> kept form."""
        ...


class LstmLayout:
    """Any state as the two of an LSTM of one layer: its tensors flattened side by side, the first ones in h (1, N, A), the
    others in c (1, N, B), divided between two tensors near the middle.

    Args:
      encoder: its state has one size.
      left_context_frames: embed frames (50 Hz) that attention keeps, where it keeps any.
    """

    model_type = "lstm"
    names, outputs = ("h", "c"), ("next_h", "next_c")

    def __init__(self, encoder: Encoder, left_context_frames: int = 0) -> None:
        self._like = encoder.init_state(1, left_context_frames)
        self._widths = leaf_widths(self._like)
        ends = list(itertools.accumulate(self._widths))
        self._parts = 1 + min(range(len(ends) - 1), key=lambda part: abs(2 * ends[part] - ends[-1]))
        self.hidden = ends[self._parts - 1]  # A, "d_model"
        self.cell = ends[-1] - self.hidden  # B, "rnn_hidden_size"

    def axis(self, name: str) -> int:
        return 1

    def metadata(self) -> dict[str, str | int]:
        return {"num_encoder_layers": 1, "d_model": self.hidden, "rnn_hidden_size": self.cell}

    def unpack(self, tensors: Sequence[Tensor]) -> EncoderState:
        hidden, cell = tensors
        pieces = *hidden.split(self._widths[: self._parts], dim=2), *cell.split(self._widths[self._parts :], dim=2)
        return shape_leaves([piece.squeeze(0) for piece in pieces], self._like)

    def pack(self, state: EncoderState) -> tuple[Tensor, Tensor]:
        leaves = [leaf.reshape(1, -1, width) for leaf, width in zip(flat_leaves(state), self._widths)]
        return torch.cat(leaves[: self._parts], dim=2), torch.cat(leaves[self._parts :], dim=2)

    def start(self) -> tuple[Tensor, Tensor]:
        return torch.zeros(1, self.hidden), torch.zeros(1, self.cell)

    def feed(self, kept: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return kept[0].unsqueeze(0), kept[1].unsqueeze(0)

    def keep(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return tensors[0].squeeze(0), tensors[1].squeeze(0)


class Zipformer2Layout:
    """A Zipformer's state as icefall exports it, N the streams, L the left context at the stack's frame rate:

        cached_key (L, N, D), cached_nonlin_attn (1, N, L, D), cached_val1 and cached_val2 (L, N, D), cached_conv1 and
        cached_conv2 (N, C, K // 2) of each layer, embed_states (N, 128, 3, F), processed_lens (N,)

    A front-end of fewer channels leaves the rest of embed_states at zero.

    Args:
      encoder: a Zipformer with NLA and left context.
      left_context_frames: embed frames (50 Hz).
    """

    model_type = "zipformer2"
    PARTS = ("key", "nonlin_attn", "val1", "val2", "conv1", "conv2")

    def __init__(self, encoder: Encoder, left_context_frames: int) -> None:
        config = self._config = encoder.config
        if config.frontend_channels[-1] > EMBED_CHANNELS:
            raise UserError(
                f"the front-end of this model has {config.frontend_channels[-1]} channels, and sherpa-onnx runs a "
                f"zipformer2 with {EMBED_CHANNELS} at most: no export"
            )
        self._encoder, self._left = encoder, left_context_frames
        layers = (f"cached_{part}_{layer}" for layer in range(sum(config.num_layers)) for part in self.PARTS)
        self.names = (*layers, "embed_states", "processed_lens")
        self.outputs = tuple(f"new_{name}" for name in self.names)

    def axis(self, name: str) -> int:
        return 1 if any(f"cached_{part}_" in name for part in self.PARTS[:4]) else 0

    def metadata(self) -> dict[str, str | int]:
        config = self._config
        lists = {
            "num_encoder_layers": config.num_layers,
            "encoder_dims": config.encoder_dim,
            "cnn_module_kernels": config.conv_kernel,
            "left_context_len": [self._left // factor for factor in config.downsampling],
            "query_head_dims": config.query_head_dim,
            "value_head_dims": config.value_head_dim,
            "num_heads": config.num_heads,
        }
        return {key: ",".join(map(str, values)) for key, values in lists.items()}

    def unpack(self, tensors: Sequence[Tensor]) -> EncoderState:
        parts = iter(tensors)
        stacks = []
        for count in self._config.num_layers:
            layers = []
            for _ in range(count):
                key, mixer, value1, value2, conv1, conv2 = itertools.islice(parts, 6)
                key, value1, value2 = (part.transpose(0, 1) for part in (key, value1, value2))
                conv1, conv2 = conv1.transpose(1, 2), conv2.transpose(1, 2)
                layers.append(LayerState(key, value1, value2, mixer.squeeze(0), conv1, conv2))
            stacks.append(tuple(layers))
        embed, seen = parts
        embed = embed[:, : self._config.frontend_channels[-1]].permute(0, 2, 3, 1)
        return EncoderState(embed, tuple(stacks), seen)

    def pack(self, state: EncoderState) -> tuple[Tensor, ...]:
        parts: list[Tensor] = []
        for layer in itertools.chain(*state.stacks):
            key, value1, value2 = (part.transpose(0, 1) for part in (layer.keys, layer.values1, layer.values2))
            convolutions = layer.conv1.transpose(1, 2), layer.conv2.transpose(1, 2)
            parts += [key, layer.mixer.unsqueeze(0), value1, value2, *convolutions]
        embed = state.frontend.permute(0, 3, 1, 2)
        unused = EMBED_CHANNELS - self._config.frontend_channels[-1]
        if unused:
            embed = F.pad(embed, (0, 0, 0, 0, 0, unused))
        assert isinstance(state.seen, Tensor)
        return (*parts, embed, state.seen)

    def start(self) -> EncoderState:
        return self._encoder.init_state(1, self._left)

    feed, keep = pack, unpack


def state_layout(encoder: Encoder, left_context_frames: int) -> StateLayout:
    """zipformer2's for a Zipformer with NLA and left context, of which sherpa-onnx knows every part; else the LSTM's."""
    nla = all(isinstance(mixer, NonlinearAttention) for _, mixer in encoder.mixers())
    known = isinstance(encoder, Zipformer) and nla and encoder.config.left_context
    return (Zipformer2Layout if known else LstmLayout)(encoder, left_context_frames)
