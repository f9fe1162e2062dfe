"""Error rates, their files and the report."""

from __future__ import annotations

import json
import os
import random

import pytest

from sammo.corpora import AN4, CSJ, own_corpus
from sammo.errors import UserError
from sammo.scoring import (
    DecodeSetting,
    bootstrap_interval,
    count_errors,
    figures,
    has_results,
    read_results,
    write_results,
)
from sammo.scoring.cer import Counts, difference, error_rate, holm, matched_pairs, total
from sammo.scoring.report import write_report
from sammo.scoring.table import Cell


def setting(encoder="sammo", chunk=64, left=0, avg=1, **changes) -> DecodeSetting:
    values = dict(
        encoder=encoder, preset="tiny", method="greedy_search", beam_size=1, chunk_size=chunk,
        left_context_frames=left, epoch=3, avg=avg, use_averaged_model=True, d_state=32 if encoder == "sammo" else 0,
        state_dtype="float32", state_bytes=4000 + 10 * left, streaming=False, checkpoint="epoch-3",
    )  # fmt: skip
    return DecodeSetting(**{**values, **changes})


PART = [("b", "今日は 晴れ", "今日は晴れ", [0.1]), ("a", "明日は雨", "明日雨だ", [0.2, 0.3])]


def test_errors_ignore_white_space_and_are_told_apart():
    assert count_errors("今日は 晴れ", "今日は晴れ") == Counts(5, 0, 0, 0)
    assert count_errors("明日は雨", "明日雨だ") == Counts(4, 1, 1, 0)
    assert count_errors("あいう", "あえう") == Counts(3, 0, 0, 1)
    assert count_errors("", "あ") == Counts(0, 1, 0, 0)
    assert error_rate(total([Counts(5, 0, 0, 0), Counts(4, 1, 1, 0)])) == pytest.approx(200 / 9)
    assert error_rate(Counts(0, 1, 0, 0)) == float("inf") and error_rate(total([])) == 0


def test_bootstrap_interval_is_repeatable_and_holds_the_rate():
    counts = [Counts(20, 0, i % 3, i % 2) for i in range(200)]
    low, high = bootstrap_interval(counts)
    rate = error_rate(total(counts))
    assert low < rate < high and high - low < 2
    assert (low, high) == bootstrap_interval(counts)
    # The normal approximation of the same interval (standard error over utterances).
    errors = [item.errors / 20 for item in counts]
    mean = sum(errors) / 200
    error = 100 * (sum((e - mean) ** 2 for e in errors) / 199 / 200) ** 0.5
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_paired_bootstrap_sees_what_the_intervals_cannot():
    hard = [Counts(20, 0, i % 10, 0) for i in range(100)]
    slightly_better = [Counts(20, 0, max(0, i % 10 - 1), 0) for i in range(100)]
    change, low, high = difference(hard, slightly_better)
    assert change == pytest.approx(-4.5) and low < change < high < 0 and high - low < 1
    assert difference(hard, hard) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError):
        difference(hard, hard[:-1])


