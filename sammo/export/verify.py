"""Whether exported graphs compute what the model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sammo import geometry
from sammo.data.features import SAMPLING_RATE, make_extractor
from sammo.errors import UserError
from sammo.export.deployed import NAMES, file_name, load_session

CHUNKS = 50  # with the state carried from one to the next
TOLERANCE = 1e-3  # of encoder output, state and logits, see _deviation


@torch.no_grad()
def verify(graphs: dict[str, Any], directory: Path, int8: bool = False) -> float:
    """The largest deviation of what onnxruntime computes from the files in ``directory``.

    Two streams of noise with the modulation of speech, the second ending within the last chunk.

    Args:
      graphs: encoder, decoder and joiner, of PyTorch.
      int8: compare encoder.int8.onnx, which may deviate by more and is only to give numbers.

    Raises:
      UserError: a value deviates by more than TOLERANCE.
    """
    quantized = {name: int8 and (directory / file_name(name, int8=True)).is_file() for name in NAMES}
    sessions = {name: load_session(directory / file_name(name, quantized[name])) for name in NAMES}
    encoder = graphs["encoder"]
    x, h, c, x_lens = encoder.example(2)
    shift = geometry.STRIDE * encoder.chunk_size
    features = torch.stack([speechlike((CHUNKS - 1) * shift + x.shape[1], seed) for seed in range(2)])
    ours = theirs = (h, c)
    worst, frames = 0.0, []
    for chunk in range(CHUNKS):
        x = features[:, chunk * shift : chunk * shift + x.shape[1]]
        if chunk == CHUNKS - 1:
            x_lens = torch.tensor([x.shape[1], x.shape[1] // 2])
        out, *ours = encoder(x, *ours, x_lens)
        feed = {name: value.contiguous().numpy() for name, value in zip(encoder.inputs, (x, *theirs, x_lens))}
        if chunk < CHUNKS - 1:
            del feed["x_lens"]  # what sherpa-onnx does
        found, *theirs = (torch.from_numpy(value) for value in sessions["encoder"].run(None, feed))
        valid = min(geometry.output_frames(int(x_lens[1])), out.shape[1])
        out[1, valid:], found[1, valid:] = 0.0, 0.0
        worst = max([worst, *(_deviation(a, b) for a, b in zip((out, *ours), (found, *theirs)))])
        frames.append(out[0])
    worst = max(worst, _search_deviation(graphs, sessions, torch.cat(frames)[:200]))
    if not worst <= (float("inf") if int8 else TOLERANCE):
        which = "the int8 files give" if int8 else "the exported model gives"
        raise UserError(f"{which} other values than PyTorch, by up to {worst:.2g} (limit {TOLERANCE:g}); nothing kept")
    return worst


def _search_deviation(graphs: dict[str, Any], sessions: dict[str, Any], frames: Tensor) -> float:
    """Of decoder and joiner, for projected encoder frames (M, J) and contexts drawn at random."""
    predictor = graphs["decoder"].predictor
    generator = torch.Generator().manual_seed(0)
    shape = (frames.shape[0], predictor.context_size)
    contexts = torch.randint(-1, predictor.vocab_size, shape, generator=generator)
    predicted = graphs["decoder"](contexts)
    logits = graphs["joiner"](frames, predicted)
    found = sessions["decoder"].run(None, {"y": contexts.numpy()})[0]
    given = {"encoder_out": frames.numpy(), "decoder_out": predicted.numpy()}
    deviation = _deviation(predicted, torch.from_numpy(found))
    return max(deviation, _deviation(logits, torch.from_numpy(sessions["joiner"].run(None, given)[0])))


def _deviation(ours: Tensor, theirs: Tensor) -> float:
    """The largest, as a share of the largest value where that is above 1; infinite where a value is no number."""
    if ours.shape != theirs.shape or not bool(ours.isfinite().all() and theirs.isfinite().all()):
        return float("inf")
    return float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1.0))


def speechlike(frames: int, seed: int) -> Tensor:
    """Features (T, 80) of noise whose level and color change as syllables do, with pauses."""
    random = np.random.default_rng(seed)
    syllable = SAMPLING_RATE // 5
    count = (frames + 3) * SAMPLING_RATE // 100 // syllable + 1
    noise = random.standard_normal((count, syllable)).astype(np.float32)
    color = random.uniform(-0.9, 0.9, (count, 1)).astype(np.float32)
    noise[:, 1:] += color * noise[:, :-1]
    level = 0.2 * random.random((count, 1)) ** 2 * (random.random((count, 1)) > 0.2)
    samples = noise * level * np.hanning(syllable) + 1e-4 * noise
    extracted = make_extractor().extract(samples.reshape(1, -1).astype(np.float32), SAMPLING_RATE)
    return torch.as_tensor(extracted)[:frames]
