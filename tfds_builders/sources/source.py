"""What every source format provides: references to list, and a way to load one on a worker."""

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from dataflow.beam.step_times import Stopwatch
from dataflow.findings import Finding, printable
from dataflow.records import Categories
from dataflow.schema import Kind
from dataflow.shards import Outcome
from dataflow.stores.cloud_paths import is_cloud
from tfds_builders.sources.corrections import corrected

ExifPolicy = Literal["apply", "ignore", "refuse"]
EXIF_POLICIES: tuple[ExifPolicy, ...] = get_args(ExifPolicy)
# Decoding leaves Python's lock alone; more threads than this are of no use to the one that writes.
THREADS = min(4, os.cpu_count() or 1)
# Objects are waited for, some tens of milliseconds each, so that more of them are asked for beside each other.
_STORE_THREADS = 16
CheckLevel = Literal["decode", "header"]
CHECK_LEVELS: tuple[CheckLevel, ...] = get_args(CheckLevel)


@dataclass(frozen=True)
class Checks:
    """How images are looked at on workers.

    `exif`: boxes are on the upright image (apply), on the pixels as stored (ignore), or turned images are kept out
    (refuse). `level`: every pixel is decoded, or the header and the end of the file are looked at.
    """

    repair: bool = False
    exif: ExifPolicy = "apply"
    level: CheckLevel = "decode"


# In the line of a reference, apart from corrections.
_FIELDS = 7


@dataclass(frozen=True)
class Reference:
    """One example to be: enough to load it on any worker, small enough for millions of them."""

    image_id: str
    group_id: str
    num_bytes: int
    """Size of its image files, from which the number of shards follows."""
    payload: Any
    """What the format needs to load it: plain JSON data (None, numbers, texts, lists, dictionaries with text keys)."""
    file: str = ""
    """Its image file relative to the source root, for findings."""
    split: str | None = None
    """The split the source itself puts it in."""
    stamp: str = ""
    """Sizes and times of the files that loading it reads (see `file_stamp`): while it stays, so does the example."""
    keep_with: str = ""
    """What it shares with others that should lie in one shard with it: pairs that have frames in common."""
    corrections: Sequence[tuple[int, Mapping[str, Any]]] = ()
    """Line number and content of the corrections of it (see `corrections`), in their order."""

    def __post_init__(self) -> None:
        for name in ("image_id", "group_id", "file", "keep_with"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def to_line(self) -> str:
        """One line of JSON, ASCII."""
        fields = [self.image_id, self.group_id, self.num_bytes, self.payload, self.file, self.split, self.stamp]
        # Not `keep_with`: it decides where a reference goes, which loading it need not know.
        return json.dumps([*fields, *([self.corrections] if self.corrections else [])], separators=(",", ":"))

    @staticmethod
    def from_line(line: str) -> "Reference":
        """The reference that `to_line` wrote; `keep_with` stays behind."""
        fields = json.loads(line)
        reference = Reference(*fields[:_FIELDS])
        return replace(reference, corrections=fields[_FIELDS]) if len(fields) > _FIELDS else reference


def file_stamp(*paths: Path) -> str:
    """Size and time of change of each file, or "-" where there is none: what rsync and make go by, too."""
    stamps = []
    for path in paths:
        try:
            status = path.stat()
            stamps.append(f"{status.st_size}.{status.st_mtime_ns}")
        except (OSError, ValueError):  # ValueError: a name that no file can have.
            stamps.append("-")
    return " ".join(stamps)


@dataclass(frozen=True)
class Listing:
    """All that a source holds, and what is wrong with it as a whole."""

    references: tuple[Reference, ...]
    findings: tuple[Finding, ...] = ()


class Source(Protocol):
    """A source in one format. A frozen dataclass: it travels to workers.

    `scan` runs once, where the command was given; `load` runs on workers, once per reference, and never raises for
    bad data: it returns findings.
    """

    @property
    def root(self) -> Path:
        """The folder that workers read it from."""
        ...

    @property
    def kind(self) -> Kind:
        """Single images, or before/after pairs."""
        ...

    @property
    def categories(self) -> Categories:
        """The classes."""
        ...

    def scan(self) -> Listing:
        """Every image (or pair) of the source, in sorted order, and findings about the source as a whole."""
        ...

    def load(self, reference: Reference, checks: Checks) -> Outcome:
        """Read, check and convert one image (or pair); what can be repaired is, when `checks.repair`.

        It may depend on nothing but the reference (with the files of its stamp), the checks, and those fields of the
        source that its `repr` shows: an update keeps what was made of the same.
        """
        ...

    def image_path(self, reference: Reference) -> Path:
        """Its image file; of a pair, the after frame."""
        ...


@dataclass(frozen=True)
class Loader:
    """The references of one shard, a line each, to outcomes, in the same order. Runs on workers."""

    source: Source
    checks: Checks

    def __call__(self, lines: Sequence[str]) -> Iterator[Outcome]:
        """One outcome per reference. Pixels are decoded in threads, a few images ahead of the one that is written.

        Objects of a store are read in threads, too.
        """
        in_store = is_cloud(self.source.root)
        if self.checks.level == "header" and not in_store:
            yield from map(self._load, lines)
            return
        threads, most = (_STORE_THREADS, _STORE_THREADS) if in_store else (THREADS, 2 * THREADS)
        with ThreadPoolExecutor(threads) as pool:
            ahead: deque[Future[Outcome]] = deque()
            for line in lines:
                ahead.append(pool.submit(self._load, line))
                if len(ahead) > most:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _load(self, line: str) -> Outcome:
        watch = Stopwatch()
        with np.errstate(all="ignore"):  # Numbers too large for a box become findings, not warnings.
            reference = Reference.from_line(line)
            outcome = self.source.load(reference, self.checks)
            if reference.corrections:
                outcome = corrected(outcome, reference.corrections, self.source.categories.names)
        return replace(outcome, seconds=watch.seconds())
