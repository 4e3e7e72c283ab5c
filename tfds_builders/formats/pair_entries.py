"""The rows of a list of pairs, looked at one by one and against each other: paths, ids, scenes, and what is wrong.

Every row is a pair, also one that cannot be read: it gets the id `pairs.csv:7` and is quarantined with its problems.
"""

import json
import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dataflow.findings import Code, Finding, printable
from dataflow.stores.cloud_paths import is_cloud
from tfds_builders.formats.frame_labels import is_label_file
from tfds_builders.formats.pair_list import FRAME_KEYS, TARGETS_KEY, Row, Way, read_rows

_SPLIT = re.compile(r"[a-z][a-z0-9_]*")
_SPLITS = {"val": "validation", "valid": "validation"}
# In bytes, as Linux has them; others allow less, and say so when the file is read.
_LONGEST_NAME, _LONGEST_PATH = 255, 4095
_PATH = "write a path relative to the list"


Cell = str | list[str] | None


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row; `repairable` when repairing takes it for background."""

    code: Code
    value: str
    remedy: str
    repairable: bool = False


@dataclass(frozen=True)
class Entry:
    """A row as a pair. Paths are posix and relative to the list's folder, "" where there is none that can be read.

    `labels` are the cells of `label_keys`: a path, a list of objects as `[JSON text]`, or None. A text takes a tenth of
    the memory, and is what travels to workers.
    """

    line: int
    pair_id: str = ""
    scene: str = ""
    split: str | None = None
    before: str = ""
    after: str = ""
    before_id: str = ""
    labels: tuple[Cell, ...] = ()
    problems: tuple[Problem, ...] = field(default=())

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that the row names."""
        return self.before, self.after, *(cell for cell in self.labels if isinstance(cell, str))

    def payload(self) -> dict[str, Any]:
        """What loading it needs, as JSON data."""
        return {
            "line": self.line,
            "before": self.before,
            "after": self.after,
            "before_id": self.before_id,
            "labels": list(self.labels),
            "problems": [
                [problem.code, problem.value, problem.remedy, problem.repairable] for problem in self.problems
            ],
        }


def cell_objects(cell: Cell) -> str | list[Any] | None:
    """A cell of labels, a list of objects parsed."""
    return json.loads(cell[0]) if isinstance(cell, list) else cell


def split_of_cell(text: str) -> str | None:
    """The split that a cell names; None where it names none, or none that could be called so."""
    name = _SPLITS.get(text.lower(), text.lower())
    return name if _SPLIT.fullmatch(name) else None


def label_keys(way: Way) -> tuple[str, ...]:
    """The columns that hold labels."""
    return (TARGETS_KEY,) if way == "targets" else FRAME_KEYS


def read_entries(path: Path, way: Way) -> tuple[list[Entry], list[Finding]]:
    """Every row of a list in order, ids and scenes settled, and findings about the list as a whole.

    Raises:
        UsageError: see `read_rows`.
    """
    entries = _distinct([_entry(row, path.parent, way) for row in read_rows(path)], path.name)
    entries = _with_scenes(entries)
    return entries, list(_in_two_scenes(entries, path.name))


def _entry(row: Row, root: Path, way: Way) -> Entry:
    """A row by itself. Its id and scene are those that it gives, or ""."""
    if row.problem:
        return Entry(row.line, problems=(Problem(Code.LABEL_MALFORMED, row.problem, "write the row again"),))
    cells = _Cells(row.values, root)
    before, after = cells.path("before", needed=True), cells.path("after", needed=True)
    if before and before == after:
        cells.wrong(f"{before} is before and after", "name two images", Code.LISTED_TWICE)
    return Entry(
        row.line,
        pair_id=cells.text("id"),
        scene=cells.text("scene"),
        split=cells.split(),
        before=before,
        after=after,
        before_id=cells.text("before_id"),
        labels=tuple(cells.labels(key) for key in label_keys(way)),
        problems=tuple(cells.problems),
    )


@dataclass
class _Cells:
    """The cells of one row, and what is found wrong with them while they are read."""

    values: Mapping[str, Any]
    root: Path
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, value: str, remedy: str, code: Code = Code.LABEL_MALFORMED, repairable: bool = False) -> None:
        self.problems.append(Problem(code, value[:200], remedy, repairable))

    def text(self, key: str) -> str:
        """A name, which may be a whole number; "" where there is none."""
        value = self.values.get(key)
        if value is None or (isinstance(value, str | int) and not isinstance(value, bool)):
            return "" if value is None else printable(str(value).strip())
        self.wrong(f"{key} is {value!r}", "write a text")
        return ""

    def path(self, key: str, needed: bool = False) -> str:
        """A path relative to the root, without detours; "" where there is none."""
        value = self.values.get(key)
        value = "" if value is None else value
        problem = _path_problem(value)
        if problem or (needed and not value):
            self.wrong(f"{key} is {problem or 'empty'}", _PATH)
            return ""
        return _tidy(self.root, value) if value else ""

    def split(self) -> str | None:
        text = self.text("split")
        name = split_of_cell(text)
        if text and name is None:
            self.wrong(f"split is {text!r}", "use lower-case letters, digits and underscores")
        return name

    def labels(self, key: str) -> Cell:
        if isinstance(self.values.get(key), list):
            return [json.dumps(self.values[key], separators=(",", ":"))]
        known = len(self.problems)
        file = self.path(key)
        if file and not is_label_file(file):
            self.wrong(f"{key} is {file}", "name a label file: YOLO .txt, Pascal VOC .xml or .json")
            return None
        if not file and len(self.problems) == known:
            remedy = "name its label file, or repair to take it for background"
            self.wrong(f"the row gives no {key}", remedy, Code.LABEL_MISSING, repairable=True)
        return file or None


