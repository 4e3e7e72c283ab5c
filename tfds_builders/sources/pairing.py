"""Frames of a sequence to before/after pairs: what formats with frame numbers and track ids share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from dataflow.errors import UsageError
from dataflow.findings import Code, Finding
from dataflow.records import FramePair, ImageRecord
from dataflow.schema import pair_to_example
from dataflow.shards import Outcome
from tfds_builders.sources.inspection import Inspection
from tfds_builders.sources.moved import Targets, moved_objects
from tfds_builders.sources.source import Reference


@dataclass(frozen=True)
class PairOptions:
    """How frames become pairs: `gap` frames apart, and what counts as having moved.

    Raises:
        UsageError: options that make no sense.
    """

    gap: int
    moved_iou: float = 0.5
    targets: Targets = "both"

    def __post_init__(self) -> None:
        if self.gap < 1:
            raise UsageError(f"--pair-gap {self.gap}", "use 1 or more frames")
        if not 0 < self.moved_iou <= 1:
            raise UsageError(f"--moved-iou {self.moved_iou}", "use a number above 0 and up to 1")


class Numbered(Protocol):
    """A frame: its image file, and its number, or None for an image whose name is no number."""

    @property
    def file(self) -> str:
        """Relative to the source root."""
        ...

    @property
    def number(self) -> int | None:
        """From whatever number the format counts."""
        ...


F = TypeVar("F", bound=Numbered)
# Pairs of a chain that lie in one shard: they have 33 frames, 32 pairs apart would have 64.
_BLOCK = 32


def nameless_frame(file: str) -> Finding:
    """The finding about an image whose name is no number."""
    return Finding(Code.LABEL_MALFORMED, "error", file, "not a frame number", "name frames by number, as 000001.jpg")


def pair_frames(
    frames: Sequence[F], gap: int, split_of: Callable[[F], str | None]
) -> tuple[list[tuple[F, F]], list[Finding]]:
    """Frame i with frame i + `gap`, both of one split, by number; and findings about images that cannot be paired."""
    by_number: dict[int, F] = {}
    findings: list[Finding] = []
    for frame in frames:
        if frame.number is None:
            findings.append(nameless_frame(frame.file))
        elif by_number.setdefault(frame.number, frame) is not frame:
            value = f"frame {frame.number} is {by_number[frame.number].file}"
            findings.append(Finding(Code.DUPLICATE_ID, "error", frame.file, value, "rename or delete one of them"))
    pairs = []
    for number, before in sorted(by_number.items()):
        after = by_number.get(number + gap)
        if after is not None and split_of(before) == split_of(after):
            pairs.append((before, after))
    return pairs, findings


def chain_block(scene: str, number: int, gap: int) -> str:
    """What the pair of frame `number` and the one `gap` later has in common with those it is kept with.

    Pairs (i, i + gap), (i + gap, i + 2 gap) and so on are a chain, in which all frames but the ends serve two; a block
    of a chain is 32 of them. It depends on frame numbers alone, so frames added later move no pair.
    """
    return f"{scene}/chain {number % gap} block {number // gap // _BLOCK}"


def pair_outcome(
    look: Inspection, reference: Reference, before: ImageRecord, after: ImageRecord, options: PairOptions
) -> Outcome:
    """What becomes of a pair of frames with track ids: the objects that moved, appeared or vanished."""
    if before.size != after.size:
        (h0, w0), (h1, w1) = before.size, after.size
        value = f"the before frame is {w0}x{h0} px, the after frame {w1}x{h1} px"
        look.find(Code.SIZE_MISMATCH, after.filename, value, "pair frames of one size")
    if look.refused:
        return look.made(reference, None)
    objects = moved_objects(before.objects, after.objects, options.targets, options.moved_iou)
    return look.made(reference, pair_to_example(FramePair(reference.image_id, before, after, objects)))
