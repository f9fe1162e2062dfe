"""Options: frozen dataclasses whose fields are command-line options of the same name, and those that commands share.

Nothing here or in the modules that only declare options loads PyTorch or lhotse, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Sequence, TypeVar

from sammo import geometry
from sammo.corpora import CORPORA
from sammo.errors import UserError

T = TypeVar("T")

# Bounds beyond which a value can only be a typing error.
MOST_THREADS = 1024
MOST_PROCESSES = 1024
MOST_STREAMS = 100_000
LONGEST_CHUNK = 30_000  # frames of 20 ms
LONGEST_SILENCE = 86_400.0  # seconds: a day

STREAMING_METHODS = ("greedy_search", "modified_beam_search")
METHODS = (*STREAMING_METHODS, "fast_beam_search")  # of whole utterances
RUNTIMES = ("torch", "onnxruntime", "openvino")
ALL_RUNTIMES = (*RUNTIMES, "sherpa-onnx", "sherpa-onnx-server")  # the last two compute features and search, too
PRECISIONS = ("float32", "float16", "bfloat16", "int8")  # of exported models
STATE_DTYPES = ("float32", "float16", "bfloat16")


def option(
    default: Any,
    help: str,
    choices: Sequence[str] = (),
    aliases: Sequence[str] = (),
    flag: bool = False,
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """A field that is an option.

    Args:
      choices: values that it may have; (): all of its type.
      aliases: further names, "--test-sets".
      flag: given without a value, for a bool that is False by default.
      parse: argparse type of the value; None: as the field's type says.
    """
    about = {"help": help, "choices": choices, "aliases": aliases, "flag": flag, "parse": parse}
    return field(default=default, metadata=about)


def add_options(
    parser: argparse.ArgumentParser,
    schema: type,
    title: str = "",
    description: str | None = None,
    without: Sequence[str] = (),
    **defaults: Any,
) -> None:
    """Adds an option for each field of the dataclass ``schema``: --field-name.

    Args:
      title, description: heading of the options' group in --help; without a title they form no group.
      without: fields that get no option and keep their defaults.
      defaults: default values by field name, instead of the fields' own.
    """
    group = parser.add_argument_group(title, description) if title else parser
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        if item.name in without:
            continue
        default, about = defaults.pop(item.name, item.default), item.metadata
        names = ["--" + item.name.replace("_", "-"), *about["aliases"]]
        help = about["help"].replace("%", "%%")
        if about["flag"]:
            group.add_argument(*names, action="store_true", help=help)
            continue
        if default not in (None, "", ()):
            help += f" (default: {shown(default)})"
        kind = about["parse"] or _kind(hints[item.name])
        group.add_argument(*names, type=kind, default=default, choices=about["choices"] or None, help=help)
    if defaults:
        raise TypeError(f"{schema.__name__} has no fields {', '.join(defaults)}")


def from_args(schema: type[T], args: argparse.Namespace) -> T:
    """The dataclass of the options in ``args``; UserError for values that cannot work, where ``schema`` checks them."""
    names = [item.name for item in dataclasses.fields(schema)]  # type: ignore[arg-type]
    return schema(**{name: getattr(args, name) for name in names if hasattr(args, name)})


def plain_values(options: Any) -> dict[str, Any]:
    """The fields of a dataclass of options, paths as text."""
    values = dataclasses.asdict(options)
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _kind(hint: Any) -> Callable[[str], Any]:
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if typing.get_origin(hint) is not tuple and kinds:  # ... | None
        hint = kinds[0]
    return _KINDS.get(hint, hint)


def shown(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# ------------------------------------------------------------------------------------ types of values


def parse_bool(text: str) -> bool:
    """argparse type of icefall's boolean options: true|false, yes|no, 1|0."""
    if text.lower() in ("true", "yes", "t", "y", "1"):
        return True
    if text.lower() in ("false", "no", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")


def integers(text: str) -> tuple[int, ...]:
    """argparse type: "16,32,-1" -> (16, 32, -1)."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers separated by commas, got {text!r}") from None


def frames(text: str) -> tuple[int, ...]:
    """argparse type: "16,0.64s,-1" -> (16, 32, -1): frames of 20 ms, or seconds that are whole frames."""
    found = []
    for part in text.split(","):
        seconds = part.strip().removesuffix("s")
        try:
            value = float(seconds) * geometry.RATE if seconds != part.strip() else float(int(part))
        except ValueError:
            expected = f"expected frames of 20 ms or seconds (32 or 0.64s), separated by commas, got {text!r}"
            raise argparse.ArgumentTypeError(expected) from None
        if not abs(value) < 1e9 or abs(value - round(value)) > 1e-6:
            raise argparse.ArgumentTypeError(f"{part.strip()} is no whole number of frames of 20 ms")
        found.append(round(value))
    return tuple(found)


def processes(text: str) -> int:
    """argparse type of --nj: 1 to MOST_PROCESSES."""
    try:
        check_range("--nj", int(text), 1, MOST_PROCESSES, "each is a process of this machine")
    except (ValueError, UserError) as error:
        raise argparse.ArgumentTypeError(f"expected 1 to {MOST_PROCESSES} processes, got {text[:20]!r}") from error
    return int(text)


def numbers(text: str) -> tuple[float, ...]:
    """argparse type: "0.04,4" -> (0.04, 4.0), "" -> ()."""
    try:
        return tuple(float(part) for part in text.split(",") if part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers separated by commas, got {text!r}") from None


def names(text: str) -> tuple[str, ...]:
    """argparse type: "eval1,eval2" -> ("eval1", "eval2")."""
    return tuple(item for item in text.split(",") if item)


_KINDS = {bool: parse_bool, tuple[int, ...]: integers, tuple[float, ...]: numbers, tuple[str, ...]: names}


# ------------------------------------------------------------------------------------ bounds


def check_range(option: str, value: float, least: float, most: float, reason: str) -> None:
    """UserError with the ``reason`` of the bounds where ``value`` is outside of them or no number."""
    if not least <= value <= most:
        raise UserError(f"{option} must be {least} to {most}, got {str(value)[:20]}: {reason}")


def check_threads(value: int) -> None:
    """--num-threads; 0 leaves the number to PyTorch."""
    check_range("--num-threads", value, 0, MOST_THREADS, "threads beyond the cores of a machine wait for each other")


def check_chunking(chunk_size: int, left_context_frames: int = 0) -> None:
    """--chunk-size and --left-context-frames in frames of 20 ms; -1: without end."""
    reason = "a chunk is computed as one piece, and this is ten minutes; -1 stands for the whole utterance"
    if chunk_size != -1:
        check_range("--chunk-size", chunk_size, 1, LONGEST_CHUNK, reason)
    if left_context_frames != -1:
        reason = "attention keeps all of it, and this is ten minutes; -1 stands for all that was before"
        check_range("--left-context-frames", left_context_frames, 0, LONGEST_CHUNK, reason)


# ------------------------------------------------------------------------------------ shared by commands


OWN_PACKAGE = Path(__file__).resolve().parents[1] / "models" / "sammo-tiny"  # comes with the repository


@dataclass(frozen=True)
class Runtime:
    """Where an experiment lies and what computes it."""

    exp_dir: Path = option(Path("exp"), "Directory of checkpoints, logs and TensorBoard files.")
    lang: Path | None = option(
        None,
        "Language directory: the output units (default: a package's own, otherwise the corpus's, beside --manifest-dir).",
        aliases=("--lang-dir",),
    )
    device: str = option("auto", "auto, cpu or cuda.", ("auto", "cpu", "cuda"))
    num_threads: int = option(
        0,
        "CPU threads a process; 0: as PyTorch chooses, in transcribe and serve one for a model below 10 M parameters.",
    )
    scan_engine: str = option("auto", "Recurrence of the mixer, by its name in sammo doctor.")
    conv_engine: str = option("auto", "Convolution of the mixer, by its name in sammo doctor.")


@dataclass(frozen=True)
class ModelSource(Runtime):
    """Which trained model; its architecture is read from the checkpoint."""

    exp_dir: Path = option(Path("exp"), "The --exp-dir of train.py, or a directory that sammo package wrote.")
    checkpoint: Path | None = option(None, "A checkpoint file instead of --exp-dir, best-valid.pt for instance.")
    epoch: int = option(0, "Take epoch-N.pt; 0: the newest checkpoint.")
    iter: int = option(0, "Take checkpoint-N.pt; 0: an epoch's.")
    avg: int = option(1, "Checkpoints to average over, the last one being the one named.")
    use_averaged_model: bool = option(True, "Average over all batches of those checkpoints, not only over their ends.")


@dataclass(frozen=True)
class Chunks:
    """Widths to decode at; frames are of 20 ms."""

    chunk_size: tuple[int, ...] = option((32,), "Frames a chunk, or seconds: 16,32,1.28s.", parse=frames)
    left_context_frames: tuple[int, ...] = option(
        (128,), "Frames before a chunk that attention sees, where the model keeps any: 64,128,5.12s.", parse=frames
    )
    round_left_context: bool = option(
        False,
        "Round the left context down to whole chunks, at least one, as icefall does: 64 frames become 128 at chunks of "
        "128. Otherwise attention sees exactly as many as are asked for.",
    )


@dataclass(frozen=True)
class WholeChunks(Chunks):
    """Widths to decode whole utterances at."""

    pad_feature: int = option(
        geometry.TAIL_PADDING,
        "Feature frames (10 ms) of silence behind every utterance; the original experiment has 0, which streaming "
        "cannot do.",
    )

    def __post_init__(self) -> None:
        """UserError for values that cannot work."""
        check_range("--pad-feature", self.pad_feature, 0, LONGEST_CHUNK, "it is silence that follows every utterance")


@dataclass(frozen=True)
class Search:
    """How to search chunk by chunk."""

    decoding_method: str = option("modified_beam_search", "How to search.", STREAMING_METHODS)
    beam_size: int = option(4, "Hypotheses of modified_beam_search.")
    blank_penalty: float = option(0.0, "Above 0: fewer deletions.")
    temperature: float = option(1.0, "Divides the logits.")
    hotwords: Path | None = option(
        None,
        'Phrases to prefer, one a line, "PHRASE" or "PHRASE :SCORE"; modified_beam_search only.',
        aliases=("--context-file",),
    )
    hotwords_score: float = option(
        2.0, "Reward of each token of a hotword, in log-probability.", aliases=("--context-score",)
    )
    lm: Path | None = option(
        None, "N-gram model of the units, an ARPA file such as sammo ngram writes; modified_beam_search only."
    )
    lm_scale: float = option(
        0.3, "Weight of its log-probabilities (shallow fusion); 0: none.", aliases=("--ngram-lm-scale",)
    )

    def __post_init__(self) -> None:
        """UserError for values that cannot work."""
        check_range("--lm-scale", self.lm_scale, 0, 10, "it weighs the language model against the sound")


@dataclass(frozen=True)
class WholeSearch(Search):
    """How to search whole utterances."""

    decoding_method: str = option("modified_beam_search", "How to search.", METHODS)
    beam: float = option(20.0, "Beam of fast_beam_search.")
    max_contexts: int = option(8, "Of fast_beam_search.")
    max_states: int = option(64, "Of fast_beam_search.")


@dataclass(frozen=True)
class Streams:
    """How streams are run."""

    num_decode_streams: int = option(16, "Utterances decoded at the same time.")
    state_dtype: str = option("float32", "Type in which the encoder's state is kept between chunks.", STATE_DTYPES)

    def __post_init__(self) -> None:
        """UserError for values that cannot work."""
        check_range("--num-decode-streams", self.num_decode_streams, 1, MOST_STREAMS, "each keeps a state")


@dataclass(frozen=True)
class Endpointing:
    """When an utterance of a stream ends and the next one begins; rules and names are sherpa-onnx's."""

    enable_endpoint: bool = option(True, "Cut streams into utterances; false: a stream is one utterance.")
    rule1_min_trailing_silence: float = option(2.4, "An utterance ends after so many seconds without a token, ...")
    rule2_min_trailing_silence: float = option(1.2, "... after so many if it has tokens, ...")
    rule3_min_utterance_length: float = option(20.0, "... or when it is so many seconds long.")
    reset_encoder: bool = option(
        False,
        "Every utterance begins with an empty state. Otherwise encoder and predictor go on, and greedy search finds the "
        "same tokens as without endpoints.",
    )

    def __post_init__(self) -> None:
        """UserError for values that cannot work."""
        for name in ("rule1_min_trailing_silence", "rule2_min_trailing_silence", "rule3_min_utterance_length"):
            option_name, reason = "--" + name.replace("_", "-"), "it is seconds; --enable-endpoint false ends nothing"
            check_range(option_name, getattr(self, name), 0.04, LONGEST_SILENCE, reason)


@dataclass(frozen=True)
class Deployment:
    """Who computes the encoder of streams."""

    runtime: str = option("torch", "torch, or onnxruntime or openvino on a CPU.", RUNTIMES)
    onnx_dir: Path | None = option(None, "Directory that sammo export wrote; default: where it writes by default.")
    precision: str = option("float32", "Which of its encoders; bfloat16 is OpenVINO's alone.", PRECISIONS)


@dataclass(frozen=True)
class Compared:
    """Which ways to decode chunk by chunk are compared with the whole utterances that PyTorch decodes."""

    runtime: tuple[str, ...] = option(("torch",), f"Of {','.join(ALL_RUNTIMES)}.")
    precision: tuple[str, ...] = option(("float32",), f"Of {','.join(PRECISIONS)}, for all runtimes but torch.")
    onnx_dir: Path | None = option(None, "Directory that sammo export wrote; default: where it writes by default.")

    def __post_init__(self) -> None:
        """UserError for names that are none."""
        for option_name, known in (("runtime", ALL_RUNTIMES), ("precision", PRECISIONS)):
            unknown = [name for name in getattr(self, option_name) if name not in known]
            if unknown:
                raise UserError(f"unknown --{option_name} {', '.join(unknown)}: choose of {', '.join(known)}")


@dataclass(frozen=True)
class Exports:
    """Which files an export has, and for which chunks."""

    chunk_size: int = option(32, "Frames of 20 ms a chunk.")
    left_context_frames: int = option(128, "Frames before a chunk that attention sees, where the model keeps any.")
    fp16: bool = option(False, "Also write files with weights in 16 bits.")
    int8: bool = option(False, "Also write files with linear layers in 8 bits, fitted to training speech.")
    int8_signed: bool = option(
        False, "8-bit weights with a sign: faster with VNNI; without it wrong in sherpa-onnx, right in Sammo."
    )
    openvino: bool = option(False, "Also write all of them for OpenVINO.")
    out_dir: Path | None = option(None, "Directory to write; default: EXP_DIR/onnx-N, with -left-M if it matters.")


@dataclass(frozen=True)
class Speech:
    """Which transcribed speech."""

    manifest_dir: Path = option(Path("data/fbank"), "Directory with the cut manifests that prepare.sh wrote.")
    corpus: str = option("", f"{', '.join(CORPORA)}; default: the one that --manifest-dir was prepared from.")
    transcript_mode: str = option("", "Transcript to score against; default: the one trained on.")
    allow_urls: bool = option(False, "Read audio from http and https URLs that manifests name.")


@dataclass(frozen=True)
class Parts:
    """Which parts of it."""

    parts: tuple[str, ...] = option(
        ("tests",), "Parts: valid,eval1,tests; tests: all test parts.", aliases=("--test-sets",)
    )


@dataclass(frozen=True)
class Results:
    """Where decoding leaves its results."""

    res_dir: Path | None = option(None, "Where results go; default: EXP_DIR/METHOD.")
    force: bool = option(False, "Decode again what was decoded from the same weights.", flag=True)
