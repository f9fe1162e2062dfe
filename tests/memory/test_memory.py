"""sammo memory: what is removed from the state is exactly what it says."""

from __future__ import annotations

import json
import math

import pytest
import torch
from fixtures.data import make_corpus
from fixtures.encoder import small_encoder, stream
from fixtures.streaming import make_model
from fixtures.training import Letters, checkpoint_of, make_batch

from sammo import cli, corpora
from sammo.checkpoint import write_checkpoint
from sammo.data.tokens import load_tokenizer
from sammo.decoding import chunkings, decode_batches
from sammo.encoder.mixers import MIXERS, Decay
from sammo.encoder.mixers.recurrent import RecurrentMixer
from sammo.errors import UserError
from sammo.memory import command
from sammo.memory.decoding import Condition, DecaySums, decode_conditions, encode_chunks
from sammo.memory.recurrence import apply, mixers, recurrent_mixers
from sammo.scoring import Counts
from sammo.scoring.cer import characters, relative_change
from sammo.scoring.report import resets
from sammo.search import make_searcher

CHUNK = 16
RECURRENT = [name for name, mixer in MIXERS.items() if issubclass(mixer, RecurrentMixer)]
LENGTHS = torch.tensor([290, 200, 131])


def utterances() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(3, 290, 80, generator=generator).cumsum(1) * 0.3


def slow_encoder(mixer="mamba2"):
    """A Sammo encoder that remembers for seconds, so that what is removed from its state counts."""
    encoder = small_encoder("sammo", mixer=mixer, delta_heads=2)
    with torch.no_grad():
        for mixer in recurrent_mixers(encoder).values():
            mixer.A_log.uniform_(math.log(0.01), math.log(0.3))
            mixer.dt_bias.fill_(-0.5)
    return encoder


def encode(encoder, **changes):
    with torch.inference_mode():
        return encode_chunks(encoder, utterances(), LENGTHS, Condition(CHUNK, 0, **changes))


def test_words_are_counted_where_the_corpus_counts_them(work, tmp_path, capsys):
    """The texts of the part have no spaces: its characters are one word an utterance, and all of them are wrong."""
    words = corpora.Corpus("words", ("eval1",), "csj_cuts_{part}.jsonl.gz", default_mode="fluent", metric="WER")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(corpora.CORPORA, "words", words)
        patch.setattr("sammo.data.datamodule.check_units", lambda corpus, tokenizer: None)
        words = ["--corpus", "words", "--chunk-size", 64, "--ages", 1.28, "--out-dir", tmp_path, "--parts", "eval1"]
        assert memory(work, "sammo", *words) == 0
    assert "WER in %" in capsys.readouterr().out
    record = json.loads((tmp_path / "memory.json").read_text(encoding="utf-8"))
    row = record["conditions"][0]
    assert record["metric"] == "WER" and row["counts"]["ref"] == 5 and row["rate"] >= 100.0
    (reset,) = (row["rate"] for row in record["conditions"] if row["state_seconds"] == 0)
    assert resets(tmp_path / "memory.json", "WER") == {64: reset}
    with pytest.raises(UserError, match="it has no CER"):
        resets(tmp_path / "memory.json", "CER")


@pytest.mark.parametrize("name, left", [("sammo", 0), ("zipformer", 64)])
def test_nothing_removed_is_simulated_decoding(name, left):
    model = make_model(name)
    tokenizer, searcher = Letters(model.config.vocab_size), make_searcher(model, "greedy_search")
    batch = make_batch(utterances(), LENGTHS, [[1], [2], [3]], "cut")
    simulated = decode_batches(model, searcher, [batch], tokenizer, chunkings(model, [CHUNK, 32], [left]))
    assert all(decoded.hypothesis for found in simulated.values() for decoded in found)
    for setting, decoded in simulated.items():
        batch["texts"] = [item.hypothesis for item in decoded]
        condition = Condition(*setting)
        found, durations = decode_conditions(model, searcher, [batch], tokenizer, [condition], DecaySums())
        assert [count.errors for count in found[condition].counts] == [0, 0, 0]
        lengths = [len(characters(item.hypothesis)) for item in decoded]
        assert [count.ref for count in found[condition].counts] == lengths
        assert durations == [2.9, 2.0, 1.31]