def test_what_chance_makes_is_not_marked():
    """The matched-pairs test against its distribution under permutation, and Holm's correction by hand."""
    rng = random.Random(0)
    one = [Counts(20, 0, 0, rng.randrange(6)) for _ in range(300)]
    other = [Counts(20, 0, 0, max(0, item.subs - (rng.random() < 0.3) + (rng.random() < 0.2))) for item in one]
    changes = [b.subs - a.subs for a, b in zip(one, other)]
    found = sum(abs(sum(rng.choice((-1, 1)) * c for c in changes)) >= abs(sum(changes)) for _ in range(2000)) / 2000
    assert 0.005 < found < 0.5 and matched_pairs(one, other) == pytest.approx(found, rel=0.25)
    assert matched_pairs(one, one) == 1.0
    twice = [Counts(2 * a.ref, 0, 0, 2 * a.subs) for a in other]  # two seeds that err alike are no more evidence
    assert matched_pairs(one, twice) == pytest.approx(matched_pairs(one, other))
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_files_of_a_part(tmp_path):
    [summary] = write_results(tmp_path, setting(), "eval1", PART, extra={"delay": 1.5})
    assert summary.counts == Counts(9, 1, 1, 0) and summary.utterances == 2
    name = "eval1-sammo-simulated-epoch-3-avg-1-averaged-model-chunk-64-left-context-0-greedy_search"
    recogs = (tmp_path / f"recogs-{name}.txt").read_text().splitlines()
    assert recogs[0] == "a:\tref=['明', '日', 'は', '雨']" and recogs[2] == "b:\tref=['今', '日', 'は', '晴', 'れ']"
    assert recogs[3] == "b:\thyp=['今', '日', 'は', '晴', 'れ']" and len(recogs) == 4  # readers take them in pairs
    times = (tmp_path / f"timestamps-{name}.txt").read_text().splitlines()
    assert times == ["a:\ttimestamp_hyp=[0.2, 0.3]", "b:\ttimestamp_hyp=[0.1]"]
    errs = (tmp_path / f"errs-{name}.txt").read_text()
    assert "%CER = 22.22" in errs and "a:\t明 日 (は->*) 雨 (*->だ)" in errs and "1   は" in errs
    assert (tmp_path / f"cer-summary-{name}.txt").read_text().splitlines()[0] == "settings\tCER"
    [result] = read_results(tmp_path)
    assert result.cut_ids == ["a", "b"] and result.setting == setting() and result.extra == {"delay": 1.5}
    assert has_results(tmp_path, setting(), "eval1")
    assert not has_results(tmp_path, setting(checkpoint="epoch-3 of another run"), "eval1")
    assert not has_results(tmp_path, setting(), "eval2")


@pytest.mark.parametrize(
    "encoder, mixer, label",
    [
        ("sammo-none", "none", "Sammo without a mixer"),
        ("zipformer-gated_delta", "gated_delta", "Zipformer with gated_delta, left 64"),
    ],
)
def test_other_mixers_are_named(tmp_path, encoder, mixer, label):
    left = 64 if "left" in label else 0
    write_results(tmp_path, setting(encoder, left=left, mixer=mixer, d_state=0), "eval1", PART)
    assert f"| {label} |" in write_report([tmp_path], tmp_path / "out")["table"].read_text()


def test_report_has_every_system_and_part(tmp_path):
    for left in (64, 128):
        for chunk in (16, 64):
            write_results(tmp_path / "zip", setting("zipformer", chunk, left), "eval1", PART)
    for part in ("eval1", "valid"):
        write_results(tmp_path / "sammo", setting(chunk=64), part, PART[:1] + [("a", "明日は雨", "明日は雨", [])])
    statistics = tmp_path / "statistics.json"
    statistics.write_text(json.dumps({"overlap_with_training": {"eval1": {"inside_of_training": 0, "sentences": 7}}}))
    paths = write_report([tmp_path / "zip", tmp_path / "sammo"], tmp_path / "out", statistics)
    table = paths["table"].read_text()
    assert "| Sammo, d_state 32 | greedy, simulated | 4 |  | 0.00 (0.00–0.00) |" in table
    assert "Zipformer, left 64" in table and "Zipformer, left 128" in table
    assert "CER of Sammo, d_state 32 (sammo, greedy, simulated, 4 KiB) minus" in table and "eval1 0 of 7" in table
    assert "| zip | Zipformer, left 64 | 5 | -22.22 (-50.00 to +0.00) |" in table and "tests here (2; Holm)" in table
    assert len(paths["csv"].read_text().splitlines()) == 1 + 4 + 2
    for kind in ("figure", "state figure"):
        assert paths[kind].read_bytes().startswith(b"\x89PNG")


WORDS = [("a", "GO THREE NINE", "GO TREE NINE NINE", [0.1]), ("b", "YES", "YES", [0.2])]


