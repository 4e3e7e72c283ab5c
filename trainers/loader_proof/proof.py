"""What the loader (`dataflow.bridge.loader`) promises, proved on one dataset; every promise is a check that can fail.

Every image is decoded and every box goes there and back. Orders are proved on the plans of all visits, which the loader
makes before it reads; that batches show what was planned, and that their pixels are the same again, is proved on the
first batches and on those around the end of the first epoch.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from dataflow.errors import DataRefusedError, ShardboxError, UsageError
from dataflow.prepared import PreparedDataset
from trainers.loader_proof.checks import Check, CheckName, ProofOptions, Subject, check_images
from trainers.loader_proof.streams import (
    Stream,
    check_epochs,
    check_evaluation,
    check_order,
    check_resuming,
    check_threads,
)


@dataclass(frozen=True)
class SplitProof:
    """The checks of the first `images` of a split of `total`. Where its images are not whole, that is the only one."""

    split: str
    images: int
    total: int
    checks: tuple[Check, ...]

    def lines(self) -> Iterator[str]:
        """What was proved, in lines to print."""
        seen = f"the first {self.images} of {self.total}" if self.images < self.total else f"all {self.total}"
        yield f"{self.split}: {seen} images are looked at"
        for check in self.checks:
            yield f"  {'holds' if check.holds else 'FAILS'}: {check.name}: {check.says}"
            yield from (f"    {line}" for line in (*check.failures, *check.notes))
        if len(self.checks) == 1:
            yield "  what else the loader promises was not looked at: its images have to be whole first"

    @property
    def failed(self) -> list[Check]:
        """The promises that were not kept."""
        return [check for check in self.checks if not check.holds]


class NotProvedError(DataRefusedError):
    """A promise of the loader that was not kept. The notes of the error (`add_note`) are all failures."""


@dataclass(frozen=True)
class Proof:
    """What was proved of which dataset with which version of Shardbox."""

    dataset: str
    fingerprint: str
    seed: int
    splits: tuple[SplitProof, ...]
    shardbox: str = field(default_factory=lambda: version("shardbox"))

    def require(self) -> None:
        """Nothing, if every promise was kept.

        Raises:
            NotProvedError: one was not.
        """
        failed = [(proof.split, check) for proof in self.splits for check in proof.failed]
        if not failed:
            return
        notes = [f"{split}: {check.name}: {failure}" for split, check in failed for failure in check.failures]
        more = f" (and {len(notes) - 1} more)" if len(notes) > 1 else ""
        of_data = any(check.name == "images" for _, check in failed)
        error = NotProvedError(
            f"the loader of shardbox {self.shardbox} does not keep its promises on {self.dataset}: {notes[0]}{more}",
            "prepare the dataset again; should these lines come once more, report them"
            if of_data
            else "report it with these lines: the mistake is Shardbox's, not the dataset's",
        )
        for note in notes:
            error.add_note(note)
        raise error

    def summary(self) -> str:
        """What was proved, in a line."""
        seen = (f"{p.split} {p.images}" + (f" of {p.total}" if p.images < p.total else "") for p in self.splits)
        return (
            f"proved: the loader of shardbox {self.shardbox} keeps its promises on {self.dataset} "
            f"({', '.join(seen)} images; fingerprint {self.fingerprint}; seed {self.seed})"
        )

    def to_json(self) -> dict[str, Any]:
        """Its fields, in JSON's types."""
        return asdict(self)


def prove_split(dataset: PreparedDataset, split: str, options: ProofOptions) -> SplitProof:
    """Prove the loader's promises on one split; failures are in the result.

    Raises:
        UsageError: no such split, one without images, a number out of range, shards that cannot be read as such.
    """
    subject = Subject(dataset, dataset.check_split(split), options)
    if subject.images == 0:
        raise UsageError(f"split {split!r} of {dataset.path} has no images", "choose with --split one that has some")
    found, checks = check_images(subject)
    if checks[0].holds:
        streams = [Stream(subject, found, share) for share in subject.placements]
        later: dict[CheckName, Callable[[], Check]] = {
            "evaluation": lambda: check_evaluation(subject, found),
            "epochs": lambda: check_epochs(subject, found),
            "order": lambda: check_order(streams),
            "resuming": lambda: check_resuming(streams),
            "threads": lambda: check_threads(subject),
        }
        checks += [_outcome(name, check) for name, check in later.items()]
    return SplitProof(split, subject.images, dataset.splits[split], tuple(checks))


def _outcome(name: CheckName, check: Callable[[], Check]) -> Check:
    """The check, or that it failed because the loader could not go on: its images are whole, so it should."""
    try:
        return check()
    except UsageError:
        raise
    except ShardboxError as error:
        return Check(name, "batches can be read", {}, (error.message,))
