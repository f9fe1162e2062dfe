"""Whether exported graphs compute what the model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

import numpy as np
import torch
from torch import Tensor

from sammo import geometry
from sammo.corpora import find_corpus
from sammo.data.features import SAMPLING_RATE, load_audio, make_extractor
from sammo.data.manifests import read_cuts
from sammo.data.sources import Allowed
from sammo.errors import UserError
from sammo.export.deployed import Session, load_session
from sammo.export.graphs import EncoderGraph
from sammo.options import Speech

CHUNKS = 50  # with the state carried from one to the next
STREAMS = 2
# Of encoder output, states and logits, see _deviation. In 16 bits weights are rounded; in 8 bits values need only be
# numbers, and what they cost is a matter of error rates.
TOLERANCES = {"float32": 1e-3, "float16": 5e-2, "int8": float("inf")}


@torch.no_grad()
def verify(
    graphs: dict[str, Any], directory: Path, features: Tensor, runtime: str = "onnxruntime", precision: str = "float32"
) -> float:
    """The largest deviation of what a runtime computes from the files in ``directory``.

    Args:
      graphs: encoder, decoder and joiner, of PyTorch.
      features: (2, T, 80) of two streams for CHUNKS chunks, the second of which ends within the last one.

    Raises:
      UserError: a value deviates by more than its tolerance.
    """
    sessions = {name: load_session(directory, name, runtime, precision) for name in graphs}
    encoder = graphs["encoder"]
    worst, frames = 0.0, []
    lengths = torch.tensor([encoder.window, encoder.window // 2])
    theirs = run_chunks(encoder, sessions["encoder"], features, CHUNKS, lengths)
    ours = run_chunks(encoder, _PyTorch(encoder), features, CHUNKS, lengths)
    for chunk, (found, want) in enumerate(zip(theirs, ours)):
        if chunk == CHUNKS - 1:
            valid = geometry.output_frames(int(lengths[1]))
            for frames_of in (found[0], want[0]):
                frames_of[1, valid:] = 0.0
        worst = max([worst, *(_deviation(a, b) for a, b in zip(want, found))])
        frames.append(torch.from_numpy(want[0][0]))
    worst = max(worst, _search_deviation(graphs, sessions, torch.cat(frames)[:200]))
    if not worst <= TOLERANCES[precision]:
        limit = f"limit {TOLERANCES[precision]:g}"
        raise UserError(
            f"{runtime} {precision} gives other values than PyTorch, by up to {worst:.2g} ({limit}); nothing kept"
        )
    return worst


def run_chunks(
    graph: EncoderGraph, session: Session, features: Tensor, chunks: int, last_lengths: Tensor | None = None
) -> Iterator[list[np.ndarray]]:
    """The outputs of chunk after chunk, the states carried.

    Args:
      graph: says what goes in.
      features: (N, T, 80).
      last_lengths: (N,) feature frames of the last chunk; before, and by default, they are not given, as by sherpa-onnx.
    """
    shift = geometry.STRIDE * graph.chunk_size
    states = [state.numpy() for state in graph.start(features.shape[0])]
    for chunk in range(chunks):
        x = features[:, chunk * shift : chunk * shift + graph.window].contiguous().numpy()
        feed = dict(zip(graph.inputs, (x, *states)))
        if chunk == chunks - 1 and last_lengths is not None:
            feed["x_lens"] = last_lengths.numpy()
        outputs = session.run(feed)
        states = outputs[1 : len(graph.outputs)]
        yield outputs


class _PyTorch:
    """A graph of PyTorch as a session."""

    def __init__(self, graph: EncoderGraph) -> None:
        self._graph, self.metadata = graph, {}

    def run(self, feed: Any) -> list[np.ndarray]:
        tensors = [torch.from_numpy(feed[name]) for name in self._graph.inputs if name in feed]
        if "x_lens" not in feed:
            tensors.append(torch.full((len(tensors[0]),), self._graph.window))
        return [value.contiguous().numpy() for value in self._graph(*tensors)]


def _search_deviation(graphs: dict[str, Any], sessions: dict[str, Session], frames: Tensor) -> float:
    """Of decoder and joiner, for projected encoder frames (M, J) and contexts drawn at random."""
    predictor = graphs["decoder"].predictor
    generator = torch.Generator().manual_seed(0)
    shape = (frames.shape[0], predictor.context_size)
    contexts = torch.randint(-1, predictor.vocab_size, shape, generator=generator)
    predicted = graphs["decoder"](contexts)
    logits = graphs["joiner"](frames, predicted).numpy()
    found = sessions["decoder"].run({"y": contexts.numpy()})[0]
    given = {"encoder_out": frames.numpy(), "decoder_out": predicted.numpy()}
    return max(_deviation(predicted.numpy(), found), _deviation(logits, sessions["joiner"].run(given)[0]))


def _deviation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest, as a share of the largest value where that is above 1; infinite where a value is no number."""
    if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return float("inf")
    return float(np.abs(ours - theirs).max() / max(np.abs(ours).max(), 1.0)) if ours.size else 0.0


# ------------------------------------------------------------------------------------ what to compare on


def training_speech(speech: Speech, frames: int) -> Tensor | None:
    """Features (2, frames, 80) of training cuts one after the other; None where there is no such part.

    Never of evaluation parts: 8 bits are fitted to them.
    """
    corpus = find_corpus(speech.manifest_dir, speech.corpus)
    path = corpus.manifest_path(speech.manifest_dir, corpus.train)
    if not path.is_file():
        return None
    extractor, pieces, count = make_extractor(), [], 0
    for cut in read_cuts(path, Allowed(urls=speech.allow_urls)):
        if count >= STREAMS * frames:
            break
        samples = torch.from_numpy(load_audio(cut)).mean(0, keepdim=True)
        pieces.append(torch.as_tensor(extractor.extract(samples.numpy(), SAMPLING_RATE)))
        count += len(pieces[-1])
    if count == 0:
        return None
    whole = torch.cat(pieces)
    whole = whole.repeat(-(-STREAMS * frames // len(whole)), 1)  # of a very small corpus
    return whole[: STREAMS * frames].view(STREAMS, frames, -1)


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