def test_words_are_counted_beside_characters(tmp_path):
    assert count_errors("GO THREE NINE", "GO TREE NINE NINE", "WER") == Counts(3, 1, 0, 1)
    assert count_errors("", "YES", "WER") == Counts(0, 1, 0, 0) and count_errors("GO", " ", "WER") == Counts(1, 0, 1, 0)
    rates = write_results(tmp_path, setting(), "test", WORDS, corpus=AN4)
    assert [rate.metric for rate in rates] == ["WER", "CER"]
    assert [rate.counts for rate in rates] == [Counts(4, 1, 0, 1), Counts(14, 4, 1, 0)]
    assert str(rates[0]).startswith("WER 50.00 % (") and rates[1].rate == pytest.approx(500 / 14)
    [result] = read_results(tmp_path)
    assert result.corpus == AN4 and result.rate("WER") == 50 and result.rate() == pytest.approx(500 / 14)
    assert "ref=['GO', 'THREE', 'NINE']" in next(tmp_path.glob("recogs-*")).read_text()
    errs = next(tmp_path.glob("errs-*")).read_text()
    assert "%WER = 50.00" in errs and "over 4 reference words" in errs and "THREE -> TREE" in errs
    assert next(tmp_path.glob("wer-summary-*")).read_text().endswith("\t50.00\n")
    assert next(tmp_path.glob("cer-summary-*")).read_text().endswith("\t35.71\n")
    # A part that was scored by characters alone is decoded again where words count.
    write_results(tmp_path / "old", setting(), "test", WORDS)
    assert has_results(tmp_path / "old", setting(), "test") and not has_results(
        tmp_path / "old", setting(), "test", "WER"
    )


def test_report_by_words_shows_them_first(tmp_path):
    for encoder, left in (("sammo", 0), ("zipformer", 64)):
        for part in ("test", "valid"):
            write_results(tmp_path / "results", setting(encoder, 64, left), part, WORDS, corpus=AN4)
    paths = write_report([tmp_path / "results"], tmp_path / "out")
    assert {path.name for path in paths.values()} == {"wer.md", "wer.csv", "wer_over_chunk.png", "wer_over_state.png"}
    table = paths["table"].read_text()
    assert table.startswith("# Word error rates\n\nWER in % over test, with") and "CER in % over test, with" in table
    assert (
        "WER of Sammo, d_state 32 (results, greedy, simulated, 4 KiB) minus" in table
        and "| +0.00 (+0.00 to +0.00) |" in table
    )
    assert "| Chunk | test, WER | test, CER | valid, WER | valid, CER |" in table
    head, *rows = [line.split(",") for line in paths["csv"].read_text().splitlines()]
    assert head.index("wer") < head.index("cer") and len(rows) == 4 and all(len(row) == len(head) for row in rows)
    assert float(rows[0][head.index("wer")]) == 50 and float(rows[0][head.index("cer")]) == pytest.approx(35.7143)


