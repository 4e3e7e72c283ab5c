"""Sources with which something goes wrong on a worker, half-way; shared by the tests of this machine and of engines."""

import time
from dataclasses import dataclass
from pathlib import Path

from dataflow.records import Categories
from dataflow.schema import Kind
from dataflow.shards import Outcome
from tfds_builders.sources.source import Checks, Listing, Reference, Source


@dataclass(frozen=True)
class Around:
    """A source that does as another."""

    inner: Source

    @property
    def root(self) -> Path:
        return self.inner.root

    @property
    def kind(self) -> Kind:
        return self.inner.kind

    @property
    def categories(self) -> Categories:
        return self.inner.categories

    def scan(self) -> Listing:
        return self.inner.scan()

    def image_path(self, reference: Reference) -> Path:
        return self.inner.image_path(reference)

    def load(self, reference: Reference, checks: Checks) -> Outcome:
        if checks.level == "decode":  # The plan is made with "header".
            self.before(reference)
        return self.inner.load(reference, checks)

    def before(self, reference: Reference) -> None:
        """What happens before an image is loaded on a worker."""


@dataclass(frozen=True)
class Slow(Around):
    """Each image takes its time."""

    seconds: float

    def before(self, reference: Reference) -> None:
        time.sleep(self.seconds)


@dataclass(frozen=True)
class Poisoned(Around):
    """One image meets a mistake of the program."""

    image_id: str

    def before(self, reference: Reference) -> None:
        if reference.image_id == self.image_id:
            raise ZeroDivisionError(f"poison in {reference.image_id}")


@dataclass(frozen=True)
class Vanishing(Around):
    """The image files go away when the first is wanted, but for those that `kept` begins the id of."""

    kept: str

    def before(self, reference: Reference) -> None:
        for path in (self.root / "images").rglob("*.jpg"):
            if not path.relative_to(self.root / "images").as_posix().startswith(self.kept):
                path.unlink(missing_ok=True)
