"""Character error rates, their files, and the report over them."""

from sammo.scoring.cer import CerSummary, Counts, bootstrap_interval, count_errors
from sammo.scoring.results import DecodeSetting, PartResult, has_results, read_results, write_results

__all__ = [
    "CerSummary",
    "Counts",
    "DecodeSetting",
    "PartResult",
    "bootstrap_interval",
    "count_errors",
    "has_results",
    "read_results",
    "write_results",
]