def test_report_is_over_one_corpus_and_pools_no_excluded_part(tmp_path):
    write_results(tmp_path / "csj", setting(), "eval1", PART, corpus=CSJ)
    write_results(tmp_path / "csj", setting(), "excluded", PART[:1], corpus=CSJ)
    write_results(tmp_path / "an4", setting(), "test", WORDS, corpus=AN4)
    both = [tmp_path / "csj", tmp_path / "an4"]
    with pytest.raises(UserError, match="these are results on an4, csj; choose one by --corpus"):
        write_report(both, tmp_path / "out")
    with pytest.raises(UserError, match="unknown corpus 'ted'; it is one of csj, an4"):
        write_report(both, tmp_path / "out", corpus_name="ted")
    with pytest.raises(UserError, match="no results on csj here, only on an4"):
        write_report(both[1:], tmp_path / "out", corpus_name="csj")
    table = write_report(both, tmp_path / "out", corpus_name="csj")["table"].read_text()
    assert "CER in % over eval1, with" in table and "| Chunk | eval1 | excluded |" in table
    write_results(tmp_path / "bare", setting(), "test", WORDS, corpus=AN4)
    (path,) = (tmp_path / "bare").glob("cer-*.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in record.items() if key != "words"}))
    with pytest.raises(UserError, match="has no WER; decode again with --force"):
        write_report([tmp_path / "bare"], tmp_path / "out")


def test_corpora_of_ones_own_are_described_in_their_results(tmp_path):
    """Elsewhere, without their manifests, the report still knows what to count and which parts to pool."""
    own = own_corpus("meetings", ("clean", "noisy"), has_words=True, unit="bpe")
    for part in own.tests:
        write_results(tmp_path / "own", setting(), part, WORDS, corpus=own)
    assert {result.corpus for result in read_results(tmp_path / "own")} == {own}
    table = write_report([tmp_path / "own"], tmp_path / "out")["table"].read_text()
    assert "WER in % over clean, noisy together" in table
    write_results(tmp_path / "other", setting(), "clean", WORDS, corpus=own_corpus("meetings", ("clean",), True, "bpe"))
    with pytest.raises(UserError, match="these are results on meetings, meetings; .* or name fewer directories"):
        write_report([tmp_path / "own", tmp_path / "other"], tmp_path / "out")
    (path,) = (tmp_path / "other").glob("cer-*.json")
    damaged = json.loads(path.read_text())
    damaged["corpus"]["tests"] = ["../../etc"]
    path.write_text(json.dumps(damaged))
    with pytest.raises(UserError, match="one of its parts or modes is no word"):
        read_results(tmp_path / "other")


def test_best_average_is_chosen_on_valid_only(tmp_path):
    better, worse = [("a", "明日は雨", "明日は雨", [])], [("a", "明日は雨", "明日", [])]
    for avg, valid, test in ((1, worse, better), (2, better, worse)):
        write_results(tmp_path, setting(avg=avg), "valid", valid)
        write_results(tmp_path, setting(avg=avg), "eval1", test)
    write_results(tmp_path, setting(avg=3), "eval1", better)
    write_results(tmp_path, setting(avg=3), "valid", better, failed={"a": "gone"})
    with pytest.raises(UserError, match="3 averages but only 2 complete results"):
        write_report([tmp_path], tmp_path / "out")
    for path in tmp_path.glob("*avg-3-*"):
        path.unlink()
    table = write_report([tmp_path], tmp_path / "out")["table"].read_text()
    assert "average of 2, chosen on valid out of 2" in table and "50.00 (50.00–50.00)" in table
    for path in tmp_path.glob("*valid*avg-1-*.json"):
        path.unlink()
    with pytest.raises(UserError, match="decode the part valid"):
        write_report([tmp_path], tmp_path / "out")


def test_one_average_for_all_settings(tmp_path):
    """As the original experiment: chosen where it is asked for, whatever is best elsewhere."""
    better, worse = [("a", "明日は雨", "明日は雨", [])], [("a", "明日は雨", "明日", [])]
    for avg, at_32, at_64 in ((1, better, worse), (2, worse, better)):
        for left, chunk, valid in ((256, 32, at_32), (64, 32, at_64), (256, 64, at_64)):
            write_results(tmp_path, setting("zipformer", chunk, left, avg), "valid", valid)
            write_results(tmp_path, setting("zipformer", chunk, left, avg), "eval1", valid)
        write_results(tmp_path, setting("sammo", 32, 0, avg), "valid", at_64)
    table = write_report([tmp_path], tmp_path / "own")["table"].read_text()
    assert table.count("chosen on valid out of 2") == 4 and "50.00" not in table.split("## By part")[0]
    table = write_report([tmp_path], tmp_path / "one", average_at=(32, 256))["table"].read_text()
    assert "Zipformer, greedy, simulated: epoch 3, average of 1 for all settings, chosen on valid at chunk 32" in table
    assert "Sammo, d_state 32, greedy, simulated: epoch 3, average of 2 for all settings" in table
    assert "50.00" in table.split("## By part")[0]  # the price of it
    with pytest.raises(UserError, match="has 2 averages but only 0 complete results on .valid. at chunk 16"):
        write_report([tmp_path], tmp_path / "none", average_at=(16, 256))


def test_bad_input_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="no directory"):
        read_results(tmp_path / "none")
    with pytest.raises(UserError, match="run decode.py first"):
        read_results(tmp_path)
    bad = tmp_path / "cer-eval1-x.json"
    for text in ("", "[]", "{}", '{"format": "other"}', '{"format": "sammo-cer-1"}'):
        bad.write_text(text)
        with pytest.raises(UserError, match="cer-eval1-x.json is not a result file"):
            read_results(tmp_path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda record: record.update(cer=float("nan")),
        lambda record: record.update(cer="22"),
        lambda record: record.update(cer=1.0),  # contradicts the counts
        lambda record: record.update(part=3),
        lambda record: record.update(part="../x"),
        lambda record: record.update(extra=[]),
        lambda record: record.update(failed={"c": "of another part"}),
        lambda record: record.update(utterances=[]),
        lambda record: record["utterances"].update(a=[4, 0, 5, 0]),
        lambda record: record["utterances"].update(a=[4, 0, -1, 0]),
        lambda record: record["utterances"].update(a=[4, 0, 1.5, 0]),
        lambda record: record["utterances"].update(a=[True, 0, 0, 0]),
        lambda record: record["utterances"].update(a=4),
        lambda record: record["setting"].update(chunk_size="64"),
        lambda record: record["setting"].update(d_state=None),
        lambda record: record["setting"].update(streaming=0),
        lambda record: record["setting"].update(encoder="a | b"),
        lambda record: record["setting"].update(epoch=10**30),
        lambda record: record["setting"].update(unknown=1),
        lambda record: record["setting"].pop("avg"),
    ],
)
def test_results_of_wrong_types_are_one_line(tmp_path, edit):
    write_results(tmp_path, setting(), "eval1", PART)
    [path] = tmp_path.glob("cer-*.json")
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="is not a result file") as caught:
        write_report([tmp_path], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not has_results(tmp_path, setting(), "eval1")  # and is decoded again


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "cer-eval1-fifo.json")
    with pytest.raises(UserError, match="fifo.json .*no regular file"):
        read_results(tmp_path)
    (tmp_path / "cer-eval1-fifo.json").unlink()
    (tmp_path / "cer-eval1-x.json").mkdir()
    with pytest.raises(UserError, match="no regular file"):
        read_results(tmp_path)
    (tmp_path / "cer-eval1-x.json").rmdir()
    write_results(tmp_path, setting(), "eval1", PART)
    os.mkfifo(tmp_path / "statistics.json")
    with pytest.raises(UserError, match="statistics.json of prepare.sh"):
        write_report([tmp_path], tmp_path / "out", tmp_path / "statistics.json")


