"""The CUDA branches on a machine without a GPU: devices, types, shapes, strides, and where one waits; no values.

Fake tensors cannot show that kernels are right or fast, nor that memory suffices; `pytest -m gpu` does, on a GPU.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from fixtures.training import Letters, ListData, make_batch

from sammo.data.concatenation import LongForm
from sammo.data.dataset import Batch
from sammo.encoder import build_encoder, encoder_config
from sammo.encoder.state import state_leaves
from sammo.fake_cuda import fake_cuda
from sammo.kernels import kernel_engine
from sammo.regularize import set_batch_count
from sammo.search import make_searcher
from sammo.signals import StopRequest
from sammo.streaming.recognizer import StreamingRecognizer
from sammo.training.config import TrainConfig
from sammo.training.distributed import World
from sammo.training.largest_batches import try_largest_batches
from sammo.training.loop import Trainer
from sammo.transducer import Transducer, model_config

CUDA = torch.device("cuda")
PRESETS = [("sammo", "tiny"), ("zipformer", "tiny"), ("sammo", "medium"), ("zipformer", "medium")]


@pytest.fixture(autouse=True)
def everything_acts(monkeypatch):
    """Balancers, whitening and penalties act in every step instead of at random."""
    monkeypatch.setattr(random, "random", lambda: 0.0)


def lengths(device: str = "cpu") -> torch.Tensor:
    return torch.tensor([307, 250, 200], device=device)


CASES = [
    *((*preset, t, b, 64 if t == b else 16, "auto") for preset in PRESETS[:2] for t in (0, 1) for b in (0, 1)),
    *((*preset, training, True, -1, "auto") for preset in PRESETS for training in (0, 1)),
    *((name, "tiny", training, False, 16, "torch") for name in ("sammo", "zipformer") for training in (0, 1)),
]


@pytest.mark.parametrize(("name", "preset", "training", "bf16", "chunk", "kernels"), CASES)
def test_encoder(name, preset, training, bf16, chunk, kernels):
    """Utterances of different lengths. Without this project's kernels a convolution's output is a transposed tensor."""
    config = encoder_config(name, preset)
    with kernel_engine(kernels), fake_cuda() as trace, CUDA:
        encoder = build_encoder(config).train(bool(training))
        if kernels == "torch" and name == "sammo":
            encoder.set_engines(conv="torch")
        set_batch_count(encoder, 100 if chunk > 0 else 5000)  # without and with positions
        features = torch.randn(3, 307, 80)
        trace.waits.clear()  # of building the model
        with torch.set_grad_enabled(bool(training)), torch.autocast("cuda", torch.bfloat16, enabled=bool(bf16)):
            output = encoder(features, lengths(), chunk_size=chunk, left_context_frames=64 if chunk > 0 else -1)
        assert output.frames.is_cuda and output.frames.shape == (3, 75, config.out_dim)
        assert output.lengths.tolist() == [75, 61, 48]
        if training:
            output.frames.float().sum().backward()
            for parameter_name, parameter in encoder.named_parameters():
                assert parameter.grad is not None, parameter_name  # or DistributedDataParallel would wait for it
                strides, gradient = parameter.stride(), parameter.grad.stride()
                layouts = [[s for s, n in zip(of, parameter.shape) if n > 1] for of in (strides, gradient)]
                if layouts[0] == layouts[1]:
                    assert strides == gradient, parameter_name  # or DistributedDataParallel warns
                elif parameter.numel() > 2**14:
                    assert "linear_pos" in parameter_name, parameter_name  # else it is copied
    assert not trace.waits, trace.waits
    own = [launch for launch in trace.launches if launch.kernel.fn.__module__.startswith("sammo.kernels")]
    assert bool(own) == (kernels == "auto")


@pytest.mark.parametrize(("name", "bf16"), [("sammo", True), ("zipformer", False), ("zipformer", True)])
def test_encoder_with_a_state(name, bf16):
    with fake_cuda() as trace, CUDA:
        encoder = build_encoder(encoder_config(name, "tiny")).eval()
        state = encoder.init_state(2, 64, "cuda")
        trace.waits.clear()
        for _ in range(2):
            window = torch.randn(2, 2 * 32 + 13, 80)
            valid = torch.tensor([77, 60], device="cpu")
            with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=bf16):
                output = encoder(window, valid, state, chunk_size=32)
            for leaf, following in zip(state_leaves(state), state_leaves(output.state)):
                assert following.is_cuda and following.shape == leaf.shape
            state = output.state
        assert output.frames.shape[:2] == (2, 16)
    assert not trace.waits, trace.waits


def make_trainer(tmp_path, name="sammo", preset="tiny", batch_seconds=9.0, use_ctc=False, **options) -> Trainer:
    config = TrainConfig(exp_dir=tmp_path, tensorboard=False, average_period=1, **options)
    with CUDA:
        model = Transducer(model_config(name, preset, 500, use_ctc=use_ctc))
    return Trainer(config, model, ListData([]), Letters(500), World(device=CUDA), StopRequest(), {}, batch_seconds)


def batch(size: int = 3) -> Batch:
    features = torch.randn(size, 307, 80, device="cpu")
    return make_batch(features, lengths()[:size], [[5] * 30, [7] * 11, []][:size], "cut")


@pytest.mark.parametrize(
    ("name", "preset", "precision"), [(*preset, "bf16") for preset in PRESETS] + [("sammo", "tiny", "fp32")]
)
def test_a_training_step_waits_once(name, preset, precision, tmp_path):
    """Forward, the losses, backward, clipping, ScaledAdam with its update of scales, and averaging."""
    use_ctc = precision == "fp32"
    with fake_cuda() as trace:
        options = {"ctc_loss_scale": 0.2} if use_ctc else {}
        trainer = make_trainer(tmp_path, name, preset, use_ctc=use_ctc, precision=precision, **options)
        trainer.model.train()
        trainer._step(batch())  # makes the optimizer's state
        trace.waits.clear()
        for _ in range(1 if preset == "medium" else 4):
            step = trainer._step(batch()).step
        assert trainer.averaged
        trainer.averaged.update(trainer.model, 1)
        assert step["grad_norm"] == 1.0  # as invented
        places = set(trace.waits)
    # PyTorch's CTC takes lengths on the CPU and copies them to the GPU.
    assert places == {"training/loop.py:_read"} | ({"transducer/model.py:_ctc"} if use_ctc else set())


def test_largest_batches(tmp_path):
    with fake_cuda():
        trainer = make_trainer(tmp_path)
        try_largest_batches(trainer, np.array([1.0, 2.0, 3.0]), 9.0, LongForm())
        assert all(parameter.grad is None for parameter in trainer.model.parameters())


@pytest.mark.parametrize("method", ["greedy_search", "modified_beam_search"])
def test_search(method):
    """Symbols depend on values, which are invented: only devices and shapes are looked at."""
    with fake_cuda(), torch.no_grad():
        with CUDA:
            model = Transducer(model_config("sammo", "tiny", 500)).eval()
        encoded = model.encoder(torch.randn(3, 307, 80, device="cuda"), lengths())
        found = make_searcher(model, method)(encoded.frames, encoded.lengths)
    assert len(found) == 3 and all(len(best.tokens) == len(best.timestamps) for best, *_ in found)


@pytest.mark.parametrize("name", ["sammo", "zipformer"])
def test_streaming(name):
    with fake_cuda():
        with CUDA:
            model = Transducer(model_config(name, "tiny", 500))
        searcher = make_searcher(model, "greedy_search")
        left = 0 if name == "sammo" else 64
        recognizer = StreamingRecognizer(model, searcher, 32, left_context_frames=left)
        streams = [recognizer.open(key) for key in range(2)]
        for stream in streams:
            stream.accept_audio(torch.randn(32000) * 0.1)
            stream.finish()
        while recognizer.step():
            pass
        assert all(stream.done and not stream.error for stream in streams)
