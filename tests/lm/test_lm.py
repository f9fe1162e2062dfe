"""N-gram models: ARPA files against plain lookups, Witten-Bell against its formula, and what searching with them does."""

from __future__ import annotations

import argparse
import itertools
import math
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from fixtures.search_toy import assert_same, plain_beam_search, toy_model
from fixtures.streaming import make_model

from sammo.commands import decode, memory, parity, streaming_decode, transcribe
from sammo.data.tokens import CharTokenizer, character_table
from sammo.decoding import _unusual, searcher_for
from sammo.errors import UserError
from sammo.lm import NgramLM, perplexity, write_witten_bell
from sammo.options import Search, from_args
from sammo.search import make_searcher

UNITS = ["<blk>", "a", "b", "c", "<unk>", "<sos/eos>"]
UNKNOWN = 4
# The trigram "a b c" has the suffix "b c", "c a b" has not: its longest suffix is the unigram b.
ARPA = r"""
\data\
ngram 1=6
ngram 2=5
ngram 3=2

\1-grams:
-99	<s>	-0.3
-0.9	</s>
-1.5	<unk>
-0.5	a	-0.2
-0.7	b	-0.25
-0.6	c	-0.1

\2-grams:
-0.2	<s> a	-0.15
-0.4	a b	-0.35
-0.3	b c	-0.05
-0.45	c a
-0.8	a </s>

\3-grams:
-0.1	a b c
-0.15	c a a
\end\
"""


def table(text: str) -> tuple[dict, dict]:
    """Probabilities and weights, by tuples of words."""
    probs, weights = {}, {}
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) > 1:
            words = tuple(fields[1].split())
            probs[words] = float(fields[0])
            weights[words] = float(fields[2]) if len(fields) > 2 else 0.0
    return probs, weights


def plain(text: str, history: list[str], word: str, order: int = 3) -> float:
    """log10 P(word | history) by the definition of a backoff model."""
    probs, weights = table(text)
    if (word,) not in probs:
        word = "<unk>"
    context = tuple(history)[-(order - 1) :] if order > 1 else ()
    found = 0.0
    while (*context, word) not in probs:
        found += weights.get(context, 0.0)
        context = context[1:]
    return found + probs[(*context, word)]


def write(path: Path, text: str = ARPA) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def scores(lm: NgramLM, tokens: list[int]) -> list[float]:
    state, found = lm.start(torch.device("cpu")), []
    for token in tokens:
        log_prob, state = lm.step(torch.tensor([token]), state)
        found.append(log_prob.item() / math.log(10))
    return found


def test_every_sequence_has_the_probability_of_the_definition(tmp_path):
    lm = NgramLM(write(tmp_path / "toy.arpa"), UNITS, UNKNOWN)
    for tokens in itertools.product(range(1, 6), repeat=4):
        words = [UNITS[token] for token in tokens]
        expected = [plain(ARPA, ["<s>", *words[:place]], word) for place, word in enumerate(words)]
        assert scores(lm, list(tokens)) == pytest.approx(expected, abs=1e-6), words


def test_many_hypotheses_at_once_are_each_alone(tmp_path):
    lm = NgramLM(write(tmp_path / "toy.arpa"), UNITS, UNKNOWN)
    rows = [random.Random(seed).choices(range(1, 6), k=6) for seed in range(20)]
    state, found = lm.start(torch.device("cpu")).expand(20), []
    for column in zip(*rows):
        log_probs, state = lm.step(torch.tensor(column), state)
        found.append(log_probs / math.log(10))
    torch.testing.assert_close(torch.stack(found, 1), torch.tensor([scores(lm, row) for row in rows]).double())


def test_units_that_the_file_lacks(tmp_path):
    text = ARPA.replace("-1.5\t<unk>\n", "").replace("ngram 1=6", "ngram 1=5")
    lm = NgramLM(write(tmp_path / "toy.arpa", text), UNITS, UNKNOWN)
    assert scores(lm, [UNKNOWN]) == pytest.approx([-0.3 - 0.7], abs=1e-6)  # backoff of <s>, then the rarest unit's
    with pytest.raises(UserError, match="has none of the 3 units; a model of words"):
        NgramLM(write(tmp_path / "toy.arpa"), ["x", "y", "z"], 2)


def test_a_perplexity_beyond_all_floats(tmp_path):
    lm = NgramLM(write(tmp_path / "toy.arpa", ARPA.replace("-1.5\t<unk>", "-900\t<unk>")), UNITS, UNKNOWN)
    assert perplexity(lm, [[UNKNOWN]]) == math.inf


