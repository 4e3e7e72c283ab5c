"""The command line. Only this module ends the process; everything heavier than arguments is imported by need."""

import argparse
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from dataflow.errors import DataRefusedError, MissingExtraError, ShardboxError, UsageError

# Idle OpenMP threads that spin cost a busy two-core machine ten times the time of a training step.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Which extra brings a package, for the error when it is absent.
_EXTRAS = {
    "apache_beam": "prepare",
    "google_crc32c": "prepare",
    "tensorflow_datasets": "prepare",
    "diffusers": "train",
    "tensorflow": "train",
    "timm": "train",
    "torch": "train",
    "torchvision": "train",
    "transformers": "train",
    "pyarrow": "analyse",
    "pycocotools": "analyse",
    "fiftyone": "analyse",
    "skimage": "analyse",
    "sklearn": "analyse",
}

_ABOUT_DATA = ("ingest", "diff", "export", "diff-datasets")
_MODES = ("absolute", "signed", "grey", "threshold", "ssim")
_METHODS = ("none", "phase", "features", "ecc")
_FORMATS = ("yolo", "coco", "voc", "mot", "virat", "labelme", "cvat", "pairs")

Command = Callable[[argparse.Namespace], dict[str, Any]]


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


def _command(name: str) -> Command:
    """A command by name, imported when it is called: `shardbox --help` must answer at once."""

    def call(arguments: argparse.Namespace) -> dict[str, Any]:
        module = import_module("trainers.data_commands" if name in _ABOUT_DATA else "trainers.commands")
        result: dict[str, Any] = getattr(module, name.replace("-", "_"))(arguments)
        return result

    return call


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="shardbox",
        description="Annotated images to a trained, explained detector, dataset first.",
        epilog="Every stage reads the directory that the stage before it wrote. Start with: shardbox demo",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    about_data = (_add_ingest, _add_diff, _add_export, _add_diff_datasets)
    for add in (*about_data, _add_verify_loader, _add_train, _add_predict, _add_evaluate, _add_browse, _add_demo):
        add(commands)
    return parser


def _add(commands: Any, name: str, summary: str, reads: str = "") -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=f"{summary}.")
    parser.set_defaults(command=_command(name), command_name=name)
    if reads:
        parser.add_argument("dataset", type=Path, metavar="DATASET", help=reads)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output and nothing else")
    return parser


def _add_running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--update", action="store_true", help="bring a dataset that is there up to date: rewrite only what changed"
    )
    parser.add_argument(
        "--on-finding",
        choices=("fail", "quarantine", "repair"),
        default="quarantine",
        help="what to do about bad data: refuse it all, keep the bad images out (default), or mend what can be mended",
    )
    parser.add_argument(
        "--runner", default="FnApiRunner", help="Beam runner (default FnApiRunner); its options follow after --"
    )


def _add_ingest(commands: Any) -> None:
    parser = _add(commands, "ingest", "Turn an annotated source into a prepared dataset")
    parser.add_argument("source", type=Path, metavar="SOURCE", help="directory (or file) of the annotated images")
    parser.add_argument(
        "--format",
        choices=("auto", *_FORMATS),
        default="auto",
        help="how SOURCE is annotated (default auto: by what it holds)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the dataset goes to DIR/NAME/1.0.0")
    parser.add_argument("--name", help="name of the dataset (default: after SOURCE)")
    parser.add_argument("--names", help="class names a,b,c where SOURCE has none")
    parser.add_argument("--images", type=Path, metavar="DIR", help="coco: where the images are")
    _add_splitting(parser.add_argument_group("splits"))
    _add_checking(parser.add_argument_group("images and files"))
    _add_pairing(parser.add_argument_group("before/after pairs (mot, virat, pairs)"))
    _add_running(parser)


