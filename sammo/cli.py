"""The command ``sammo``: each subcommand is a module with ``add_arguments(parser)`` and ``run(args)``."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys

from sammo import __version__
from sammo.errors import run_main

COMMANDS = {
    "prepare": ("sammo.commands.prepare", "make a corpus of recordings of your own"),
    "train": ("sammo.commands.train", "train an encoder with its transducer, as train.py does"),
    "decode": ("sammo.commands.decode", "decode test sets and score them, as decode.py does"),
    "streaming-decode": ("sammo.commands.streaming_decode", "the same chunk by chunk, as streaming_decode.py does"),
    "ngram": ("sammo.commands.ngram", "estimate an n-gram language model for --lm from the training text"),
    "info": ("sammo.commands.info", "parameters, state size and cost of a model"),
    "report": ("sammo.commands.report", "table and figures from the results of decode.py"),
    "parity": ("sammo.commands.parity", "compare simulated with chunk-by-chunk decoding"),
    "memory": ("sammo.commands.memory", "show what the encoder's memory carries: error rates with parts of it removed"),
    "probe": ("sammo.commands.probe", "train on a recall task and tell over how many seconds encoders remember"),
    "align": ("sammo.commands.align", "write when each character or word was said, as a CTM file"),
    "timing": ("sammo.commands.timing", "show where in a chunk errors happen and how late tokens are"),
    "homophones": (
        "sammo.commands.homophones",
        "show how often a homophone is spelled as a word decides that was said up to 20 s before",
    ),
    "endurance": ("sammo.commands.endurance", "show error rates over the position in talks of an hour"),
    "transcribe": ("sammo.commands.transcribe", "transcribe audio as it arrives: files, raw samples, the microphone"),
    "serve": ("sammo.commands.serve", "transcribe live, in the browser and over the network"),
    "doctor": ("sammo.commands.doctor", "list engines and try each against its reference"),
    "export": ("sammo.commands.export", "write ONNX files that sherpa-onnx runs"),
    "package": ("sammo.commands.package", "write a trained model as a directory to pass on"),
    "import-icefall": ("sammo.commands.import_icefall", "turn a Zipformer checkpoint of icefall into one of ours"),
}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the one subcommand that is named; its module is the only one loaded."""
    parser = argparse.ArgumentParser(
        prog="sammo", description="Streaming speech recognition with a constant-size memory."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    named = next((word for word in arguments if not word.startswith("-")), None)
    for name, (module, help) in COMMANDS.items():
        command = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        if name == named:
            loaded = importlib.import_module(module)
            loaded.add_arguments(command)
            command.set_defaults(run=loaded.run)
    return parser.parse_args(arguments)


def main() -> None:
    """Entry point of the console script."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    run_main(lambda: (lambda args: args.run(args))(parse(sys.argv[1:])))


def run_script(name: str, description: str | None) -> None:
    """Runs the module sammo.commands.NAME as a script that says ``description`` in its --help, and exits."""
    module = importlib.import_module(f"sammo.commands.{name}")
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(parser)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    run_main(lambda: module.run(parser.parse_args()))


if __name__ == "__main__":
    main()
