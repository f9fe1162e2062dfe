"""icefall's options that Sammo does not have: what they ask for is done anyway, is done by another option, or is refused.

Whoever knows icefall types its options. One that means something here is taken; one that does not is one line that says
what to use instead, never a silent difference. docs/differences.md has the table.
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from sammo import geometry
from sammo.errors import UserError
from sammo.model_options import ModelOptions

YES, NO = ("true", "yes", "t", "y", "1"), ("false", "no", "f", "n", "0")  # as parse_bool


@dataclass(frozen=True)
class Foreign:
    """Options of icefall that are treated alike.

    Attributes:
      names: without dashes, "use-ctc".
      instead: what to do where a value is not accepted.
      accepted: values, in lower case, that ask for what is done anyway.
      translate: from a value to an option of ours (its attribute and value), None where it is not accepted.
    """

    names: tuple[str, ...]
    instead: str
    accepted: tuple[str, ...] = ()
    translate: Callable[[str], tuple[str, Any] | None] = field(default=lambda value: None)


def _directory_of(name: str) -> Callable[[str], tuple[str, Any] | None]:
    return lambda value: ("lang", Path(value).parent) if Path(value).name == name else None


def _features(value: str) -> tuple[str, Any] | None:
    known = {"PrecomputedFeatures": False, "OnTheFlyFeatures": True}
    return ("on_the_fly_feats", known[value]) if value in known else None


def _bool(name: str, value: str) -> tuple[str, Any] | None:
    return (name, value.lower() in YES) if value.lower() in YES + NO else None


def _scan(value: str) -> tuple[str, Any] | None:
    if value.lower() in YES + NO:
        return "oom_scan", "true" if value.lower() in YES else "false"
    return None


COMMON = (
    Foreign(("causal",), "every encoder here is causal; --chunk-size -1 stands for whole utterances", YES),
    Foreign(("use-transducer",), "every model here is a transducer; --ctc-loss-scale trains CTC beside it", YES),
    Foreign(("use-attention-decoder", "use-cr-ctc"), "there is no such loss here; leave it out", NO),
    Foreign(("bpe-model",), "name its directory by --lang; the file is bpe.model", (), _directory_of("bpe.model")),
    Foreign(("tokens",), "name its directory by --lang; the file is tokens.txt", (), _directory_of("tokens.txt")),
    Foreign(("decode-chunk-len",), "chunks are counted in frames of 20 ms: --chunk-size, half as many"),
    Foreign(("short-chunk-size", "num-left-chunks"), "use --chunk-size and --left-context-frames, in frames of 20 ms"),
)
DATA = (
    Foreign(("full-libri", "mini-libri", "subset"), "the parts are the corpus's: --manifest-dir and --corpus name it"),
    Foreign(("bucketing-sampler",), "batches are always bucketed; --num-buckets 1 draws from one bucket", YES),
    Foreign(("return-cuts",), "batches always hold their cuts; leave it out", YES + NO),
    Foreign(("input-strategy",), "use --on-the-fly-feats true or false", (), _features),
)
TRAIN = (
    Foreign(("scan-for-oom-batches",), "use --oom-scan auto, true or false", (), _scan),
    Foreign(("rnnt-type",), "only the regular transducer is there; leave it out", ("regular",)),
    Foreign(("delay-penalty",), "emissions are not hurried here; leave it out", ("0", "0.0")),
    Foreign(("attention-decoder-loss-scale", "cr-loss-scale"), "there is no such loss here; leave it out"),
)
DECODE = (
    Foreign(("max-sym-per-frame",), "every search here emits at most one symbol a frame", ("1",)),
    Foreign(("use-ctc",), "it is read from the checkpoint; leave it out", YES + NO),
    Foreign(("use-fp16",), "decoding is in float32; leave it out", NO),
    Foreign(("simulate-streaming",), "--chunk-size -1 decodes whole utterances", YES),
    Foreign(
        ("num-paths", "nbest-scale", "ilme-scale"),
        "fast_beam_search gives its one best path, without n-best lists and graphs of words; leave it out",
    ),
    Foreign(("use-shallow-fusion",), "--lm FILE names an n-gram model in ARPA format, which is all it takes", NO),
    Foreign(
        ("lm-type", "lm-exp-dir", "lm-epoch", "lm-avg", "lm-vocab-size", "tokens-ngram", "backoff-id"),
        "only n-gram models in ARPA format are fused: --lm FILE --lm-scale X",
    ),
    Foreign(("skip-scoring",), "what is decoded is scored; leave it out", NO),
    Foreign(
        ("pad-feature",),
        f"a stream always ends with {geometry.TAIL_PADDING} frames of silence; decode.py has --pad-feature",
        (str(geometry.TAIL_PADDING),),
    ),
)
EXPORT = (
    Foreign(("dynamic-batch",), "every export takes any number of streams; leave it out", YES),
    Foreign(("enable-int8-quantization",), "use --int8 true or false", (), lambda value: _bool("int8", value)),
    Foreign(
        ("use-int32-inputs",), "tokens and lengths are of 64 bits, which every sherpa-onnx takes; leave it out", NO
    ),
    Foreign(("use-whisper-features",), "features are lhotse's Fbank; leave it out", NO),
    Foreign(("use-external-data",), "every graph is one file; leave it out", NO),
)
SIZES = "the sizes of a model are read from its checkpoint; leave it out"


class _Take(argparse.Action):
    """Accepts, translates or refuses a value."""

    def __init__(self, option_strings: list[str], dest: str, foreign: Foreign, **others: Any) -> None:
        self.foreign = foreign
        super().__init__(option_strings, dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **others)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        ours = self.foreign.translate(values)
        if ours is not None:
            setattr(namespace, *ours)
        elif values.lower() not in self.foreign.accepted:
            raise UserError(f"icefall's {option_string} {values}: {self.foreign.instead}")


def add_icefall_options(parser: argparse.ArgumentParser, *tables: tuple[Foreign, ...], sizes: bool = False) -> None:
    """Lets ``parser`` take the options of ``tables`` that it has not; to be called when it has all of its own.

    Args:
      parser: of one of our commands.
      tables: of icefall's options.
      sizes: refuse the sizes of a model, which train.py alone takes.
    """
    entries = [entry for table in tables for entry in table]
    if sizes:
        names = (item.name.replace("_", "-") for item in dataclasses.fields(ModelOptions))
        entries.append(Foreign(tuple(names), SIZES))
    for entry in entries:
        for name in entry.names:
            if f"--{name}" not in parser._option_string_actions:
                parser.add_argument(f"--{name}", action=_Take, dest=f"icefall_{name}", foreign=entry)