def _add_splitting(group: Any) -> None:
    group.add_argument(
        "--splits",
        metavar="SPLITS",
        help="train=0.8,validation=0.2: shares of the scenes; train=1-150,validation=151-200: frames of a sequence "
        "(default: the splits of SOURCE, or 80/20)",
    )
    group.add_argument(
        "--seed", type=int, help="split scenes by this seed (default: the first that gives every split its classes)"
    )
    group.add_argument(
        "--scenes",
        metavar="SCENES",
        help="images of one scene stay in one split: `folder` of the image, or a regular expression whose first group "
        "names the scene in the image id (default: every image is one; sequences and pair lists know theirs)",
    )


def _add_checking(group: Any) -> None:
    group.add_argument(
        "--exif",
        choices=("apply", "ignore", "refuse"),
        default="apply",
        help="photographs with an EXIF orientation: boxes are on the upright image (default), or on the pixels as "
        "stored, or keep such photographs out",
    )
    group.add_argument(
        "--check",
        choices=("decode", "header"),
        default="decode",
        help="decode every pixel to find damage and look-alikes (default), or look at header and end of file only",
    )
    group.add_argument("--shards", type=int, metavar="N", help="files of each split (default: 64 to 128 MiB each)")
    group.add_argument(
        "--file-format",
        choices=("tfrecord", "array_record"),
        default="tfrecord",
        help="array_record: random access without TensorFlow (default tfrecord)",
    )


def _add_pairing(group: Any) -> None:
    group.add_argument(
        "--pair-gap", type=int, metavar="K", help="mot, virat: pair frame i with frame i + K; targets are what moved"
    )
    group.add_argument(
        "--moved-iou",
        type=float,
        metavar="IOU",
        help="an object has moved when its two boxes overlap less than this (default 0.5)",
    )
    group.add_argument(
        "--targets",
        choices=("both", "after", "arrived-and-left"),
        help="which places of a moved object are targets: both alike (default; all that an absolute difference can "
        "tell), the place it is at now, or both as two classes",
    )


def _add_diff(commands: Any) -> None:
    parser = _add(commands, "diff", "Turn a dataset of pairs into a dataset of difference images", "dataset of pairs")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the dataset goes to DIR/NAME/1.0.0")
    parser.add_argument("--name", help="name of the dataset (default: NAME_MODE)")
    parser.add_argument(
        "--mode",
        choices=_MODES,
        help="absolute: |after - before| (default where both places of a moved object are targets); signed: 128 + "
        "(after - before) / 2, which tells old from new place (default for other targets); grey: of brightness alone; "
        "threshold: absolute, noise left out; ssim: structural dissimilarity",
    )
    parser.add_argument(
        "--align",
        choices=_METHODS,
        default="none",
        help="undo a movement of the camera and a change of its light before differencing: by features (corners, the "
        "best), by phase correlation (shifts only), by ecc (refined from features); default none: it stands still",
    )
    parser.add_argument(
        "--format", choices=("jpeg", "png"), default="jpeg", help="jpeg: quality 95, 4:4:4 (default); png: lossless"
    )
    _add_running(parser)


def _add_export(commands: Any) -> None:
    parser = _add(commands, "export", "Turn a prepared dataset into an annotation format", "prepared dataset")
    parser.add_argument("--format", choices=_FORMATS, required=True, help="what to write")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to write")
    parser.add_argument("--split", help="split to export (default: all)")


def _add_diff_datasets(commands: Any) -> None:
    parser = _add(commands, "diff-datasets", "Say what changed between two prepared datasets", "prepared dataset")
    parser.add_argument("other", type=Path, metavar="OTHER", help="prepared dataset to compare it with")


