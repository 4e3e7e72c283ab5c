"""What a broken source is, and what has to become of it; the sources themselves are in `broken_yolo` and so on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from dataflow.findings import Code, Finding, Policy, Severity
from tests.factories import Thing, photograph, write
from tfds_builders.sources.source import ExifPolicy, Source

BOX = (24.0, 12.0, 40.0, 36.0)
OTHER = (8.0, 6.0, 24.0, 18.0)
CAT, CAT_TOO = Thing(0, BOX), Thing(0, OTHER)
Things = tuple[Thing, ...]


@cache
def picture(seed: int = 2, height: int = 48, width: int = 64, **encoding: Any) -> bytes:
    """A photograph; the one called good has seed 1."""
    return photograph(height, width, seed=seed, quality=90, **encoding)


@dataclass(frozen=True)
class Link:
    """A symbolic link, to be written instead of a file."""

    target: str


FOLDER = object()
"""A folder, to be made instead of a file."""
Files = Mapping[str, Any]
"""By path: text, bytes, a `Link`, `FOLDER`, or None for a file that is not there."""


@dataclass(frozen=True)
class Found:
    """One finding that has to be made, and none but such."""

    code: Code
    file: str
    line: int | str | None = None
    image_id: str | None = "bad"
    severity: Severity = "error"
    mended: bool = False
    """Whether the policy `repair` mends it."""
    when: Literal["always", "kept out", "repair"] = "always"
    """`kept out`: only where the image is not repaired, as of classes that then occur in no image."""

    def place(self, policy: Policy) -> tuple[str, ...] | None:
        """What is compared, or None where it must not be found under this policy."""
        repair = policy == "repair"
        if (self.when == "repair" and not repair) or (self.when == "kept out" and repair):
            return None
        return place(self.code, self.severity, self.file, self.line, self.image_id, self.mended and repair)


def place(*fields: object) -> tuple[str, ...]:
    """Fields of a finding, to be compared and sorted."""
    return tuple(map(str, fields))


def place_of(finding: Finding) -> tuple[str, ...]:
    """What `Found.place` says of it."""
    return place(finding.code, finding.severity, finding.file, finding.line, finding.image_id, bool(finding.repaired))


def warning(code: Code, file: str, line: int | str | None = None, image_id: str | None = "bad", **more: Any) -> Found:
    """A finding that keeps nothing out."""
    return Found(code, file, line, image_id, "warning", **more)


def info(code: Code, file: str = "", line: int | str | None = None, image_id: str | None = None, **more: Any) -> Found:
    """Something worth knowing."""
    return Found(code, file, line, image_id, "info", **more)


@dataclass(frozen=True)
class Case:
    """A broken source.

    `make` writes it below a folder and opens it. `prepared` are the objects of every image that is prepared, by id,
    written by hand; `repaired` those under the policy `repair`, where they are others. `images` is their number, of
    those kept out, too. `sizes` are (height, width) where they are not (48, 64).
    """

    name: str
    make: Callable[[Path], Source]
    found: tuple[Found, ...]
    prepared: Mapping[str, Things]
    repaired: Mapping[str, Things] | None = None
    images: int = 2
    exif: ExifPolicy = "apply"
    splits: str | None = "train=1"
    scenes: str | None = None
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def objects(self, policy: Policy) -> Mapping[str, Things]:
        """The objects of every image that is to be prepared under a policy."""
        return self.repaired if policy == "repair" and self.repaired is not None else self.prepared

    def places(self, policy: Policy) -> list[tuple[str, ...]]:
        """All findings that have to be made."""
        return sorted(found for item in self.found if (found := item.place(policy)) is not None)

    @property
    def is_refused(self) -> bool:
        """Whether the policy `fail` refuses it."""
        return any(found.severity == "error" for found in self.found)


def write_files(root: Path, *layers: Files) -> Path:
    """Write files below `root`; later layers replace what earlier ones say."""
    files = {path: content for layer in layers for path, content in layer.items()}
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = root / name
        if isinstance(content, Link):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(content.target)
        elif content is FOLDER:
            path.mkdir(parents=True)
        elif content is not None:
            write(path, content)
    return root


def truths(good: str, bad: str) -> Callable[[Things | None], Mapping[str, Things]]:
    """What makes the objects by image id: the good image has a cat, the bad one these objects (None: kept out)."""
    return lambda things: {good: (CAT,)} | ({} if things is None else {bad: things})