def test_frames_are_those_of_the_streaming_contract():
    encoder = slow_encoder()
    frames, lengths = encode(encoder)
    with torch.inference_mode():
        expected = stream(encoder, utterances(), CHUNK, lengths=LENGTHS)
    assert lengths.tolist() == [((length - 7) // 2 + 1) // 2 for length in LENGTHS.tolist()]
    for row, other, length in zip(frames, expected, lengths):
        torch.testing.assert_close(row[:length], other[:length], rtol=1e-4, atol=1e-4)


def brute_force(encoder, window):
    """The frames where every layer's state is computed anew before each chunk, from the last chunks' inputs alone."""
    history: dict[torch.nn.Module, list] = {mixer: [] for mixer in recurrent_mixers(encoder).values()}

    def replace(mixer, inputs):
        u, weights, plan, state = inputs
        past, name = history[mixer][-window:] if window else [], mixer.recurrent_leaf
        state = state._replace(**{name: torch.zeros_like(getattr(state, name))})
        leaf = getattr(state, name)
        if past:
            whole = torch.cat([chunk for chunk, _ in past], dim=1)
            after = type(mixer).forward(mixer, whole, None, None, state._replace(conv=past[0][1]))[1]
            leaf = getattr(after, name)
        history[mixer].append((u, state.conv))
        return u, weights, plan, state._replace(**{name: leaf})

    handles = [mixer.register_forward_pre_hook(replace) for mixer in history]
    frames, _ = encode(encoder)
    for handle in handles:
        handle.remove()
    return frames


@pytest.mark.parametrize("mixer", RECURRENT)
@pytest.mark.parametrize("window", [0, 1, 3])
def test_window_is_the_last_chunks_alone(window, mixer):
    encoder = slow_encoder(mixer)
    frames, lengths = encode(encoder, window=window)
    expected, whole = brute_force(encoder, window), encode(encoder)[0]
    inside = (torch.arange(frames.shape[1]) < lengths[:, None])[:, :, None]
    frames, expected, whole = frames * inside, expected * inside, whole * inside
    assert (frames - whole).abs().max() > 0.01
    torch.testing.assert_close(frames, expected, rtol=1e-4, atol=1e-4)
    # Before the window is full nothing is removed.
    untouched = (window + 1) * CHUNK // 2
    torch.testing.assert_close(frames[:, :untouched], whole[:, :untouched], rtol=0, atol=0)


@pytest.mark.parametrize("mixer", RECURRENT)
def test_window_beyond_the_utterance_changes_nothing(mixer):
    encoder = slow_encoder(mixer)
    torch.testing.assert_close(encode(encoder, window=100)[0], encode(encoder)[0], rtol=0, atol=0)


def test_reset_changes_nothing_where_the_state_decays_at_once():
    encoder = small_encoder("sammo")
    with torch.no_grad():
        for mixer in recurrent_mixers(encoder).values():
            mixer.A_log.fill_(math.log(1e4))
            mixer.dt_bias.fill_(20.0)
    torch.testing.assert_close(encode(encoder, window=0)[0], encode(encoder)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["sammo", "zipformer"])
def test_silenced_mixers_add_nothing(name):
    encoder = small_encoder(name)
    condition = Condition(CHUNK, 32 if name == "zipformer" else 0)
    with torch.inference_mode():
        silent, _ = encode_chunks(encoder, utterances(), LENGTHS, condition._replace(silenced=True))
        heard, _ = encode_chunks(encoder, utterances(), LENGTHS, condition)
        for mixer in mixers(encoder).values():
            mixer.out_proj.weight.zero_()
            if mixer.out_proj.bias is not None:
                mixer.out_proj.bias.zero_()
        expected, _ = encode_chunks(encoder, utterances(), LENGTHS, condition)
    assert (silent - heard).abs().max() > 0.01
    torch.testing.assert_close(silent, expected)


@pytest.mark.parametrize("name", RECURRENT)
def test_decay_and_time_constants(name):
    for mixer in recurrent_mixers(slow_encoder(name)).values():
        u, leaf = torch.randn(2, 7, mixer.in_proj.in_features), mixer.recurrent_leaf
        state = mixer.init_state(2)
        state = state._replace(conv=torch.randn_like(state.conv))
        full = state._replace(**{leaf: torch.randn_like(getattr(state, leaf))})
        with torch.no_grad():
            # Linear in the state: what a state leaves is its decayed self.
            left = getattr(mixer(u, state=full)[1], leaf) - getattr(mixer(u, state=state)[1], leaf)
            expected = apply(mixer.decay(u, state).transition, getattr(full, leaf))
            torch.testing.assert_close(left, expected, rtol=1e-4, atol=1e-5)
            # The log is of one frame, over states of all directions.
            log, transition = mixer.decay(u[:, :1], state)
            width = transition.shape[-1]
            torch.testing.assert_close(log[:, 0].exp(), transition.square().sum(dim=(-2, -1)).div(width).sqrt())
            still = mixer.decay(torch.zeros_like(u), mixer.init_state(2)).log
        torch.testing.assert_close(-1.0 / still[0, 0], mixer.time_constants())


def test_the_mean_decay_is_over_utterances_alone():
    # Padding counts in no mean: a constant input drives each head with its own constant.
    sums = DecaySums()
    log = torch.full((2, 4, 3), -0.5)
    log[1, 1:] = -100.0
    sums.add({(1, 0): Decay(log, log)}, torch.tensor([8, 1]), [1, 2])
    assert sums.frames == {(1, 0): 5} and sums.time_constants()[1, 0].tolist() == [2.0, 2.0, 2.0]


def test_ages_in_chunks():
    assert command.window_chunks(16, None) == [2, 4, 7, 16, 32]
    assert command.window_chunks(64, None) == [1, 2, 4, 8]
    assert command.window_chunks(16, (0.64, 3.2)) == [2, 10]
    with pytest.raises(UserError, match="--ages 1 is no multiple of 0.32 s, .*: use 0.96 or 1.28"):
        command.window_chunks(16, (1.0,))
    with pytest.raises(UserError, match="use 1.28, or"):
        command.window_chunks(64, (0.5,))


def test_conditions():
    found = command.conditions(small_encoder("sammo"), [16, 64], (1.28,), [64, 128])
    assert found[64] == [
        Condition(64, 0), Condition(64, 0, 1), Condition(64, 0, 0), Condition(64, 0, silenced=True)
    ]  # fmt: skip
    found = command.conditions(small_encoder("zipformer"), [32])
    assert [condition.left_context_frames for condition in found[32]] == [256, 128, 64, 32, 16, 0, 256]
    assert [condition.silenced for condition in found[32]] == [False] * 6 + [True]
    for name, options, message in (
        ("zipformer", dict(ages=(1.28,)), "--ages is for encoders with a recurrent state"),
        ("zipformer", dict(left_contexts=[30]), "left context 30 does not work"),
        ("zipformer", dict(left_contexts=[-1]), "left context must end"),
        ("sammo", dict(chunk_sizes=[-1]), "--chunk-size -1"),
        ("sammo", dict(chunk_sizes=[18]), "chunk size 18 does not work"),
    ):
        with pytest.raises(UserError, match=message):
            command.conditions(small_encoder(name), **{"chunk_sizes": [32], **options})


def test_relative_change():
    before, after = [Counts(10, 0, 1, 1)] * 8, [Counts(10, 0, 1, 2)] * 8
    assert relative_change(before, after) == pytest.approx((50.0, 50.0, 50.0))
    assert relative_change(before, before) == (0.0, 0.0, 0.0)
    assert relative_change([Counts(10, 0, 0, 0)], [Counts(10, 1, 0, 0)]) is None
    with pytest.raises(ValueError):
        relative_change(before, after[:1])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A corpus and an experiment directory for each encoder."""
    directory = tmp_path_factory.mktemp("memory")
    make_corpus(directory, train=2, valid=5)
    tokenizer = load_tokenizer(directory / "lang_char")
    for name in ("sammo", "zipformer"):
        model = make_model(name, tokenizer.vocab_size)
        (directory / name).mkdir()
        write_checkpoint(directory / name / "epoch-1.pt", checkpoint_of(model, tokenizer.fingerprint))
    return directory


def memory(work, name, *words):
    common = ["--exp-dir", work / name, "--manifest-dir", work / "fbank", "--lang", work / "lang_char"]
    words = ["memory", *common, "--num-workers", 0, "--parts", "eval1,valid", *words]
    args = cli.parse([str(word) for word in words])
    return args.run(args)


def test_sammo_report(work, capsys):
    assert memory(work, "sammo") == 0
    out = capsys.readouterr().out
    directory = work / "sammo/memory"
    assert (directory / "memory.md").read_text(encoding="utf-8") in out
    assert "recurrent state of the last 1.28 s" in out and "## Chunks of 64 frames (1.28 s)" in out
    assert (directory / "memory.png").stat().st_size > 10000
    record = json.loads((directory / "memory.json").read_text(encoding="utf-8"))
    assert record["utterances"] == 10 and record["parts"] == ["eval1", "valid"] and record["metric"] == "CER"
    by_chunk = {chunk: [c for c in record["conditions"] if c["chunk_size"] == chunk] for chunk in (16, 64)}
    ages = [row["state_seconds"] for row in by_chunk[16] if not row["silenced"]]
    assert ages == [None, 10.24, 5.12, 2.24, 1.28, 0.64, 0.0]
    # No utterance is longer than 4 s: nothing was there to remove.
    assert by_chunk[16][1]["touched_percent"] == 0.0 and by_chunk[16][1]["change_percent"] == [0.0, 0.0, 0.0]
    assert by_chunk[16][1]["counts"] == by_chunk[16][0]["counts"]
    assert by_chunk[16][-2]["touched_percent"] > 50.0
    stacks = record["time_constants_seconds"]
    assert [stack["downsampling"] for stack in stacks] == [1, 2, 4, 2]
    assert all(value > 0 for stack in stacks for layer in stack["as_driven"] for value in layer)
    assert [len(stack["at_biases"]) for stack in stacks] == [1, 1, 2, 1]


def test_zipformer_report(work, tmp_path, capsys):
    words = ["--chunk-size", 32, "--left-context-frames", "0,64", "--decoding-method", "modified_beam_search"]
    assert memory(work, "zipformer", *words, "--out-dir", tmp_path / "new") == 0
    out = capsys.readouterr().out
    assert "| as it is, left context 64 (1.28 s) |" in out and "| left context 0 (0 s) |" in out
    assert "mixers silenced" in out and "recurrent" not in out and "Time constants" not in out
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["memory.json", "memory.md", "memory.png"]


@pytest.mark.parametrize(
    "name, words, message",
    [
        ("zipformer", ["--ages", "1.28"], "--ages is for encoders with a recurrent state"),
        ("sammo", ["--ages", "1"], "--ages 1 is no multiple of 0.32 s"),
        ("sammo", ["--parts", "valid,eval9"], "no .*csj_cuts_eval9.jsonl.gz; .*--manifest-dir"),
        ("sammo", ["--manifest-dir", "nowhere"], "no nowhere/csj_cuts_eval1.jsonl.gz; .*--manifest-dir"),
        ("sammo", ["--lang", "nowhere"], "no language directory nowhere; .*--lang"),
        ("sammo", ["--parts", ""], "--parts names no part"),
    ],
)
def test_refusals(work, name, words, message):
    with pytest.raises(UserError, match=message):
        memory(work, name, *words)


def test_ages_must_be_seconds(work, capsys):
    for text in ("0", "-1", "x", "", "inf"):
        with pytest.raises(SystemExit):
            memory(work, "sammo", f"--ages={text}")
        assert "expected seconds above 0" in capsys.readouterr().err