def test_what_failed_is_marked_and_not_done(tmp_path):
    results = [*PART, ("c", "雪", "", [])]
    [summary] = write_results(tmp_path, setting(), "eval1", results, failed={"c": "no audio\nfile c.wav"})
    assert summary.counts.dels == 2
    [result] = read_results(tmp_path)
    assert result.failed == {"c": "no audio\nfile c.wav"} and not has_results(tmp_path, setting(), "eval1")
    assert "INCOMPLETE: 1 of 3 utterances failed: c" in next(tmp_path.glob("errs-*")).read_text()
    assert "(1 failed)" in next(tmp_path.glob("cer-summary-*")).read_text()
    paths = write_report([tmp_path], tmp_path / "out")
    table = paths["table"].read_text()
    assert "**Incomplete**" in table and "30.00" in table and "(!)" in table
    assert "1 of 3 utterances failed (c: no audio file c.wav); decode again" in table
    assert ",3,1,1,10," in paths["csv"].read_text()  # utterances, failed, seeds, reference characters
    write_results(tmp_path, setting(), "eval1", results)
    assert has_results(tmp_path, setting(), "eval1")
    assert "(!)" not in write_report([tmp_path], tmp_path / "out")["table"].read_text()


GOOD, BAD = [("a", "明日は雨", "明日は雨", [])], [("a", "明日は雨", "明日", [])]


@pytest.mark.parametrize("other", ["excluded", "unseen"])
def test_only_tests_are_pooled(tmp_path, other):
    """Excluded talks are none, and neither is a part of which the corpus says nothing; alone that one is reported."""
    write_results(tmp_path / "both", setting(), "eval1", GOOD)
    write_results(tmp_path / "both", setting(), other, BAD)
    table = write_report([tmp_path / "both"], tmp_path / "out")["table"].read_text()
    assert "CER in % over eval1, with" in table and "| 0.00 (0.00–0.00) | 50.00 (50.00–50.00) |" in table
    if other == "unseen":
        write_results(tmp_path / "alone", setting(), other, BAD)
        table = write_report([tmp_path / "alone"], tmp_path / "out")["table"].read_text()
        assert "CER in % over unseen, with" in table


