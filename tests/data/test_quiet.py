"""Noise without a text in training batches, and silence before utterances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures.data import make_corpus
from fixtures.paths import ROOT
from fixtures.training import small_config

from sammo.data.config import DataConfig
from sammo.data.datamodule import CsjDataModule
from sammo.data.features import SAMPLING_RATE, collate_precomputed, make_extractor
from sammo.data.quiet import BABBLE_GAINS, NEARER, VOICES, Quiet, babble
from sammo.data.tokens import load_tokenizer
from sammo.errors import UserError
from sammo.geometry import PADDING_VALUE
from sammo.search import make_searcher
from sammo.streaming.audio import read_audio
from sammo.transducer import Transducer, pad_tokens

PLAIN = {"max_duration": 12.0, "num_workers": 0, "drop_last": False, "enable_musan": False, "enable_spec_aug": False}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    fbank = make_corpus(tmp_path_factory.mktemp("quiet"))
    tokenizer = load_tokenizer(fbank.parent / "lang_char")

    def batches(**options):
        return list(
            CsjDataModule(DataConfig(manifest_dir=fbank, **{**PLAIN, **options}), tokenizer).train_dataloader(1)
        )

    return batches


def test_noise_has_no_text(load):
    """About the share of the utterances, none of what was said in their place; the others are what they were."""
    plain, found = load(), load(noise_only_share=0.4)
    gone = kept = 0
    for before, after in zip(plain, found, strict=True):
        assert after["cut_ids"] == before["cut_ids"] and torch.equal(after["lengths"], before["lengths"])
        for row, length in enumerate(before["lengths"]):
            same = torch.equal(after["features"][row, :length], before["features"][row, :length])
            assert same == (after["texts"][row] == before["texts"][row])
            if same:
                kept += 1
                assert torch.equal(after["tokens"][row], before["tokens"][row][: after["tokens"].size(1)])
            else:
                gone += 1
                assert after["texts"][row] == "" and not after["tokens"][row].any()
                assert after["features"][row].isfinite().all()
                assert (after["features"][row] >= PADDING_VALUE - 1e-3).all()
    assert gone + kept == 40 and 8 <= gone <= 24


def test_utterances_alone_in_their_batch_are_replaced_too(load):
    """Long ones, where a batch holds few seconds; there is an axis of symbols, all blank."""
    found = load(noise_only_share=0.4, max_duration=1.0)
    empty = [batch for batch in found if not any(batch["texts"])]
    assert len(found) == 40 and 8 <= len(empty) <= 24
    assert all(batch["tokens"].shape == (1, 1) and not batch["tokens"].any() for batch in empty)


def test_share_of_babble():
    """Voices without anything above the 40th band give babble without it; no other sound but digital silence has so little."""
    torch.manual_seed(0)
    features = torch.cat([torch.randn(4, 300, 40) - 6, torch.full((4, 300, 40), PADDING_VALUE)], dim=2)
    lengths, kinds = torch.tensor([300, 280, 150, 40]), []
    for seed in range(60):
        found, _, replaced = Quiet(0.5, 0.0)(features, lengths, seed)
        for row, length in zip(found[replaced], lengths[replaced].tolist()):
            low, high = row[:length, :40].mean(), row[:length, 40:].max()
            kinds.append(bool(high < PADDING_VALUE + 9 and low > PADDING_VALUE + 3))
    assert 90 < len(kinds) < 150 and 0.28 < np.mean(kinds) < 0.52


def test_babble():
    """Everybody's spectrum at once, steadier than one voice, at a level around a single speaker's, not the same twice."""
    torch.manual_seed(0)
    loudness = 3 * torch.randn(500 // 10).repeat_interleave(10)
    syllables = loudness[:, None] - torch.linspace(4, 10, 80) + torch.randn(500, 80)
    voices = [syllables, syllables.flip(0)[:333]]
    speaker = torch.cat(voices).exp().mean()
    levels, sums, modulation = [], [], []
    for seed in range(200):
        found = babble(700, voices, np.random.default_rng(seed))
        assert found.shape == (700, 80) and found.isfinite().all()
        gain = 10 * (found.exp().mean() / speaker).log10()
        levels.append(float(gain))
        sums.append(float(found.exp().sum()))
        if gain > -20:  # nothing is at the floor
            power, alone = found.exp().sum(1), syllables.exp().sum(1)
            modulation.append(float(power.std() / power.mean() / (alone.std() / alone.mean())))
            spectrum = found.exp().mean(0) / speaker / 10 ** (gain / 10)
            assert torch.allclose(spectrum.log(), (torch.cat(voices).exp().mean(0) / speaker).log(), atol=0.5)
    low, high = BABBLE_GAINS
    assert low - 0.1 <= min(levels) < low + 3 and high - 3 < max(levels) <= high + 0.1
    assert len(set(sums)) == len(sums) and np.mean(modulation) < 0.5  # 6 to 16 voices: 0.25 to 0.41


def test_music():
    """Two fifths of the synthetic sounds begin and end again and again; noise, hum and digital silence stay as they are."""
    quiet = Quiet(0.5, 0.0)
    changes = []
    for seed in range(100):
        found = quiet._synthetic(300, (-30.0, -30.0), np.random.default_rng(seed))
        changes.append(float(found.max(1).values.std()))
    assert 30 <= sum(change > 1.2 for change in changes) <= 50
    assert sum(change < 0.8 for change in changes) >= 50


def test_babble_fluctuates_as_mixed_audio():
    """From frame to frame, band by band, as features of samples that were added do; powers alone would do it by two thirds."""
    audio = read_audio(ROOT / "models/sample.wav").numpy()
    extractor, seconds = make_extractor(), 20
    alone = torch.from_numpy(extractor.extract(audio, SAMPLING_RATE))
    added, found = [], []
    for seed in range(3):
        draw = np.random.default_rng(seed)
        found.append(babble(100 * seconds, [alone], draw))
        mixed = np.zeros(SAMPLING_RATE * seconds)
        for _ in range(draw.integers(VOICES[0], VOICES[1] + 1)):
            voice = np.resize(np.roll(audio, draw.integers(len(audio))), len(mixed))
            mixed += voice * 10 ** (draw.uniform(-NEARER, 0.0) / 20)
        added.append(torch.from_numpy(extractor.extract((0.1 * mixed).astype(np.float32), SAMPLING_RATE)))

    def fluctuation(sounds):
        above = [(sound - sound.exp().mean(0).log()) for sound in sounds]
        return torch.stack(above).diff(dim=1).std((0, 1)).view(8, 10).mean(1)

    assert torch.allclose(fluctuation(found), fluctuation(added), rtol=0.15)


def test_silence_comes_first(load):
    """Utterances are moved by up to as much, and none is changed."""
    plain, found = load(), load(leading_silence=1.0)
    leads = []
    for before, after in zip(plain, found, strict=True):
        assert after["texts"] == before["texts"] and torch.equal(after["tokens"], before["tokens"])
        assert after["features"].shape == (len(before["texts"]), after["lengths"].max(), 80)
        for row, (old, new) in enumerate(zip(before["lengths"].tolist(), after["lengths"].tolist())):
            lead = new - old
            leads.append(lead)
            assert torch.equal(after["features"][row, lead:new], before["features"][row, :old])
            assert (after["features"][row, new:] == PADDING_VALUE).all()
            if lead:  # at most -50 dBFS; the corpus has -26
                assert after["features"][row, :lead].mean() < before["features"][row, :old].mean() - 3
    assert 0 <= min(leads) < 20 and 80 < max(leads) <= 100 and len(set(leads)) > 20


@pytest.mark.parametrize("more", [{}, {"enable_musan": True, "enable_spec_aug": True, "on_the_fly_feats": True}])
def test_a_batch_is_a_function_of_its_seed(load, more, request):
    """Whether a worker makes it, which has one thread, or the training process, which may have more."""
    options = {"noise_only_share": 0.3, "leading_silence": 0.5, **more}
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    first, again, other = load(**options), load(**options, num_workers=1), load(**options, data_seed=1)
    for left, right in zip(first, again, strict=True):
        assert left["texts"] == right["texts"] and torch.equal(left["features"], right["features"])
    assert [batch["texts"] for batch in first] != [batch["texts"] for batch in other]


def test_recorded_noise_without_talks(load, tmp_path):
    """MUSAN's noise and music replace at other levels; its talks never do."""
    from sammo.data.manifests import read_cuts

    fbank = make_corpus(tmp_path, train=3, valid=2)
    cuts = list(read_cuts(fbank / "musan_cuts.jsonl.gz"))
    cuts[0].id = "speech-librivox-0000"
    quiet = Quiet(0.5, 0.0, cuts)
    assert len(quiet.noise) == len(cuts) - 1
    recorded, _ = collate_precomputed(quiet.noise[:1])
    quiet.noise = quiet.noise[:1]
    found = quiet._recorded(1000, np.random.default_rng(0))
    period = recorded.size(1)
    assert found.shape == (1000, 80) and torch.equal(found[: 1000 - period], found[period:])
    assert -30 <= (found.mean() - recorded.mean()) * 10 / np.log(10) <= 0.1