@pytest.mark.parametrize(
    "old, new, message",
    [
        (r"\data" "\\", "data", "it ends early"),
        ("ngram 2=5", "ngram 2=6", "5 2-grams, 6 announced"),
        ("\\end\\\n", "", "it ends early"),
        ("\\end\\", "\\4-grams:", "line 25: expected .end."),
        ("-0.4\ta b", "x\ta b", "line 17: .* has no log10 probability"),
        ("-0.4\ta b", "nan\ta b", "line 17: .* has no log10 probability"),
        ("-0.4\ta b", "-1e200\ta b", "line 17: .* has no log10 probability"),
        ("-0.4\ta b\t-0.35", "-0.4\ta b\t-1e200", "line 17: .* has no log10 probability"),
        ("-0.4\ta b", "0.4\ta b", "line 17: .* has no log10 probability"),
        ("-0.4\ta b\t-0.35", "-0.4\ta", "line 17: expected a probability, 2 words"),
        ("-0.1\ta b c", "-0.1\ta c c", "1 3-grams continue one that is not there"),
        ("-0.15\tc a a", "-0.1\ta b c", "a 3-gram is there twice"),
        ("ngram 1=6\n", "", "line 3: ngram 2=5"),
        ("\\2-grams:", "\\3-grams:", "expected .2-grams:"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, old, new, message):
    assert old in ARPA
    with pytest.raises(UserError, match=message):
        NgramLM(write(tmp_path / "toy.arpa", ARPA.replace(old, new)), UNITS, UNKNOWN)


def test_no_text_and_no_file(tmp_path):
    (tmp_path / "toy.arpa").write_bytes(b"\\data\\\nngram 1=1\n\n\\1-grams:\n-1\t\xff\n\\end\\\n")
    with pytest.raises(UserError, match="utf-8"):
        NgramLM(tmp_path / "toy.arpa", UNITS, UNKNOWN)
    with pytest.raises(UserError, match="no language model .*nothing.arpa"):
        NgramLM(tmp_path / "nothing.arpa", UNITS, UNKNOWN)


# ------------------------------------------------------------------------------------ estimation


def test_witten_bell(tmp_path):
    """Against the formula, by recursion, and sums of one after every context."""
    sentences = [list(text) for text in ("abca", "abcb", "ab", "c")]
    events = ["a", "b", "c", "<unk>", "</s>"]
    padded = [["<s>", *sentence, "</s>"] for sentence in sentences]

    def probability(context: tuple[str, ...], unit: str) -> float:
        """What follows ``context`` in the sentences, interpolated down to one in five."""
        size = len(context)
        after = Counter(s[i + size] for s in padded for i in range(len(s) - size) if tuple(s[i : i + size]) == context)
        if not context:
            del after["<s>"]
        lower = probability(context[1:], unit) if context else 1 / len(events)
        return (after[unit] + len(after) * lower) / (after.total() + len(after)) if after else lower

    path = tmp_path / "wb.arpa"
    counts = write_witten_bell(path, sentences, ["a", "b", "c", "<unk>"], 3)
    assert counts[0] == 6 and len(counts) == 3
    text = path.read_text(encoding="utf-8")
    contexts = [("<s>",), ("a",), ("c",), ("<s>", "a"), ("a", "b"), ("b", "c"), ("c", "a"), ("b", "b"), ("<unk>", "a")]
    for context in contexts:
        found = [10 ** plain(text, list(context), unit) for unit in events]
        assert found == pytest.approx([probability(context[-2:], unit) for unit in events], abs=1e-6)
        assert sum(found) == pytest.approx(1.0, abs=1e-5)
    lm = NgramLM(path, UNITS, UNKNOWN)
    assert perplexity(lm, [[1, 2, 3], [1]]) == pytest.approx(
        math.prod([probability(("<s>",), "a") ** 2, probability(("<s>", "a"), "b"), probability(("a", "b"), "c")])
        ** -0.25,
        rel=1e-5,
    )


def test_a_model_of_one_unit_at_a_time(tmp_path):
    write_witten_bell(tmp_path / "one.arpa", [["a", "a", "b"]], ["a", "b"], 1)
    lm = NgramLM(tmp_path / "one.arpa", ["a", "b", "<unk>"], 2)
    first, again = scores(lm, [0, 0])
    assert first == again == pytest.approx(math.log10((2 + 3 / 3) / (4 + 3)), abs=1e-6)


# ------------------------------------------------------------------------------------ searching


def utterances():
    generator = torch.Generator().manual_seed(3)
    return 2.0 * torch.randn(3, 20, 8, generator=generator, dtype=torch.float64), torch.tensor([20, 15, 9])


@pytest.fixture
def lm(tmp_path) -> NgramLM:
    """A model of the 12 units of the toy."""
    units = [f"u{index}" for index in range(12)]
    text = [random.Random(seed).choices(units[1:], k=12) for seed in range(20)]
    write_witten_bell(tmp_path / "toy.arpa", text, units[1:], 3)
    return NgramLM(tmp_path / "toy.arpa", units, 11)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_search_adds_the_probabilities_of_the_tokens(lm, beam_size):
    """As plain search does, which scores one hypothesis at a time, and in the end exactly the scale times their sum."""
    model, (frames, lengths) = toy_model(), utterances()
    found = make_searcher(model, "modified_beam_search", beam_size, lm=lm, lm_scale=0.6)(frames, lengths, nbest=9)
    for hyps, sequence, length in zip(found, frames, lengths):
        assert_same(hyps, plain_beam_search(model, sequence[:length], beam_size, lm=lm, lm_scale=0.6))
    if beam_size == 1:
        half = make_searcher(model, "modified_beam_search", 1, lm=lm, lm_scale=0.0)(frames, lengths)
        for (with_lm,), (without,) in zip(found, half):
            assert with_lm.tokens == without.tokens  # one hypothesis: nothing to choose
            gain = 0.6 * math.log(10) * sum(scores(lm, with_lm.tokens))
            assert with_lm.score - without.score == pytest.approx(gain, abs=1e-9) and gain < 0


def test_scale_zero_is_no_language_model(lm):
    model, (frames, lengths) = toy_model(), utterances()
    none = make_searcher(model, "modified_beam_search", 4)(frames, lengths, nbest=9)
    assert make_searcher(model, "modified_beam_search", 4, lm=lm, lm_scale=0.0)(frames, lengths, nbest=9) == none
    assert make_searcher(model, "modified_beam_search", 4, lm=lm, lm_scale=0.6)(frames, lengths, nbest=9) != none


def test_chunks_change_nothing(lm):
    searcher = make_searcher(toy_model(), "modified_beam_search", 4, lm=lm, lm_scale=0.6)
    frames, lengths = utterances()
    whole = searcher(frames, lengths, nbest=9)
    for n, length in enumerate(lengths.tolist()):
        state = searcher.start()
        for piece in frames[n : n + 1, :length].split(4, dim=1):
            (state,) = searcher.advance(piece, torch.tensor([piece.shape[1]]), [state])
            state = searcher.from_tensors(searcher.to_tensors(state))  # as in another process
        assert_same(searcher.result(state, nbest=9), whole[n])
    assert searcher.facts()["lm"] == lm.digest
    tensors = searcher.to_tensors(state)
    (name,) = (name for name in tensors if name.startswith("lm_state"))
    with pytest.raises(ValueError, match="n-grams that there are not"):
        searcher.from_tensors({**tensors, name: tensors[name] + len(lm.keys)})


def test_a_new_utterance_goes_on_in_the_context_or_begins(lm):
    model, (frames, lengths) = toy_model(), utterances()
    searcher = make_searcher(model, "modified_beam_search", 4, lm=lm, lm_scale=0.6)
    (state,) = searcher.advance(frames[:1], lengths[:1], [searcher.start()])
    goes_on = searcher.restart(state).beam.lm_state
    assert set(goes_on.tolist()) <= set(state.beam.lm_state.tolist()) and len(set(goes_on.tolist())) == 1
    assert searcher.restart(state, keep_context=False).beam.lm_state.equal(searcher.start().beam.lm_state)


@pytest.mark.parametrize("command", [decode, streaming_decode, transcribe, parity, memory])
def test_commands_take_it(command):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    audio = ["a.wav"] if command is transcribe else []
    for name in ("--lm-scale", "--ngram-lm-scale"):
        search = from_args(Search, parser.parse_args([*audio, "--lm", "x.arpa", name, "0.5"]))
        assert (search.lm, search.lm_scale) == (Path("x.arpa"), 0.5)
    with pytest.raises(UserError, match="--lm-scale must be 0 to 10, got nan"):
        from_args(Search, parser.parse_args([*audio, "--lm-scale", "nan"]))


def test_options_make_the_search_and_name_the_result(tmp_path):
    tokenizer = CharTokenizer(character_table(["あいうえお"]))
    model, path = make_model("sammo", tokenizer.vocab_size), tmp_path / "toy.arpa"
    write_witten_bell(path, [list("えええええええええ")], list("あいうえお"), 2)
    search = Search(lm=path, lm_scale=4.0)
    generator = torch.Generator().manual_seed(0)
    frames, lengths = torch.randn(1, 40, model.config.encoder.out_dim, generator=generator), torch.tensor([40])

    def text(search: Search) -> str:
        with torch.inference_mode():
            ((best, *_),) = searcher_for(model, search, tokenizer)(frames, lengths)
        return tokenizer.decode(best.tokens)

    assert text(search).count("え") > text(Search()).count("え") > 0
    assert text(Search(lm=tmp_path / "nothing.arpa", lm_scale=0.0)) == text(Search())
    (name,) = _unusual(search)
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert name.startswith("lm-") and name.endswith("-4") and [name] != _unusual(search)
    with pytest.raises(UserError, match="need --decoding-method modified_beam_search, not greedy_search"):
        searcher_for(model, Search("greedy_search", lm=path), tokenizer)
