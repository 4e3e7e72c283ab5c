"""Corrections of annotations: what a person found wrong, applied while a source is ingested, which stays as it is.

A list of corrections is JSON lines, one for each:

    {"image_id": "a", "action": "change", "object": {"class": "car", "box": [x0, y0, x1, y1]}, "class": "bus"}
    {"image_id": "a", "action": "change", "object": {"class": "car", "box": [...]}, "box": [x0, y0, x1, y1]}
    {"image_id": "a", "action": "delete", "object": {"class": "car", "box": [...]}}
    {"image_id": "a", "action": "add", "class": "car", "box": [x0, y0, x1, y1]}
    {"image_id": "a", "action": "suspect", "object": {"class": "car", "box": [...]}, "tags": ["mislabelled"]}
    {"image_id": "a", "action": "exclude", "tags": ["exclude"]}

Boxes are px of the upright image. An object is known by its class and box as the dataset had them; one that is there no
longer is a finding, and nothing is changed. Lines of an image apply in their order, each to what those before it left.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from dataflow.boxes import LEAST_SIDE_PX, Size, box_areas, tfds_to_xyxy, xyxy_to_tfds
from dataflow.errors import UsageError
from dataflow.findings import Code, Finding, Severity
from dataflow.records import Categories, Change
from dataflow.schema import NO_TRACK
from dataflow.shards import Outcome

CORRECTIONS = "corrections.jsonl"
Action = Literal["change", "delete", "add", "suspect", "exclude"]
ACTIONS: tuple[Action, ...] = get_args(Action)
# As far as an object's box may be from that of a correction, px: float32 shares of a large image round so.
_TOLERANCE_PX = 0.1
_WANTS: dict[Action, tuple[str, ...]] = {
    "change": ("object",), "delete": ("object",), "add": ("class", "box"), "suspect": (), "exclude": (),
}  # fmt: skip


def read_corrections(path: Path, categories: Categories) -> list[str]:
    """The lines of a list of corrections, each checked.

    Raises:
        UsageError: the file, a line of it or a class is not what it should be.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--relabel {path} cannot be read ({error})", "give the file that --export-tags wrote"
        ) from error
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            problem = _problem(line, categories)
            if problem:
                remedy = f"write one of {', '.join(ACTIONS)} with what it needs, as `browse --export-tags` does"
                raise UsageError(f"{path}:{number}: {problem}", remedy)
            lines.append(json.dumps(json.loads(line), sort_keys=True))
    return lines


def _problem(line: str, categories: Categories) -> str | None:
    """What is wrong with a line."""
    try:
        entry = json.loads(line)
    except ValueError as error:
        return f"not JSON ({error})"
    if not isinstance(entry, dict) or not isinstance(entry.get("image_id"), str):
        return "not an object with a text `image_id`"
    if entry.get("action") not in ACTIONS:
        return f"the action {entry.get('action')!r} is unknown"
    missing = [name for name in _WANTS[entry["action"]] if name not in entry]
    if entry["action"] == "change" and not {"class", "box"} & entry.keys():
        missing.append("class or box")
    if missing:
        return f"{entry['action']} without {' and '.join(missing)}"
    described = [entry, *([entry["object"]] if "object" in entry else [])]
    for part in described:
        if not isinstance(part, dict):
            return f"object {part!r} has no class and box"
        if "class" in part and part["class"] not in categories.names:
            return f"the class {part['class']!r} is not among {', '.join(categories.names)}"
        if "box" in part and not _is_box(part["box"]):
            return f"the box {part['box']!r} is not x0, y0, x1, y1 with x0 < x1 and y0 < y1"
    if "object" in entry and not {"class", "box"} <= entry["object"].keys():
        return f"object {entry['object']!r} has no class and box"
    return None


