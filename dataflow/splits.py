"""Splits: which images train, and which are kept to judge by.

A scene (`group_id`) falls into a split by the hash of its name, so that frames of one scene never straddle
splits and adding scenes moves none of those already there. A track sequence, which is one scene, is cut by time.
"""

import hashlib
import itertools
import re
from dataclasses import dataclass

from dataflow.errors import UsageError

_NAME = re.compile(r"^[a-z][a-z0-9_]*$")
_RANGE = re.compile(r"^(\d+)-(\d+)$")


@dataclass(frozen=True)
class Fractions:
    """Shares of the scenes, by split name; they add up to 1."""

    shares: tuple[tuple[str, float], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the splits, in the order given."""
        return tuple(name for name, _ in self.shares)


@dataclass(frozen=True)
class FrameRanges:
    """First and last frame number (both inclusive) of each split of a sequence."""

    ranges: tuple[tuple[str, int, int], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the splits, in the order given."""
        return tuple(name for name, _, _ in self.ranges)


Splits = Fractions | FrameRanges
DEFAULT = Fractions((("train", 0.8), ("validation", 0.2)))


def parse_splits(text: str) -> Splits:
    """`train=0.8,validation=0.2` (shares of the scenes) or `train=1-150,validation=151-200` (frames of a sequence).

    Raises:
        UsageError: anything else, shares that do not add up to 1, ranges that overlap.
    """
    fields = [field.partition("=") for field in text.split(",")]
    names = [name.strip() for name, _, _ in fields]
    example = "write for example --splits train=0.8,validation=0.2 or, for frames, train=1-150,validation=151-200"
    for name in names:
        if not _NAME.match(name):
            raise UsageError(f"--splits {text}: {name!r} is no name of a split", example)
    if len(set(names)) != len(names):
        raise UsageError(f"--splits {text}: a split is named twice", example)
    values = [value.strip() for _, _, value in fields]
    matches = [_RANGE.match(value) for value in values]
    if all(matches):
        ranges = tuple((n, int(m[1]), int(m[2])) for n, m in zip(names, matches, strict=True) if m)
        return _checked_ranges(ranges, text)
    try:
        shares = tuple((name, float(value)) for name, value in zip(names, values, strict=True))
    except ValueError as error:
        raise UsageError(f"--splits {text}: neither shares nor frame ranges", example) from error
    if not all(share > 0 for _, share in shares) or abs(sum(share for _, share in shares) - 1) > 1e-6:
        raise UsageError(f"--splits {text}: the shares must be positive and add up to 1", example)
    return Fractions(shares)


def _checked_ranges(ranges: tuple[tuple[str, int, int], ...], text: str) -> FrameRanges:
    ordered = sorted(ranges, key=lambda item: item[1])
    for name, first, last in ordered:
        if first > last:
            raise UsageError(f"--splits {text}: {name} ends before it begins", "write the lower frame first")
    for (name, _, last), (other, first, _) in itertools.pairwise(ordered):
        if first <= last:
            raise UsageError(f"--splits {text}: {name} and {other} share frames", "give each frame to one split")
    return FrameRanges(ranges)


def unit_hash(*parts: str | int) -> float:
    """A number in [0, 1) that depends on `parts` alone, the same on every machine."""
    text = "\0".join(str(part) for part in parts)
    # Surrogates stand for the bytes of file names that are no UTF-8.
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    # 53 bits are what a float64 holds exactly: more would round up to 1.0 once in a while.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2.0**53


def split_of_group(group_id: str, fractions: Fractions, seed: int) -> str:
    """The split of a scene: its hash in [0, 1) falls into one of the shares laid end to end."""
    point = unit_hash("split", seed, group_id)
    for name, share in fractions.shares[:-1]:
        if point < share:
            return name
        point -= share
    return fractions.names[-1]


def split_of_frame(frame: int, ranges: FrameRanges) -> str | None:
    """The split whose range holds this frame number, or None."""
    return next((name for name, first, last in ranges.ranges if first <= frame <= last), None)
