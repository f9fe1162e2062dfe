"""Error rates, their files, and the report over them."""

from sammo.scoring.cer import Counts, ErrorSummary, bootstrap_interval, count_errors
from sammo.scoring.results import DecodeSetting, PartResult, has_results, read_results, result_name, write_results

__all__ = [
    "Counts",
    "DecodeSetting",
    "ErrorSummary",
    "PartResult",
    "bootstrap_interval",
    "count_errors",
    "has_results",
    "read_results",
    "result_name",
    "write_results",
]
