"""Reading a list of pairs: a CSV file with a header row, or JSON lines; a row (or line) is a pair.

One row is one physical line: a quote that is never closed spoils its own row and not all that follow.
"""

import csv
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dataflow.errors import UsageError
from tfds_builders.sources.photo import inside_root

Way = Literal["targets", "frames"]
"""What labels say: the targets themselves, or what each frame shows."""

IMAGES = ("before", "after")
TARGETS_KEY = "labels"
FRAME_KEYS = ("before_labels", "after_labels")
_JSON_LINES = (".jsonl", ".ndjson")
_TABLES = (".csv", ".tsv")
_NAMES = ("pairs.jsonl", "pairs.ndjson", "pairs.csv", "pairs.tsv")
_COLUMNS = "head the columns before, after and labels, or before, after, before_labels and after_labels"
_KEYS = "give every line before, after and labels, or before, after, before_labels and after_labels"


@dataclass(frozen=True)
class Row:
    """One row: its line number, and its cells by column (or JSON values by key); or what is wrong with the line."""

    line: int
    values: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def find_list(source: Path) -> Path | None:
    """The list of pairs that `source` is, or that this folder holds; None where it holds none, or several."""
    if source.is_file():
        return source if source.suffix.lower() in _JSON_LINES + _TABLES else None
    for name in _NAMES:
        if (source / name).is_file() and inside_root(source, source / name):
            return source / name
    found = [
        path for suffix in _JSON_LINES + _TABLES for path in sorted(source.glob(f"*{suffix}")) if lists_pairs(path)
    ]
    return found[0] if len(found) == 1 and inside_root(source, found[0]) else None


def lists_pairs(path: Path) -> bool:
    """Whether the first row of a file reads like that of a list of pairs."""
    try:
        row = next(read_rows(path), Row(0))
    except UsageError:
        return False
    return set(IMAGES) <= row.values.keys()


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a list in order, blank ones left out.

    Raises:
        UsageError: it is no file of either kind, not UTF-8, or a table without the columns.
    """
    suffix = path.suffix.lower()
    if suffix in _JSON_LINES:
        return map(_json_row, _lines(path))
    if suffix in _TABLES:
        return _table_rows(path)
    raise UsageError(f"{path} is no list of pairs", f"give a file named {', '.join(_JSON_LINES + _TABLES)}")


def way_of(keys: Collection[str], path: Path) -> Way:
    """How a list with these columns, or keys, gives its labels.

    Raises:
        UsageError: in neither way, or in both.
    """
    remedy = _KEYS if path.suffix.lower() in _JSON_LINES else _COLUMNS
    for key in IMAGES:
        if key not in keys:
            found = ", ".join(sorted(keys)) or "nothing"
            raise UsageError(f"{path} has no {key}, only {found}", remedy)
    of_frames = [key for key in FRAME_KEYS if key in keys]
    if TARGETS_KEY in keys and of_frames:
        raise UsageError(f"{path} has both {TARGETS_KEY} and {of_frames[0]}", remedy)
    if TARGETS_KEY in keys:
        return "targets"
    if len(of_frames) < 2:
        missing = f"no {TARGETS_KEY}" if not of_frames else f"{of_frames[0]} only"
        raise UsageError(f"{path} has {missing}", remedy)
    return "frames"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers; they end in LF, CRLF or CR."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, text.rstrip("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {_bad_byte(path)}", "save the file as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", "make it a readable file") from error


def _bad_byte(path: Path) -> int:
    """Where a file stops being UTF-8: a decoder that reads in blocks does not know."""
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return 0


def _json_row(numbered: tuple[int, str]) -> Row:
    line, text = numbered
    try:
        value = json.loads(text, object_pairs_hook=_distinct_keys)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested without end.
        return Row(line, problem=f"not JSON ({error})")
    if not isinstance(value, dict):
        return Row(line, problem=f"not a JSON object but {type(value).__name__}")
    return Row(line, value)


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return found


def _table_rows(path: Path) -> Iterator[Row]:
    lines = _lines(path)
    _, text = next(lines, (0, ""))
    header, delimiter = _header(text, path)
    for line, row in lines:
        cells, problem = _cells(row, delimiter)
        if problem:
            yield Row(line, problem=problem)
        elif not any(cells):
            continue
        elif len(cells) < len(header) or any(cells[len(header) :]):
            yield Row(line, problem=f"{len(cells)} fields under {len(header)} columns")
        else:
            yield Row(line, dict(zip(header, cells, strict=False)))


def _header(text: str, path: Path) -> tuple[list[str], str]:
    """The columns, in lower case, and what separates them: comma, semicolon or tab."""
    for delimiter in ",;\t":
        header = [name.lower() for name in _cells(text, delimiter)[0]]
        if set(IMAGES) <= set(header):
            break
    else:
        raise UsageError(f"{path} has no columns before and after: its first line is {text[:80]!r}", _COLUMNS)
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise UsageError(f"{path} has two columns {twice[0]}", "rename one of them")
    way_of(header, path)
    return header, delimiter


def _cells(text: str, delimiter: str) -> tuple[list[str], str]:
    """The cells of a line, blanks around them left out; or what is wrong with it."""
    try:
        return [cell.strip() for cell in _first(csv.reader([text], delimiter=delimiter, strict=True))], ""
    except csv.Error as error:
        return [], f"not CSV ({error})"


def _first(rows: Iterable[list[str]]) -> list[str]:
    return next(iter(rows), [])
