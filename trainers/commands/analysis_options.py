"""Options of the commands that look at results."""

from pathlib import Path
from typing import Any

from trainers.commands.options import TOOLS, add_command, local_path, place

_MODULE = "trainers.commands.analysis_commands"
_COMPARING = "trainers.commands.comparing_commands"


def _add_evaluate(commands: Any) -> None:
    parser = add_command(commands, _MODULE, "evaluate", "Compare predictions with the truth", "prepared dataset")
    parser.add_argument("--predictions", type=place, required=True, metavar="DIR", help="directory that predict wrote")
    parser.add_argument(
        "--out", type=place, required=True, metavar="DIR", help="directory for report.html, report.json"
    )
    parser.add_argument("--split", help="split to evaluate (default: the one that was predicted)")


def _add_compare(commands: Any) -> None:
    parser = add_command(
        commands, _COMPARING, "compare", "Say what runs do better and worse than the first of them", "prepared dataset"
    )
    parser.add_argument(
        "--predictions", type=place, nargs="+", required=True, metavar="DIR", help="directories that predict wrote"
    )
    parser.add_argument(
        "--out", type=place, required=True, metavar="DIR", help="directory for compare.html, compare.json"
    )
    parser.add_argument("--split", help="split to compare on (default: the one that was predicted)")
    parser.add_argument(
        "--across-datasets", action="store_true",
        help="take predictions of other datasets too, such as before a correction: by the truth of DATASET, on the "
        "images that all of them have",
    )  # fmt: skip


def _add_explain_map(commands: Any) -> None:
    parser = add_command(
        commands,
        _COMPARING,
        "explain-map",
        "Say why another tool gives these predictions another mAP",
        "prepared dataset",
    )
    parser.add_argument("--predictions", type=place, required=True, metavar="DIR", help="directory that predict wrote")
    parser.add_argument("--split", help="split to evaluate (default: the one that was predicted)")
    parser.add_argument(
        "--figure", action="append", default=[], metavar="NAME=VALUE",
        help="what the other tool gave, with all its digits: AP, AP50, AP75, APs, APm or APl; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--torchmetrics", type=place, metavar="FILE", help="JSON of what MeanAveragePrecision.compute() gave"
    )
    parser.add_argument(
        "--tool", choices=TOOLS, help="which tool gave the figures: its convention is where the search starts"
    )


def _add_browse(commands: Any) -> None:
    parser = add_command(
        commands, _MODULE, "browse", "Store truth and predictions in FiftyOne and open its App", "prepared dataset"
    )
    parser.add_argument(
        "--predictions", type=place, nargs="*", default=[], metavar="DIR", help="directories that predict wrote"
    )
    parser.add_argument("--split", help="split to browse (default: the one that was predicted, else validation)")
    parser.add_argument("--name", help="name of the FiftyOne dataset (default: after DATASET)")
    parser.add_argument(
        "--export-tags",
        type=place,
        metavar="FILE",
        help="write what was done in the App as corrections for `ingest --relabel`, and no more: edited, deleted and "
        "drawn objects, detections tagged `adopt`, objects tagged `mislabelled`, images tagged `relabel` or `exclude`",
    )
    parser.add_argument("--tag", help="with --export-tags: only of images that have this tag, or a label with it")
    parser.add_argument("--no-app", action="store_true", help="store only; do not open the App")
    parser.add_argument("--port", type=int, default=5151, help="port of the App on 127.0.0.1 (default 5151)")


def _add_demo(commands: Any) -> None:
    parser = add_command(commands, _MODULE, "demo", "Run every stage on a small set of generated before/after scenes")
    parser.add_argument("--out", type=local_path, default=Path("demo"), metavar="DIR", help="directory (default: demo)")


ADD_COMMANDS = (_add_evaluate, _add_compare, _add_explain_map, _add_browse, _add_demo)
