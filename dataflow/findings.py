"""Findings: what is wrong with a source, where, and what to do about it; and the audit that counts them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
Policy = Literal["fail", "quarantine", "repair"]


def printable(text: str) -> str:
    """`text` itself; what stands in it for bytes that are no UTF-8 (in file names) becomes escapes such as \\xe9."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # A lone surrogate of a JSON escape stands for no byte.
        return text.encode("utf-8", "backslashreplace").decode()


_LINE_ENDS_AND_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


def one_line(text: str) -> str:
    """`text` with its line ends, and what else commands a terminal, as escapes such as \\n."""
    return text.translate(_LINE_ENDS_AND_CONTROLS)


class Code(StrEnum):
    """What can be found in a source. A code never changes its meaning, so that tools may filter by it."""

    # The image file
    IMAGE_MISSING = "image-missing"
    IMAGE_EMPTY = "image-empty"
    IMAGE_UNREADABLE = "image-unreadable"
    IMAGE_TRUNCATED = "image-truncated"
    IMAGE_UNSUPPORTED = "image-unsupported"
    IMAGE_TYPE = "image-type-mismatch"
    IMAGE_OUTSIDE_ROOT = "image-outside-root"
    EXIF_ORIENTATION = "exif-orientation"
    SIZE_MISMATCH = "size-mismatch"
    # Which image is which
    DUPLICATE_ID = "duplicate-image-id"
    LISTED_TWICE = "image-listed-twice"
    DUPLICATE_CONTENT = "duplicate-content"
    NEAR_DUPLICATE = "near-duplicate"
    # Labels
    LABEL_MISSING = "label-missing"
    LABEL_EMPTY = "label-empty"
    LABEL_WITHOUT_IMAGE = "label-without-image"
    LABEL_MALFORMED = "label-malformed"
    OBJECT_TWICE = "object-twice"
    IGNORE_REGION = "ignore-region"
    # What people corrected
    LABEL_CORRECTED = "label-corrected"
    LABEL_SUSPECT = "label-suspect"
    IMAGE_EXCLUDED = "image-excluded"
    CORRECTION_STALE = "correction-stale"
    # Classes
    CLASS_UNKNOWN = "class-unknown"
    CLASS_UNUSED = "class-unused"
    CLASS_NAMED_TWICE = "class-named-twice"
    CLASS_IDS_SHIFTED = "class-ids-shifted"
    # Boxes
    BOX_NOT_FINITE = "box-not-finite"
    BOX_EMPTY = "box-empty"
    BOX_OUTSIDE = "box-outside-image"
    BOX_CLIPPED = "box-clipped"
    BOX_UNITS = "box-units"
    BOX_TURNED = "box-fits-turned-image"
    BOX_ABSURD = "box-absurd"
    # Pairs
    PAIR_UNALIGNED = "pair-not-aligned"
    # Splits
    SPLIT_MISSING = "split-missing"
    SPLIT_LEAK = "scene-in-two-splits"
    SPLIT_UNBALANCED = "class-not-in-split"


@dataclass(frozen=True)
class Finding:
    """One problem of a source. An `error` keeps its image out of the shards unless it could be repaired."""

    code: Code
    severity: Severity
    file: str
    value: str
    remedy: str
    line: int | str | None = None
    """Line number of a text file, or the JSON pointer."""
    image_id: str | None = None
    repaired: bool = False
    box: tuple[float, float, float, float] | None = None
    """The box it is about, xyxy px of the upright image as far as it could be read; `audit.html` draws it."""

    def __post_init__(self) -> None:
        for name in ("file", "value"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        state = " (repaired)" if self.repaired else ""
        return one_line(f"{place + ': ' if place else ''}{self.code}: {self.value}; {self.remedy}{state}")


@dataclass(frozen=True)
class Audit:
    """What became of a source: every image is prepared or quarantined, and every problem is listed."""

    images_prepared: int
    images_quarantined: int
    findings: tuple[Finding, ...]
    quarantined: tuple[str, ...]
    """Ids of the images that were kept out, sorted."""
    quarantined_files: Mapping[str, str] = field(default_factory=dict)
    """Their image files relative to the source, by id, where there are any."""

    def __post_init__(self) -> None:
        assert len(self.quarantined) == self.images_quarantined

    @property
    def images_in(self) -> int:
        """Images found in the source."""
        return self.images_prepared + self.images_quarantined

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that kept something out."""
        return tuple(f for f in self.findings if f.severity == "error" and not f.repaired)

    def counts(self) -> dict[str, int]:
        """Number of findings by code, sorted by code."""
        return dict(sorted(Counter(str(finding.code) for finding in self.findings).items()))

    def to_json(self) -> dict[str, Any]:
        """The content of `audit.json`."""
        return {
            "images_in": self.images_in,
            "images_prepared": self.images_prepared,
            "images_quarantined": self.images_quarantined,
            "counts": self.counts(),
            "quarantined": list(self.quarantined),
            "quarantined_files": dict(sorted(self.quarantined_files.items())),
            "findings": [asdict(finding) for finding in self.findings],
        }


def sorted_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings by file, line and code, whatever order workers reported them in."""

    def key(finding: Finding) -> tuple[str, int, str, str, str]:
        line = finding.line
        number, pointer = (line, "") if isinstance(line, int) else (0, line or "")
        return finding.file, number, pointer, finding.code, finding.value

    return tuple(sorted(findings, key=key))
