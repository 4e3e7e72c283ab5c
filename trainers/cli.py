"""The command line. Only this module ends the process; everything heavier than arguments is imported by need."""

import argparse
import errno
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from dataflow.errors import NO_ROOM, DataRefusedError, MissingExtraError, ShardboxError, UsageError
from trainers.commands import analysis_options, data_options, training_options, tuning_options
from trainers.commands.options import Command

# Idle OpenMP threads that spin cost a busy two-core machine ten times the time of a training step.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Which extra brings a package, for the error when it is absent.
_EXTRAS = {
    "apache_beam": "prepare",
    "google_crc32c": "prepare",
    "tensorflow_datasets": "prepare",
    "optuna": "tune",
    "diffusers": "train",
    "tensorflow": "train",
    "timm": "train",
    "torch": "train",
    "torchvision": "train",
    "transformers": "train",
    "pyarrow": "analyse",
    "fiftyone": "analyse",
    "skimage": "analyse",
    "sklearn": "analyse",
}

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


class _Version(argparse.Action):
    """Looks the version up when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"shardbox {version('shardbox')}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="shardbox",
        description="Annotated images to a trained, explained detector, dataset first.",
        epilog="Every stage reads the directory that the stage before it wrote. Start with: shardbox demo",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for stage in (data_options, tuning_options, training_options, analysis_options):
        for add in stage.ADD_COMMANDS:
            add(commands)
    return parser


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line; what follows `--` is for Beam."""
    at = list(words).index("--") if "--" in words else len(words)
    parser = build_parser()
    arguments, left = parser.parse_known_args(words[:at])
    if left:  # Said by the parser of the command, whose options they are not.
        parser.prog = f"shardbox {arguments.command_name}"
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    arguments.runner_arguments = tuple(words[at + 1 :])
    arguments.words, arguments.unfinished = tuple(words), None
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0 done, 1 data refused, 2 wrong usage)."""
    for stream in (sys.stdout, sys.stderr):
        # A finding may name a file that the terminal's encoding cannot; that must not end the command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parse(words)
    # Of packages compiled at their first import: nothing a user of this command could mend.
    warnings.filterwarnings("ignore", category=SyntaxWarning)
    # Of garbled metadata, by Pillow, as lines of its source; what keeps an image out is a finding.
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger("shardbox").setLevel(logging.WARNING)
    try:
        if arguments.runner_arguments and not hasattr(arguments, "runner"):
            raise UsageError(f"{arguments.command_name} runs no Beam job", "leave out -- and what follows")
        result = _run(arguments)
    except ShardboxError as error:
        print(f"shardbox {arguments.command_name}: error: {error}", file=sys.stderr)
        if arguments.json:
            kind = "refused" if isinstance(error, DataRefusedError) else "usage"
            told = {"error": kind, "message": error.message, "remedy": error.remedy}
            print(json.dumps(told | ({"notes": error.__notes__} if hasattr(error, "__notes__") else {})))
        return error.exit_status
    except KeyboardInterrupt as stop:
        notes = "".join(f"; {note}" for note in getattr(stop, "__notes__", ()))
        print(f"shardbox {arguments.command_name}: stopped{notes}", file=sys.stderr)
        return 130
    if arguments.json:
        print(json.dumps(result))
    return 0


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Call the command; with --json whatever libraries print goes to standard error."""
    command: Command = arguments.command
    stdout = sys.stdout
    try:
        if arguments.json:
            sys.stdout = sys.stderr
        return command(arguments)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        raise MissingExtraError(package, _EXTRAS[package]) from error
    except OSError as error:
        # What a file that is open already says of a full disk names no file.
        place = error.filename or (getattr(arguments, "out", None) if error.errno in _FULL else None)
        told = f"{place}: {error.strerror or error}" if place else f"{error.strerror or error}"
        if error.errno in _FULL:
            raise DataRefusedError(told, NO_ROOM) from error
        raise UsageError(told, "check the path and its permissions") from error
    finally:
        sys.stdout = stdout


if __name__ == "__main__":
    sys.exit(main())
