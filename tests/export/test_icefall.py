"""Whole icefall checkpoints into our baseline."""

from __future__ import annotations

import json
from pathlib import Path, PosixPath

import numpy as np
import pytest
import torch
from fixtures.paths import REFERENCE

from sammo.commands import import_icefall
from sammo.errors import UserError
from sammo.export import icefall

Z = np.load(REFERENCE / "zipformer_small.npz")
META = json.loads(bytes(Z["meta"]))
VOCAB = 11


def icefall_state() -> dict[str, torch.Tensor]:
    """The reference encoder's tensors with those of a decoder and joiner, by icefall's names."""
    state = {name[2:]: torch.from_numpy(Z[name]) for name in Z.files if name.startswith("w/")}
    generator = torch.Generator().manual_seed(0)
    for name, shape in {
        "decoder.embedding.weight": (VOCAB, 16),
        "decoder.conv.weight": (16, 4, 2),
        "joiner.encoder_proj.weight": (20, 48),
        "joiner.encoder_proj.bias": (20,),
        "joiner.decoder_proj.weight": (20, 16),
        "joiner.decoder_proj.bias": (20,),
        "joiner.output_linear.weight": (VOCAB, 20),
        "joiner.output_linear.bias": (VOCAB,),
        "simple_am_proj.weight": (VOCAB, 48),
        "simple_am_proj.bias": (VOCAB,),
        "simple_lm_proj.weight": (VOCAB, 16),
        "simple_lm_proj.bias": (VOCAB,),
    }.items():
        state[name] = torch.randn(shape, generator=generator)
    return state


def save(path: Path, state: dict[str, torch.Tensor]) -> Path:
    """As icefall's train.py does: the options, paths among them, lie beside the weights."""
    torch.save({"model": state, "optimizer": {}, "exp_dir": PosixPath("/x/exp"), "batch_idx_train": 1234}, path)
    return path


def parse(*words: object):
    import argparse

    parser = argparse.ArgumentParser()
    import_icefall.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def test_configuration_is_inferred():
    config = icefall.infer_config(icefall_state())
    cfg = META["cfg"]
    assert config.encoder.downsampling == tuple(cfg["downsampling_factor"])
    assert config.encoder.num_layers == tuple(cfg["num_encoder_layers"])
    assert config.encoder.value_head_dim == tuple(cfg["value_head_dim"])
    assert config.encoder.query_head_dim == tuple(cfg["query_head_dim"])
    assert config.encoder.conv_kernel == tuple(cfg["cnn_module_kernel"])
    assert config.encoder.pos_dim == cfg["pos_dim"]
    assert (config.vocab_size, config.context_size) == (VOCAB, 2)
    assert (config.predictor_dim, config.joiner_dim) == (16, 20)


def test_import_and_load(tmp_path):
    from sammo.checkpoint import load_model

    state = icefall_state()
    out = tmp_path / "imported.pt"
    import_icefall.run(parse(save(tmp_path / "epoch-30.pt", state), out, "--left-context-frames", "64,-1"))
    model, info = load_model(out)
    assert info.encoder == "zipformer" and model.config.encoder.left_context_frames == (64, -1)
    features, lengths = torch.from_numpy(Z["in/features"])[:1], torch.from_numpy(Z["in/lengths"])[:1]
    with torch.no_grad():
        frames = model.encoder(features, lengths, chunk_size=META["chunk"], left_context_frames=META["left"]).frames
        torch.testing.assert_close(frames, torch.from_numpy(Z["out/chunked"])[:1], atol=1e-4, rtol=0)
        # Predictor, joiner and simple projections, by what icefall's modules compute.
        y = torch.tensor([[0, 3, 5]])
        embedded = state["decoder.embedding.weight"][y].transpose(1, 2)
        padded = torch.nn.functional.pad(embedded, (1, 0))
        convolved = torch.nn.functional.conv1d(padded, state["decoder.conv.weight"], groups=4)
        context = convolved.relu().transpose(1, 2)
        torch.testing.assert_close(model.predictor(y), context)

        def linear(name, x):
            return torch.nn.functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

        hidden = linear("joiner.encoder_proj", frames[:, :3]) + linear("joiner.decoder_proj", context)
        wanted = linear("joiner.output_linear", hidden.tanh())
        torch.testing.assert_close(model.joiner(frames[:, :3], context), wanted)
        torch.testing.assert_close(model.simple_am_proj(frames), linear("simple_am_proj", frames))
        torch.testing.assert_close(model.simple_lm_proj(context), linear("simple_lm_proj", context))


def test_directory_and_bare_state_dict(tmp_path):
    path = tmp_path / "bare.pt"
    torch.save({f"module.{k}": v for k, v in icefall_state().items()}, path)
    with pytest.raises(UserError, match="not a checkpoint"):
        icefall.read_icefall(path)
    torch.save({"model": {f"module.{k}": v for k, v in icefall_state().items()}}, path)
    import_icefall.run(parse(path, tmp_path / "exp"))
    assert (tmp_path / "exp" / "epoch-1.pt").is_file()


def test_ctc_head():
    """icefall's --use-ctc models have one more layer, after a dropout."""
    state = icefall_state()
    state["ctc_output.1.weight"], state["ctc_output.1.bias"] = torch.randn(VOCAB, 48), torch.randn(VOCAB)
    model = icefall.import_model(state)
    assert torch.equal(model.ctc_output.weight, state["ctc_output.1.weight"])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("joiner.output_linear.bias"), "1 missing: joiner.output_linear.bias"),
        (lambda s: s.update({"attention_decoder.bias": torch.zeros(2)}), "1 left over: attention_decoder.bias"),
        (lambda s: s.update({"simple_lm_proj.bias": torch.zeros(3)}), r"simple_lm_proj.bias \(3,\) instead"),
        (lambda s: s.pop("encoder_embed.conv.7.weight"), "encoder_embed.conv.7.weight"),
        (
            lambda s: [
                s.update({k.replace("depthwise_conv.chunkwise_conv.", "depthwise_conv."): s.pop(k)})
                for k in list(s)
                if "chunkwise_conv.w" in k
            ],
            "causal",
        ),
        (lambda s: s.update({"encoder.encoders.1.encoder.layers.0.extra": torch.zeros(1)}), "extra"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    state = icefall_state()
    change(state)
    with pytest.raises(UserError, match=message):
        icefall.import_model(state)


def test_unused_scale_is_the_only_one_skipped():
    skipped = [name for name in icefall_state() if icefall.convert_name(name) is None]
    layers = sum(META["cfg"]["num_encoder_layers"])
    assert len(skipped) == layers and all(name.endswith(".bypass_scale") for name in skipped)
    assert not any("bypass." in name or "bypass_mid" in name or "combiner" in name for name in skipped)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    path = tmp_path / "evil.pt"
    torch.save({"model": icefall_state(), "x": Evil()}, path)
    with pytest.raises(UserError, match="cannot be read"):
        icefall.read_icefall(path)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        icefall.read_icefall(tmp_path / "none.pt")
