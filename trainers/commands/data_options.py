"""Options of the commands about data."""

import argparse
from typing import Any

from trainers.commands.options import EXPORTS, FORMATS, METHODS, MODES, add_command, add_runner, add_task_runner, place

_MODULE = "trainers.commands.data_commands"


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
    add_runner(parser)


def _add_ingest(commands: Any) -> None:
    parser = add_command(commands, _MODULE, "ingest", "Turn an annotated source into a prepared dataset")
    parser.add_argument("source", type=place, metavar="SOURCE", help="directory (or file) of the annotated images")
    parser.add_argument(
        "--format",
        choices=("auto", *FORMATS),
        default="auto",
        help="how SOURCE is annotated (default auto: by what it holds)",
    )
    parser.add_argument("--out", type=place, required=True, metavar="DIR", help="the dataset goes to DIR/NAME/1.0.0")
    parser.add_argument("--name", help="name of the dataset (default: after SOURCE)")
    parser.add_argument("--names", help="class names a,b,c where SOURCE has none")
    parser.add_argument("--images", type=place, metavar="DIR", help="coco: where the images are")
    parser.add_argument(
        "--relabel",
        type=place,
        nargs="+",
        default=[],
        metavar="FILE",
        help="apply corrections, as `browse --export-tags` writes them; SOURCE stays as it is. --update keeps those "
        "that the dataset was made with, and adds these",
    )
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
    parser = add_command(
        commands, _MODULE, "diff", "Turn a dataset of pairs into a dataset of difference images", "dataset of pairs"
    )
    parser.add_argument("--out", type=place, required=True, metavar="DIR", help="the dataset goes to DIR/NAME/1.0.0")
    parser.add_argument("--name", help="name of the dataset (default: NAME_MODE)")
    parser.add_argument(
        "--mode",
        choices=MODES,
        help="absolute: |after - before| (default where both places of a moved object are targets); signed: 128 + "
        "(after - before) / 2, which tells old from new place (default for other targets); grey: of brightness alone; "
        "threshold: absolute, noise left out; ssim: structural dissimilarity",
    )
    parser.add_argument(
        "--align",
        choices=METHODS,
        default="none",
        help="undo a movement of the camera and a change of its light before differencing: by features (corners, the "
        "best), by phase correlation (shifts only), by ecc (refined from features); default none: it stands still",
    )
    parser.add_argument(
        "--format", choices=("jpeg", "png"), default="jpeg", help="jpeg: quality 95, 4:4:4 (default); png: lossless"
    )
    _add_running(parser)


def _add_export(commands: Any) -> None:
    parser = add_command(
        commands, _MODULE, "export", "Turn a prepared dataset into an annotation format", "prepared dataset"
    )
    parser.add_argument("--format", choices=EXPORTS, required=True, help="what to write")
    parser.add_argument("--out", type=place, required=True, metavar="DIR", help="directory to write")
    parser.add_argument("--split", help="split to export (default: all)")


def _add_diff_datasets(commands: Any) -> None:
    parser = add_command(
        commands, _MODULE, "diff-datasets", "Say what changed between two prepared datasets", "prepared dataset"
    )
    parser.add_argument("other", type=place, metavar="OTHER", help="prepared dataset to compare it with")


def _add_doctor(commands: Any) -> None:
    parser = add_command(
        commands,
        "trainers.commands.doctor_commands",
        "doctor",
        "Find what this machine lacks, or, with --runner, what would keep a job from running there",
    )
    parser.add_argument("--runner", help="the Beam runner to look at; its options follow after --")
    parser.add_argument("--source", type=str, metavar="SOURCE", help="what the job would read")
    parser.add_argument("--out", type=str, metavar="DIR", help="where it would write")


def _add_stats(commands: Any) -> None:
    parser = add_command(commands, _MODULE, "stats", "Count what a prepared dataset holds", "prepared dataset")
    parser.add_argument("--out", type=place, metavar="DIR", help="directory for stats.html and stats.json")
    add_task_runner(parser)


def _add_finish(commands: Any) -> None:
    parser = add_command(
        commands, _MODULE, "finish", "Complete a build whose launcher is gone and whose shards are there"
    )
    parser.add_argument("directory", type=place, metavar="DIR", help="the unfinished directory: .../NAME/incomplete.*")
    parser.add_argument("--discard", action="store_true", help="remove it instead")
    parser.add_argument(
        "--launcher-is-gone", action="store_true", help="the launcher ran on another machine, and runs no longer"
    )


ADD_COMMANDS = (_add_ingest, _add_diff, _add_stats, _add_export, _add_diff_datasets, _add_doctor, _add_finish)