def _path_problem(value: Any) -> str:
    """Why a value is no path that a file can have, or ""."""
    if not isinstance(value, str):
        return repr(value)
    try:
        encoded = os.fsencode(value)
    except UnicodeEncodeError:
        return f"{value!r}, which no file name can be"
    if b"\0" in encoded:
        return f"{value!r}, which holds a zero byte"
    if len(encoded) > _LONGEST_PATH or any(len(step) > _LONGEST_NAME for step in encoded.split(b"/")):
        return f"{value[:80]!r}..., which is too long for a file name"
    return ""


def _tidy(root: Path, value: str) -> str:
    """A path without `.`, `..` and double slashes; written on Windows, or in full, it still is the same file."""
    value = value.strip()
    if is_cloud(root):
        value = value.removeprefix(f"{root}/")
    if "\\" in value and not os.path.lexists(root / value):
        value = value.replace("\\", "/")
    if posixpath.isabs(value) and Path(value).is_relative_to(root):
        value = Path(value).relative_to(root).as_posix()
    return posixpath.normpath(value)


def _distinct(entries: Sequence[Entry], file: str) -> list[Entry]:
    """The entries with an id each. What repeats a pair, or the id of another, becomes a problem of the later row."""
    lines: dict[tuple[str, str], int] = {}
    taken: dict[str, int] = {}
    settled = []
    for entry in entries:
        problems = list(entry.problems)
        pair = entry.before, entry.after
        usable = all(pair) and not any(problem.code == Code.LISTED_TWICE for problem in problems)
        if usable and lines.setdefault(pair, entry.line) != entry.line:
            value = f"{entry.before} and {entry.after} are a pair at line {lines[pair]} already"
            problems.append(Problem(Code.LISTED_TWICE, value, "delete one of the two rows"))
            usable = False
        pair_id = entry.pair_id or (_derived_id(entry) if all(pair) else "")
        if pair_id and pair_id in taken:
            if usable:
                value = f"the id {pair_id!r} is that of line {taken[pair_id]}"
                problems.append(Problem(Code.DUPLICATE_ID, value, "give each pair its own id"))
            pair_id = ""
        pair_id = pair_id or f"{file}:{entry.line}"
        taken[pair_id] = entry.line
        settled.append(replace(entry, pair_id=pair_id, problems=tuple(problems)))
    return settled


def _common_folder(entry: Entry) -> str:
    """The folder that holds both images, at whatever depth; "" for the list's own."""
    first, second = posixpath.dirname(entry.before), posixpath.dirname(entry.after)
    return "" if posixpath.isabs(first) != posixpath.isabs(second) else posixpath.commonpath([first, second])


def _derived_id(entry: Entry) -> str:
    """`walk/0001__0011` for walk/0001.jpg and walk/0011.jpg: it depends on the two paths alone."""
    folder = _common_folder(entry)
    start = len(folder) + 1 if folder else 0
    before, after = (posixpath.splitext(path[start:])[0] for path in (entry.before, entry.after))
    if not folder and "/" in before and "/" not in after:
        after = f"./{after}"  # x/1.jpg with 2.jpg is another pair than with x/2.jpg.
    return printable(posixpath.join(folder, f"{before}__{after}"))


def _with_scenes(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with a scene each: pairs of one folder, and pairs that share an image, are of one scene."""
    parent: dict[str, str] = {}

    def top(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    own = [entry.scene or _own_scene(entry) for entry in entries]
    free = [(entry, scene) for entry, scene in zip(entries, own, strict=True) if not entry.scene]
    for entry, scene in free:
        for image in filter(None, (entry.before, entry.after)):
            parent[top(f"image {image}")] = top(f"scene {scene}")
    names: dict[str, str] = {}
    for _, scene in free:
        component = top(f"scene {scene}")
        names[component] = min(scene, names.get(component, scene))
    return [
        entry if entry.scene else replace(entry, scene=names[top(f"scene {scene}")])
        for entry, scene in zip(entries, own, strict=True)
    ]


def _own_scene(entry: Entry) -> str:
    return (printable(_common_folder(entry)) if entry.before and entry.after else "") or entry.pair_id


def _in_two_scenes(entries: Iterable[Entry], file: str) -> Iterable[Finding]:
    """Images that rows put into different scenes: they may end on both sides of a split."""
    scenes: dict[str, tuple[str, int]] = {}
    told = set()
    for entry in entries:
        for image in filter(None, (entry.before, entry.after)):
            scene, line = scenes.setdefault(image, (entry.scene, entry.line))
            if scene != entry.scene and image not in told:
                told.add(image)
                value = f"{image} is in the scene {entry.scene!r}, and at line {line} in {scene!r}"
                remedy = "give pairs that share an image one scene, so that no split divides them"
                yield Finding(Code.SPLIT_LEAK, "warning", file, value, remedy, entry.line)