@pytest.mark.parametrize("frames", [1, 3, 500])
def test_levels(frames):
    """20 dB more are 20 dB more in every bin, and however few frames are wanted, there are as many."""
    quiet = Quiet(0.5, 0.0)
    for seed in range(20):
        found = quiet._synthetic(frames, (-40.0, -40.0), np.random.default_rng(seed))
        assert found.shape == (frames, 80) and found.isfinite().all()
        if (found == PADDING_VALUE).all() or frames < 500:
            continue
        loud = quiet._synthetic(frames, (-20.0, -20.0), np.random.default_rng(seed))
        clear = found > PADDING_VALUE + 8
        assert torch.allclose((loud - found)[clear], torch.tensor(20 * np.log(10) / 10).float(), atol=0.05)


@pytest.mark.parametrize(
    "options", [{"noise_only_share": -0.1}, {"noise_only_share": 1.0}, {"leading_silence": float("nan")}]
)
def test_bad_values(options, tmp_path):
    with pytest.raises(UserError, match="--(noise-only-share|leading-silence) must be"):
        DataConfig(manifest_dir=tmp_path, **options)


def test_empty_texts_teach_silence():
    """Finite losses and gradients, alone and beside texts; a model that talks into noise stops."""
    torch.manual_seed(0)
    model = Transducer(small_config())
    with torch.no_grad():
        model.joiner.output_linear.bias[1] += 3.0
    quiet = Quiet(0.5, 0.0)
    draws = [np.random.default_rng(seed) for seed in range(4)]
    noise = torch.stack([quiet._synthetic(160, (-60.0, -20.0), draw) for draw in draws])
    lengths = torch.full((4,), 160)
    search = make_searcher(model, "greedy_search")

    def emitted() -> int:
        model.eval()
        with torch.inference_mode():
            encoded = model.encoder(noise, lengths, chunk_size=-1)
            return sum(len(best.tokens) for best, *_ in search(encoded.frames, encoded.lengths))

    mixed = model(noise, lengths, pad_tokens([[], [1, 2], [], [3]]))
    alone = model(noise, lengths, pad_tokens([[], [], [], []]))
    for losses in (mixed, alone):
        assert torch.isfinite(losses.simple).all() and torch.isfinite(losses.pruned).all()
        assert (losses.pruned > 0).all()
    assert emitted() > 20
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(15):
        model.train()
        losses = model(noise, lengths, pad_tokens([[], [], [], []]), chunk_size=-1)
        loss = losses.simple.sum() + losses.pruned.sum() + losses.ctc.sum()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    assert emitted() == 0
