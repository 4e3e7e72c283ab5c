"""What the options of all commands are made with."""

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from dataflow.stores.cloud_paths import is_cloud
from dataflow.stores.object_stores import SCHEMES
from dataflow.stores.paths import location

Command = Callable[[argparse.Namespace], dict[str, Any]]
MODES = ("absolute", "signed", "grey", "threshold", "ssim")
METHODS = ("none", "phase", "features", "ecc")
TOOLS = ("pycocotools", "torchmetrics", "fiftyone", "ultralytics", "voc")
FORMATS = ("yolo", "coco", "voc", "mot", "virat", "labelme", "cvat", "pairs")
EXPORTS = (*FORMATS, "detectron2")


def place(text: str) -> Path:
    """A path of this machine, or a place in an object store."""
    scheme, is_url, _ = text.partition("://")
    if is_url and scheme not in SCHEMES:
        raise argparse.ArgumentTypeError(f"{text}: there is no way to {scheme}://; name gs://, s3:// or a path")
    return location(text)


def local_path(text: str) -> Path:
    """A path of this machine, for what is not written to object stores."""
    if is_cloud(place(text)):
        raise argparse.ArgumentTypeError(f"{text} is in an object store: name a directory of this machine, and copy it")
    return Path(text)


def _command(module: str, name: str) -> Command:
    """A command by name, imported when it is called: `shardbox --help` must answer at once."""

    def call(arguments: argparse.Namespace) -> dict[str, Any]:
        result: dict[str, Any] = getattr(import_module(module), name.replace("-", "_"))(arguments)
        return result

    return call


def add_command(commands: Any, module: str, name: str, summary: str, reads: str = "") -> argparse.ArgumentParser:
    """The parser of a command: the function in `module` that is named as it is, which `reads` a dataset if any."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=f"{summary}.")
    parser.set_defaults(command=_command(module, name), command_name=name)
    if reads:
        parser.add_argument("dataset", type=place, metavar="DATASET", help=reads)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output and nothing else")
    return parser


def add_runner(parser: argparse.ArgumentParser) -> None:
    """Which Beam runner does the work."""
    parser.add_argument(
        "--runner", default="FnApiRunner", help="Beam runner (default FnApiRunner); its options follow after --"
    )


def add_task_runner(parser: argparse.ArgumentParser) -> None:
    """Where work on shards is done that needs no Beam."""
    parser.add_argument(
        "--runner", help="Beam runner, whose options follow after -- (default: in this process, without Beam)"
    )
