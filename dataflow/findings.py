"""Findings: what is wrong with a source, where, and what to do about it; and the audit that counts them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
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


class Code(StrEnum):
    """What can be found in a source. A code never changes its meaning, so that tools may filter by it."""

    IMAGE_MISSING = "image-missing"
    IMAGE_UNREADABLE = "image-unreadable"
    IMAGE_OUTSIDE_ROOT = "image-outside-root"
    SIZE_MISMATCH = "size-mismatch"
    DUPLICATE_ID = "duplicate-image-id"
    LABEL_MISSING = "label-missing"
    LABEL_WITHOUT_IMAGE = "label-without-image"
    LABEL_MALFORMED = "label-malformed"
    CLASS_UNKNOWN = "class-unknown"
    BOX_NOT_FINITE = "box-not-finite"
    BOX_EMPTY = "box-empty"
    BOX_OUTSIDE = "box-outside-image"
    BOX_CLIPPED = "box-clipped"
    SPLIT_MISSING = "split-missing"


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

    def __post_init__(self) -> None:
        for name in ("file", "value"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        state = " (repaired)" if self.repaired else ""
        return f"{place}: {self.code}: {self.value}; {self.remedy}{state}"


@dataclass(frozen=True)
class Audit:
    """What became of a source: every image is prepared or quarantined, and every problem is listed."""

    images_prepared: int
    images_quarantined: int
    findings: tuple[Finding, ...]
    quarantined: tuple[str, ...]
    """Ids of the images that were kept out, sorted."""

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
            "findings": [asdict(finding) for finding in self.findings],
        }


def sorted_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings by file, line and code, whatever order workers reported them in."""

    def key(finding: Finding) -> tuple[str, int, str, str, str]:
        line = finding.line
        number, pointer = (line, "") if isinstance(line, int) else (0, line or "")
        return finding.file, number, pointer, finding.code, finding.value

    return tuple(sorted(findings, key=key))
