"""Options of ``sammo package``; loads nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sammo.options import option

DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class PackageOptions:
    """What goes into a package."""

    dtype: str = option(
        "float32",
        "Type to store matrices in. Vectors, convolutions, predictor and joiner stay in float32; all is computed in it.",
        DTYPES,
    )
    onnx_chunk_size: tuple[int, ...] = option((), "Also export for chunks of so many frames of 20 ms: 16,32.")
    int8: bool = option(False, "Exports also with linear layers in 8 bits, fitted to training speech.", flag=True)
    results: Path | None = option(
        None, "Results of decode.py with this model or this package, for the card (default: those below MODEL)."
    )
    notes: Path | None = option(None, "Markdown for the card: what the model was trained on, what it is not for.")
    dataset: str = option("", "Name of the data that the results are on, for the card (default: the corpus's).")
    language: str = option("", "ISO 639 code of the language, for the card: ja.")
    license: str = option("apache-2.0", "License of the weights, as model hubs name it.")
