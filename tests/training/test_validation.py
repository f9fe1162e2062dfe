"""Validation counts what the corpus is scored by."""

from __future__ import annotations

import logging

import pytest
from fixtures.training import Letters, ListData, make_trainer, random_batch

from sammo.training.report import RunReport
from sammo.training.validation import validate


class OneSentence(Letters):
    """Whatever is recognized reads the same."""

    def decode(self, ids):
        return "AB CD"


@pytest.mark.parametrize(
    "metric, rates", [("WER", {"WER": 50.0, "CER": 25.0}), ("CER", {"CER": 25.0})], ids=["words", "characters"]
)
def test_error_rates_are_the_corpus_s(tmp_path, metric, rates, caplog):
    batch = {**random_batch(0), "texts": ["AB CE"] * 4}
    data = ListData([batch])
    data.metric = metric
    trainer = make_trainer(tmp_path, data)
    trainer.tokenizer = OneSentence()
    with caplog.at_level(logging.INFO):
        trainer._validate(RunReport(trainer.config, 0, True))
    assert all(f"{name} {rate:.2f} %" in caplog.text for name, rate in rates.items())
    assert ("WER" in caplog.text) == (metric == "WER")
    found = validate(trainer.model, [batch], OneSentence(), trainer.config, trainer.world, (1.0, 1.0, 0.0), metric)
    assert found.rates == rates and list(found.rates)[0] == metric


def test_nothing_decoded_has_no_rate(tmp_path):
    trainer = make_trainer(tmp_path, ListData([random_batch(0)]), valid_cer_batches=0)
    found = validate(trainer.model, [random_batch(0)], Letters(), trainer.config, trainer.world, (1.0, 1.0, 0.0))
    assert found.rates == {} and found.samples == [] and "%" not in found.line()