@pytest.mark.parametrize("shared", [True, False])
def test_a_row_is_an_experiment(tmp_path, shared):
    """One has eval1, the other valid: no row may hold both; nor do two share a file."""
    for name, part, results in (("a", "eval1", GOOD), ("b", "valid", BAD), ("b", "eval1", BAD)):
        experiment = tmp_path / "exp" / name
        res_dir = tmp_path / "results" if shared else experiment / "greedy_search"
        write_results(res_dir, setting(experiment=str(experiment)), part, results)
        assert has_results(res_dir, setting(experiment=str(experiment)), part)
    rows = write_report([tmp_path], tmp_path / "out")["table"].read_text().splitlines()
    rows = [line for line in rows if "| 64 (1.28 s) |" in line and "Sammo" in line]
    assert len(rows) == 2
    assert "| a |" in rows[0] and "50.00" not in rows[0] and rows[1].count("50.00 (50.00–50.00)") == 2


def test_results_move_with_their_experiment(tmp_path):
    write_results(tmp_path / "exp/a/greedy", setting(experiment=str(tmp_path / "exp/a")), "eval1", GOOD)
    (tmp_path / "exp").rename(tmp_path / "moved")
    [result] = read_results(tmp_path)
    assert result.setting.experiment == str(tmp_path / "moved/a")
    assert has_results(tmp_path / "moved/a/greedy", setting(experiment=str(tmp_path / "moved/a")), "eval1")


def test_results_without_an_experiment_are_told_apart_by_their_directory(tmp_path):
    for name, results in (("a", GOOD), ("b", BAD)):
        write_results(tmp_path / name, setting(), "eval1", results)
        path = next((tmp_path / name).glob("cer-*.json"))
        record = json.loads(path.read_text())
        record["format"] = "sammo-cer-1"
        for field in ("experiment", "search", "transcript_mode", "features"):
            del record["setting"][field]
        del record["failed"]
        path.write_text(json.dumps(record))
    table = write_report([tmp_path], tmp_path / "out")["table"].read_text()
    assert "| a | Sammo" in table and "| b | Sammo" in table


def test_seeds_are_pooled_on_request(tmp_path):
    for seed, results in ((1, GOOD), (2, BAD)):
        write_results(tmp_path / "r", setting(experiment=f"/exp/sammo-seed{seed}"), "eval1", results)
    write_results(tmp_path / "r", setting(experiment="/exp/other"), "eval1", GOOD)
    apart = write_report([tmp_path], tmp_path / "out")
    assert (
        "±" not in apart["table"].read_text().split("Experiment")[1] and len(apart["csv"].read_text().splitlines()) == 4
    )
    pooled = write_report([tmp_path], tmp_path / "out", pool=True)
    table = pooled["table"].read_text()
    assert "| sammo-seed* | Sammo, d_state 32 | greedy, simulated | 4 | 25.00 ± 35.36 (2 seeds) |" in table
    # GOOD minus the mean of GOOD and BAD.
    assert "| sammo-seed* | Sammo, d_state 32 | 4 | -25.00 (" in table
    assert "| other |" in table and pooled["figure"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "change",
    [
        {"search": "blank-penalty-1"},
        {"transcript_mode": "number"},
        {"features": "stored"},
        {"checkpoint": "best-valid"},
    ],
)
def test_what_decides_a_result_decides_its_name(tmp_path, change):
    write_results(tmp_path, setting(), "eval1", GOOD)
    assert not has_results(tmp_path, setting(**change), "eval1")
    write_results(tmp_path, setting(**change), "eval1", BAD)
    assert has_results(tmp_path, setting(**change), "eval1") and len(read_results(tmp_path)) == 2


def test_sizes_of_one_memory_are_one_line_over_their_bytes(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure) or path)
    systems = {"Sammo, d_state 32": 90, "Sammo, d_state 8": 47, "Zipformer, left 16": 59, "Zipformer, left 256": 539}
    lines = {
        name: {16: Cell({"CER": [Counts(100, 1, 0, 3)]}, ["a"], 1024 * size)}
        for name, size in {**systems, "Conformer, left 64": 114}.items()
    }
    figures.rate_over_state(lines, ["eval1"], tmp_path / "figure.png")
    [axes] = drawn[0].axes
    points = {container.get_label(): list(container.lines[0].get_xdata()) for container in axes.containers}
    assert points == {"Sammo": [47, 90], "Zipformer": [59, 539], "Conformer, left 64": [114]}