def _is_box(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 4 and all(isinstance(n, int | float) for n in value)
    return numbers and bool(np.isfinite(value).all()) and value[0] < value[2] and value[1] < value[3]


@dataclass(frozen=True)
class Corrections:
    """All corrections of a source, a JSON line each, in the order in which they apply."""

    lines: tuple[str, ...] = ()

    def then(self, lines: Iterable[str]) -> "Corrections":
        """These, and those of `lines` that are not among them."""
        return Corrections(tuple(dict.fromkeys([*self.lines, *lines])))

    def by_image(self) -> dict[str, list[tuple[int, dict[str, Any]]]]:
        """(line number, correction) by image id."""
        found = defaultdict(list)
        for number, line in enumerate(self.lines, 1):
            entry = json.loads(line)
            found[entry["image_id"]].append((number, entry))
        return dict(found)

    def counts(self) -> dict[str, int]:
        """How many there are of each action."""
        return dict(sorted(Counter(json.loads(line)["action"] for line in self.lines).items()))


def kept_corrections(directory: Path) -> Corrections:
    """Those that the dataset in a directory was made with."""
    path = directory / CORRECTIONS
    return Corrections(tuple(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else Corrections()


def save_corrections(directory: Path, corrections: Corrections) -> None:
    """Leave them beside the shards, where there are any."""
    if corrections.lines:
        (directory / CORRECTIONS).write_text("".join(f"{line}\n" for line in corrections.lines), encoding="utf-8")


def unknown_images(corrections: Corrections, image_ids: Iterable[str]) -> list[Finding]:
    """A finding for each correction of an image that the source does not have."""
    known = set(image_ids)
    return [
        _finding(Code.CORRECTION_STALE, number, f"the source has no image {image_id!r}", image_id=None)
        for image_id, entries in corrections.by_image().items()
        if image_id not in known
        for number, _ in entries
    ]


def corrected(outcome: Outcome, entries: Sequence[tuple[int, Mapping[str, Any]]], names: Sequence[str]) -> Outcome:
    """What became of an image, with the corrections of it applied, each of which is a finding.

    Args:
        outcome: of the image as the source has it.
        entries: line number and correction, in their order.
        names: of the classes.
    """
    findings = list(outcome.findings)
    example = outcome.example
    for number, entry in entries:
        what = _described(entry)
        if entry["action"] == "exclude":
            example = None
            findings.append(_finding(Code.IMAGE_EXCLUDED, number, what, outcome.image_id))
        elif example is None:
            value = f"{what}: the image was kept out"
            findings.append(_finding(Code.CORRECTION_STALE, number, value, outcome.image_id))
        else:
            size = int(example["image/height"]), int(example["image/width"])
            code, columns = _applied(example["objects"], entry, size, names)
            example = {**example, "objects": columns}
            box = entry.get("box") or entry.get("object", {}).get("box")
            findings.append(_finding(code, number, what, outcome.image_id, box))
    return replace(outcome, example=example, findings=tuple(findings))


def _applied(
    columns: Mapping[str, Any], entry: Mapping[str, Any], size: Size, names: Sequence[str]
) -> tuple[Code, dict[str, Any]]:
    """The columns of an image's objects after one correction, and what to call it."""
    kept = dict(columns)
    if entry["action"] == "suspect" and "object" not in entry:
        return Code.LABEL_SUSPECT, kept
    if entry["action"] == "add":
        box = _inside(entry["box"], size)
        if box is None:
            return Code.CORRECTION_STALE, kept
        return Code.LABEL_CORRECTED, _added(kept, names.index(entry["class"]), box, size)
    at = _find(kept, entry["object"], size, names)
    if at is None:
        return Code.CORRECTION_STALE, kept
    if entry["action"] == "suspect":
        return Code.LABEL_SUSPECT, kept
    if entry["action"] == "delete":
        return Code.LABEL_CORRECTED, {name: _without(values, at) for name, values in kept.items()}
    if "class" in entry:
        kept["label"] = np.array(kept["label"])
        kept["label"][at] = names.index(entry["class"])
    if "box" in entry:
        box = _inside(entry["box"], size)
        if box is None:
            return Code.CORRECTION_STALE, dict(columns)
        kept["bbox"], kept["area"] = np.array(kept["bbox"]), np.array(kept["area"])
        kept["bbox"][at], kept["area"][at] = xyxy_to_tfds([box], size)[0], box_areas([box])[0]
        # An outline of the old box is none of the new one.
        kept["segmentation"] = (*kept["segmentation"][:at], "", *kept["segmentation"][at + 1 :])
    return Code.LABEL_CORRECTED, kept


def _find(columns: Mapping[str, Any], wanted: Mapping[str, Any], size: Size, names: Sequence[str]) -> int | None:
    """The place of an object; None where there is none of this class with this box."""
    boxes = tfds_to_xyxy(columns["bbox"], size)
    away = np.abs(boxes - np.asarray(wanted["box"], np.float32)).max(axis=1) if len(boxes) else np.zeros(0)
    away[np.asarray(columns["label"]) != names.index(wanted["class"])] = np.inf
    return int(away.argmin()) if len(away) and away.min() <= _TOLERANCE_PX else None


def _inside(box: Sequence[float], size: Size) -> list[float] | None:
    """A box cut at the borders of the image; None where nothing is left."""
    height, width = size
    x0, y0, x1, y1 = np.clip(box, 0, (width, height, width, height)).tolist()
    return [x0, y0, x1, y1] if x1 - x0 >= LEAST_SIDE_PX and y1 - y0 >= LEAST_SIDE_PX else None


def _added(columns: Mapping[str, Any], category_id: int, box: Sequence[float], size: Size) -> dict[str, Any]:
    """The columns with an object more."""
    row = {
        "bbox": xyxy_to_tfds([box], size)[0],
        "label": category_id,
        "area": box_areas([box])[0],
        "is_crowd": False,
        "is_truncated": False,
        "segmentation": "",
        "id": NO_TRACK,
        "change": Change.NONE,
        "in_before": False,
    }
    return {name: _with(values, row[name]) for name, values in columns.items()}


def _with(values: Any, value: Any) -> Any:
    if isinstance(values, tuple):
        return (*values, value)
    return np.concatenate([values, np.asarray([value], values.dtype)])


def _without(values: Any, at: int) -> Any:
    return (*values[:at], *values[at + 1 :]) if isinstance(values, tuple) else np.delete(values, at, axis=0)


def _described(entry: Mapping[str, Any]) -> str:
    """A correction in words."""
    old = entry.get("object")
    shown = f"{old['class']} at {', '.join(f'{n:g}' for n in old['box'])}" if old else "the image"
    if entry["action"] == "add":
        shown = f"{entry['class']} at {', '.join(f'{n:g}' for n in entry['box'])}"
    new = [entry["class"]] if entry["action"] == "change" and "class" in entry else []
    if entry["action"] == "change" and "box" in entry:
        new.append(", ".join(f"{n:g}" for n in entry["box"]))
    tags = f" (tagged {', '.join(entry['tags'])})" if entry.get("tags") else ""
    return f"{entry['action']} {shown}{' to ' + ' at '.join(new) if new else ''}{tags}"


_REMEDIES = {
    Code.LABEL_CORRECTED: "nothing to do; correct the source, too, if others use it",
    Code.LABEL_SUSPECT: "look at it, and correct it in FiftyOne or in the source",
    Code.IMAGE_EXCLUDED: "nothing to do: it was wished so",
    Code.CORRECTION_STALE: "export the tags again from the dataset as it is now, or take the line out",
}


def _finding(code: Code, number: int, value: str, image_id: str | None, box: Sequence[float] | None = None) -> Finding:
    severity: Severity = "info" if code is Code.LABEL_CORRECTED else "warning"
    shown = None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
    return Finding(code, severity, CORRECTIONS, value, _REMEDIES[code], number, image_id, box=shown)
