"""Error rates, their files and the report."""

from __future__ import annotations

import json

import pytest

from sammo.errors import UserError
from sammo.scoring import DecodeSetting, bootstrap_interval, count_errors, has_results, read_results, write_results
from sammo.scoring.cer import Counts, error_rate, probability_of_improvement, total
from sammo.scoring.report import write_report


def setting(encoder="sammo", chunk=64, left=0, avg=1, **changes) -> DecodeSetting:
    values = dict(
        encoder=encoder, preset="tiny", method="greedy_search", beam_size=1, chunk_size=chunk,
        left_context_frames=left, epoch=3, avg=avg, use_averaged_model=True, d_state=32,
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
    assert probability_of_improvement(hard, slightly_better) == 1.0
    assert probability_of_improvement(hard, hard) == 0.5
    with pytest.raises(ValueError):
        probability_of_improvement(hard, hard[:-1])


def test_files_of_a_part(tmp_path):
    [summary] = write_results(tmp_path, setting(), "eval1", PART, extra={"delay": 1.5})
    assert summary.counts == Counts(9, 1, 1, 0) and summary.utterances == 2
    name = "eval1-sammo-simulated-epoch-3-avg-1-averaged-model-chunk-64-left-context-0-greedy_search"
    recogs = (tmp_path / f"recogs-{name}.txt").read_text().splitlines()
    assert recogs[0] == "a:\tref=['明', '日', 'は', '雨']" and recogs[2] == "a:\ttimestamp_hyp=[0.2, 0.3]"
    errs = (tmp_path / f"errs-{name}.txt").read_text()
    assert "%CER = 22.22" in errs and "a:\t明 日 (は->*) 雨 (*->だ)" in errs and "1   は" in errs
    assert (tmp_path / f"cer-summary-{name}.txt").read_text().splitlines()[0] == "settings\tCER"
    [result] = read_results(tmp_path)
    assert result.cut_ids == ["a", "b"] and result.setting == setting() and result.extra == {"delay": 1.5}
    assert has_results(tmp_path, setting(), "eval1")
    assert not has_results(tmp_path, setting(checkpoint="epoch-3 of another run"), "eval1")
    assert not has_results(tmp_path, setting(), "eval2")


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
    assert "0.00 against 22.22" in table and "eval1 0 of 7" in table
    assert len(paths["csv"].read_text().splitlines()) == 1 + 4 + 2
    for kind in ("figure", "state figure"):
        assert paths[kind].read_bytes().startswith(b"\x89PNG")


WORDS = [("a", "GO THREE NINE", "GO TREE NINE NINE", [0.1]), ("b", "YES", "YES", [0.2])]


def test_words_are_counted_beside_characters(tmp_path):
    assert count_errors("GO THREE NINE", "GO TREE NINE NINE", "WER") == Counts(3, 1, 0, 1)
    assert count_errors("", "YES", "WER") == Counts(0, 1, 0, 0) and count_errors("GO", " ", "WER") == Counts(1, 0, 1, 0)
    rates = write_results(tmp_path, setting(), "test", WORDS, metric="WER", corpus="an4")
    assert [rate.metric for rate in rates] == ["WER", "CER"]
    assert [rate.counts for rate in rates] == [Counts(4, 1, 0, 1), Counts(14, 4, 1, 0)]
    assert str(rates[0]).startswith("WER 50.00 % (") and rates[1].rate == pytest.approx(500 / 14)
    [result] = read_results(tmp_path)
    assert result.corpus == "an4" and result.rate("WER") == 50 and result.rate() == pytest.approx(500 / 14)
    assert "ref=['GO', 'THREE', 'NINE']" in next(tmp_path.glob("recogs-*")).read_text()
    errs = next(tmp_path.glob("errs-*")).read_text()
    assert "%WER = 50.00" in errs and "over 4 reference words" in errs and "THREE -> TREE" in errs
    assert next(tmp_path.glob("wer-summary-*")).read_text().endswith("\t50.00\n")
    assert next(tmp_path.glob("cer-summary-*")).read_text().endswith("\t35.71\n")
    # A part that was scored by characters alone is decoded again where words count.
    write_results(tmp_path / "old", setting(), "test", WORDS)
    assert has_results(tmp_path / "old", setting(), "test") and not has_results(tmp_path / "old", setting(), "test", "WER")


def test_report_by_words_shows_them_first(tmp_path):
    for encoder, left in (("sammo", 0), ("zipformer", 64)):
        for part in ("test", "valid"):
            write_results(tmp_path / "results", setting(encoder, 64, left), part, WORDS, metric="WER", corpus="an4")
    paths = write_report([tmp_path / "results"], tmp_path / "out")
    assert {path.name for path in paths.values()} == {"wer.md", "wer.csv", "wer_over_chunk.png", "wer_over_state.png"}
    table = paths["table"].read_text()
    assert table.startswith("# Word error rates\n\nWER in % over test, with") and "CER in % over test, with" in table
    assert "WER at chunk 64" in table and "50.00 against 50.00" in table
    assert "| Chunk | test, WER | test, CER | valid, WER | valid, CER |" in table
    head, *rows = [line.split(",") for line in paths["csv"].read_text().splitlines()]
    assert head.index("wer") < head.index("cer") and len(rows) == 4 and all(len(row) == len(head) for row in rows)
    assert float(rows[0][head.index("wer")]) == 50 and float(rows[0][head.index("cer")]) == pytest.approx(35.7143)


def test_report_is_over_one_corpus_and_pools_no_excluded_part(tmp_path):
    write_results(tmp_path / "csj", setting(), "eval1", PART, corpus="csj")
    write_results(tmp_path / "csj", setting(), "excluded", PART[:1], corpus="csj")
    write_results(tmp_path / "an4", setting(), "test", WORDS, metric="WER", corpus="an4")
    both = [tmp_path / "csj", tmp_path / "an4"]
    with pytest.raises(UserError, match="these are results on an4, csj; choose one by --corpus"):
        write_report(both, tmp_path / "out")
    with pytest.raises(UserError, match="unknown corpus 'ted'; it is one of csj, an4"):
        write_report(both, tmp_path / "out", corpus_name="ted")
    with pytest.raises(UserError, match="no results on csj here, only on an4"):
        write_report(both[1:], tmp_path / "out", corpus_name="csj")
    table = write_report(both, tmp_path / "out", corpus_name="csj")["table"].read_text()
    assert "CER in % over eval1, with" in table and "| Chunk | eval1 | excluded |" in table
    write_results(tmp_path / "bare", setting(), "test", WORDS, corpus="an4")
    with pytest.raises(UserError, match="has no WER; decode again with --force"):
        write_report([tmp_path / "bare"], tmp_path / "out")


def test_best_average_is_chosen_on_valid_only(tmp_path):
    better, worse = [("a", "明日は雨", "明日は雨", [])], [("a", "明日は雨", "明日", [])]
    for avg, valid, test in ((1, worse, better), (2, better, worse)):
        write_results(tmp_path, setting(avg=avg), "valid", valid)
        write_results(tmp_path, setting(avg=avg), "eval1", test)
    table = write_report([tmp_path], tmp_path / "out")["table"].read_text()
    assert "average of 2, chosen on valid out of 2" in table and "50.00 (50.00–50.00)" in table
    for path in tmp_path.glob("*valid*avg-1-*.json"):
        path.unlink()
    with pytest.raises(UserError, match="decode the part valid"):
        write_report([tmp_path], tmp_path / "out")


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