def _add_verify_loader(commands: Any) -> None:
    parser = _add(commands, "verify-loader", "Prove on a dataset what the loader promises", "prepared dataset")
    parser.add_argument("--split", help="split to look at (default: every one)")
    parser.add_argument("--limit", type=int, metavar="N", help="look at the first N images of a split (default: all)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="images of a batch (default 8)")
    parser.add_argument(
        "--world-sizes", default="1,2,3,5", metavar="N,...", help="numbers of ranks to share by (default 1,2,3,5)"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides the order, and the steps to resume at (default 0)")


def _add_train(commands: Any) -> None:
    parser = _add(commands, "train", "Train a detector", "prepared dataset")
    parser.add_argument("--recipe", required=True, metavar="NAME", help="such as dense_cnn_small; another lists all")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="directory of the run")
    parser.add_argument("--split", default="train", help="split to train on (default train)")
    parser.add_argument("--steps", type=int, metavar="N", help="optimiser steps (default: the recipe's)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images a step (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0, help="decides initial weights and order of images")
    parser.add_argument("--weights", metavar="WHERE", help="hub name or directory of a checkpoint to start from")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of RUN")
    parser.add_argument(
        "--augment",
        action="store_true",
        help="change images at random: their size, the part that is shown, their light; of pairs, before they are "
        "compared, both frames alike, the light of each, and how the camera is held",
    )
    group = parser.add_argument_group("what the detector is shown of pairs and differences (default: the recipe's)")
    group.add_argument(
        "--input",
        choices=("image", "stack", "frames"),
        help="image: the difference; stack: the after frame and the difference; frames: both frames, whose features "
        "a dense_ recipe subtracts and which the others see stacked",
    )
    group.add_argument(
        "--mode", choices=_MODES, help="of a dataset of pairs: make this difference on the way, as diff does"
    )
    group.add_argument("--align", choices=_METHODS, help="of a dataset of pairs: align the frames first, as diff does")


def _add_predict(commands: Any) -> None:
    parser = _add(commands, "predict", "Detect objects with a trained run", "prepared dataset")
    parser.add_argument("--run", type=Path, required=True, metavar="RUN", help="directory that train wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory for the predictions")
    parser.add_argument("--split", default="validation", help="split to predict (default validation)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at once (default: the recipe's)")


def _add_evaluate(commands: Any) -> None:
    parser = _add(commands, "evaluate", "Compare predictions with the truth", "prepared dataset")
    parser.add_argument("--predictions", type=Path, required=True, metavar="DIR", help="directory that predict wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory for report.html, report.json")
    parser.add_argument("--split", help="split to evaluate (default: the one that was predicted)")


def _add_browse(commands: Any) -> None:
    parser = _add(commands, "browse", "Store truth and predictions in FiftyOne and open its App", "prepared dataset")
    parser.add_argument(
        "--predictions", type=Path, nargs="*", default=[], metavar="DIR", help="directories that predict wrote"
    )
    parser.add_argument("--split", help="split to browse (default: the one that was predicted, else validation)")
    parser.add_argument("--name", help="name of the FiftyOne dataset (default: after DATASET)")
    parser.add_argument("--no-app", action="store_true", help="store only; do not open the App")
    parser.add_argument("--port", type=int, default=5151, help="port of the App on 127.0.0.1 (default 5151)")


def _add_demo(commands: Any) -> None:
    parser = _add(commands, "demo", "Run every stage on a small set of generated before/after scenes")
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="directory (default: demo)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0 done, 1 data refused, 2 wrong usage)."""
    for stream in (sys.stdout, sys.stderr):
        # A finding may name a file that the terminal's encoding cannot; that must not end the command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    at = words.index("--") if "--" in words else len(words)
    arguments = build_parser().parse_args(words[:at])
    arguments.runner_arguments = tuple(words[at + 1 :])
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
    except KeyboardInterrupt:
        print(f"shardbox {arguments.command_name}: stopped", file=sys.stderr)
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
        where = f"{error.filename}: " if error.filename else ""
        raise UsageError(
            f"{where}{error.strerror or error}", "check the path, its permissions and free space"
        ) from error
    finally:
        sys.stdout = stdout


if __name__ == "__main__":
    sys.exit(main())
