"""Small models for the search tests, and beam search written plainly, with dictionaries, to compare with."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from sammo.search import Hypothesis
from sammo.transducer import Joiner, Predictor


def toy_model(vocab_size: int = 12, context_size: int = 2, seed: int = 0, blank_bias: float = 1.0) -> nn.Module:
    """Random weights that emit often, and hesitate often.

    In float64: how a batch is made up changes the last bits of float32 products, and so may, once in a
    million frames, decide between hypotheses that are as good as equal.
    """
    torch.manual_seed(seed)
    model = nn.Module()
    model.config = SimpleNamespace(blank_id=0, context_size=context_size)
    model.predictor = Predictor(vocab_size, 16, 0, context_size)
    model.joiner = Joiner(8, 16, 16, vocab_size)
    model.joiner.encoder_proj.weight.data *= 4.0
    model.joiner.predictor_proj.weight.data *= 4.0
    model.joiner.output_linear.weight.data *= 6.0
    model.joiner.output_linear.bias.data[0] += blank_bias
    return model.double().eval()


def reference() -> tuple[dict[str, np.ndarray], dict]:
    with np.load(Path(__file__).parent / "reference" / "search.npz") as arrays:
        values = dict(arrays)
    return values, json.loads(bytes(values.pop("meta")))


def reference_model() -> nn.Module:
    """The predictor and joiner of search.npz."""
    arrays, meta = reference()
    vocab_size, dim = arrays["w/decoder.embedding.weight"].shape
    joiner_dim, encoder_dim = arrays["w/joiner.encoder_proj.weight"].shape
    model = nn.Module()
    model.config = SimpleNamespace(blank_id=meta["blank_id"], context_size=meta["context_size"])
    model.predictor = Predictor(vocab_size, dim, meta["blank_id"], meta["context_size"])
    model.joiner = Joiner(encoder_dim, dim, joiner_dim, vocab_size)
    names = {"decoder.": "predictor.", "joiner.decoder_proj.": "joiner.predictor_proj."}
    weights = {}
    for name, value in arrays.items():
        if name.startswith("w/"):
            name = name[2:]
            for old, new in names.items():
                name = new + name[len(old) :] if name.startswith(old) else name
            weights[name] = torch.tensor(value)
    model.load_state_dict(weights)
    return model.eval()


class ToyLM(nn.Module):
    """A recurrent model with random weights: its state is a tuple of tensors."""

    sos_id = 1

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.embedding = nn.Embedding(vocab_size, 6)
        self.cell = nn.LSTMCell(6, 6)
        self.output = nn.Linear(6, vocab_size)
        self.output.weight.data *= 8.0
        self.double()
        self.calls = 0

    def score(self, tokens: Tensor, state):
        self.calls += 1
        hidden, cell = self.cell(self.embedding(tokens), state)
        return self.output(hidden).log_softmax(dim=-1), (hidden, cell)


@torch.no_grad()
def plain_beam_search(
    model: nn.Module,
    frames: Tensor,
    beam_size: int,
    *,
    blank_penalty: float = 0.0,
    temperature: float = 1.0,
    context_graph=None,
    lm=None,
    lm_scale: float = 0.0,
) -> list[Hypothesis]:
    """Beam search over one utterance (T, C), one hypothesis at a time."""
    context_size = model.config.context_size
    start_lm = lm.score(torch.tensor([lm.sos_id]), None) if lm else (None, None)
    beam = {(): dict(score=0.0, times=(), node=0, lm=start_lm)}
    for t, frame in enumerate(frames):
        extensions = []
        for tokens, hyp in beam.items():
            context = ([-1] * (context_size - 1) + [0] + list(tokens))[-context_size:]
            logits = model.joiner(frame, model.predictor(torch.tensor([context]), pad=False)[0, 0])
            logits[0] -= blank_penalty
            log_probs = (logits / temperature).log_softmax(dim=-1) + hyp["score"]
            extensions += [(p, tokens, symbol) for symbol, p in enumerate(log_probs.tolist())]
        extensions.sort(key=lambda x: -x[0])
        following = {}
        for score, tokens, symbol in extensions[:beam_size]:
            new = dict(beam[tokens])
            if symbol != 0:
                new["times"] = new["times"] + (t,)
                if context_graph is not None:
                    reward, new["node"] = context_graph.step(new["node"], symbol)
                    score += reward
                if lm is not None:
                    score += lm_scale * new["lm"][0][0, symbol].item()
                    new["lm"] = lm.score(torch.tensor([symbol]), new["lm"][1])
                tokens = tokens + (symbol,)
            new["score"] = score
            if tokens in following:
                following[tokens]["score"] = float(np.logaddexp(following[tokens]["score"], score))
            else:
                following[tokens] = new
        beam = following
    found = []
    for tokens, hyp in beam.items():
        score = hyp["score"] + (context_graph.finalize(hyp["node"]) if context_graph is not None else 0.0)
        found.append(Hypothesis(list(tokens), list(hyp["times"]), score))
    return sorted(found, key=lambda h: -h.score / (len(h.tokens) + context_size))


def assert_same(found: list[Hypothesis], expected: list[Hypothesis], tolerance: float = 1e-6) -> None:
    """Tokens and time stamps equal, scores close."""
    assert [(h.tokens, h.timestamps) for h in found] == [(h.tokens, h.timestamps) for h in expected]
    for one, other in zip(found, expected):
        assert math.isclose(one.score, other.score, rel_tol=1e-9, abs_tol=tolerance)
