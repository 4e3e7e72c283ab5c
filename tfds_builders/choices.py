"""The annotation formats to choose from: a new one adds its lines here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from dataflow.errors import UsageError
from dataflow.records import Categories
from dataflow.stores.cloud_paths import listed
from tfds_builders.formats.coco import open_coco
from tfds_builders.formats.coco_writer import CocoWriter
from tfds_builders.formats.cvat import open_cvat
from tfds_builders.formats.cvat_writer import CvatWriter
from tfds_builders.formats.detectron2_writer import Detectron2Writer
from tfds_builders.formats.labelme import LabelmeWriter, holds_labelme, open_labelme
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.mot_writer import MotWriter
from tfds_builders.formats.pair_list import find_list
from tfds_builders.formats.pairs import open_pairs
from tfds_builders.formats.pairs_writer import PairsWriter
from tfds_builders.formats.virat import open_virat
from tfds_builders.formats.virat_writer import ViratWriter
from tfds_builders.formats.voc import open_voc
from tfds_builders.formats.voc_writer import VocWriter
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.formats.yolo_writer import YoloWriter
from tfds_builders.sources.source import Source
from tfds_builders.writing import Writer

FormatName = Literal["yolo", "coco", "voc", "mot", "virat", "labelme", "cvat", "pairs"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)
ExportName = FormatName | Literal["detectron2"]
EXPORTS: tuple[ExportName, ...] = (*FORMATS, "detectron2")
# Those that hold before/after pairs; all others hold single images.
PAIR_FORMATS: tuple[FormatName, ...] = ("pairs",)

_OPEN: dict[FormatName, Callable[..., Source]] = {
    "yolo": open_yolo,
    "coco": open_coco,
    "voc": open_voc,
    "mot": open_mot,
    "virat": open_virat,
    "labelme": open_labelme,
    "cvat": open_cvat,
    "pairs": open_pairs,
}
_WRITE: dict[ExportName, Callable[[Path, Categories, tuple[str, ...]], Writer[Any]]] = {
    "yolo": YoloWriter,
    "coco": CocoWriter,
    "voc": VocWriter,
    "mot": MotWriter,
    "virat": ViratWriter,
    "labelme": LabelmeWriter,
    "cvat": CvatWriter,
    "pairs": PairsWriter,
    "detectron2": Detectron2Writer,
}

# What tells a format from the others, as files or folders of the source; one of each tuple's patterns is enough.
_SIGNS: dict[FormatName, tuple[str, ...]] = {
    "yolo": ("data.yaml", "data.yml", "dataset.yaml", "labels/**/*.txt"),
    "coco": ("annotations/*.json", "*instances*.json"),
    "voc": ("Annotations/**/*.xml",),
    "mot": ("gt/gt.txt", "*/gt/gt.txt"),
    "virat": ("annotations/**/*.viratdata.objects.txt", "*.viratdata.objects.txt"),
    "cvat": ("annotations.xml",),
}
_SUFFIXES: dict[str, FormatName] = {
    ".json": "coco",
    ".yaml": "yolo",
    ".yml": "yolo",
    ".xml": "cvat",
    ".csv": "pairs",
    ".tsv": "pairs",
    ".jsonl": "pairs",
    ".ndjson": "pairs",
}


def recognise(path: Path) -> FormatName:
    """The format of the source at `path`, by what it holds.

    Raises:
        UsageError: none is recognised, or several are.
    """
    found = [_SUFFIXES[path.suffix.lower()]] if path.is_file() and path.suffix.lower() in _SUFFIXES else []
    if path.is_dir():
        found = _signed(path)
    names = ", ".join(FORMATS)
    if not found:
        raise UsageError(f"{path} is in no format that is recognised", f"give its format: --format one of {names}")
    if len(found) > 1:
        raise UsageError(f"{path} can be read as {' and as '.join(found)}", "say which with --format")
    return found[0]


def _signed(path: Path) -> list[FormatName]:
    """The formats whose signs a directory shows."""
    if find_list(path) is not None:
        return ["pairs"]  # Its label files may look like another format's.
    found = [name for name, signs in _SIGNS.items() if any(_holds(path, sign) for sign in signs)]
    if holds_labelme(path):
        # Its files, one an image, look like COCO's, one for all.
        found = [*(name for name in found if name != "coco"), "labelme"]
    return found


def _holds(path: Path, sign: str) -> bool:
    return next(path.glob(sign), None) is not None


def open_source(name: FormatName, path: Path, /, **options: Any) -> Source:
    """The source at `path` in format `name`; see the format's own `open_` function for its options.

    One in an object store is listed at once. Its annotations are read here, its images where they lie, by workers.

    Raises:
        UsageError: there is no such source at `path`.
    """
    return _OPEN[name](listed(path), **options)


def open_writer(name: ExportName, out: Path, categories: Categories, splits: tuple[str, ...]) -> Writer[Any]:
    """What writes records into the directory `out` in format `name`."""
    return _WRITE[name](out, categories, splits)
