"""What every source format provides: references to list, and a way to load one on a worker."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dataflow.findings import Finding, printable
from dataflow.records import Categories
from dataflow.schema import Kind
from dataflow.shards import Outcome, place_in_shard


@dataclass(frozen=True)
class Reference:
    """One example to be: enough to load it on any worker, small enough to shuffle a million of them."""

    image_id: str
    group_id: str
    num_bytes: int
    """Size of its image files, from which the number of shards follows."""
    payload: Any
    """What the format needs to load it."""
    file: str = ""
    """Its image file relative to the source root, for findings."""
    split: str | None = None
    """The split the source itself puts it in."""

    def __post_init__(self) -> None:
        for name in ("image_id", "group_id", "file"):
            object.__setattr__(self, name, printable(getattr(self, name)))


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

    def load(self, reference: Reference, repair: bool) -> Outcome:
        """Read, check and convert one image (or pair); what can be repaired is, when `repair`."""
        ...


@dataclass(frozen=True)
class Loader:
    """The references of one shard to outcomes, in their place order. Runs on workers."""

    source: Source
    repair: bool

    def __call__(self, references: Any) -> Iterator[Outcome]:
        """One outcome per reference."""
        for reference in sorted(references, key=lambda reference: place_in_shard(reference.image_id)):
            with np.errstate(all="ignore"):  # Numbers too large for a box become findings, not warnings.
                outcome = self.source.load(reference, self.repair)
            yield outcome
