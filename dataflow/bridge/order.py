"""In which order the examples of a split are visited: plain arithmetic, the same for every way of reading shards.

Shards are read fastest from front to back, several at a time, and training wants its examples mixed. So a rank's share
of an epoch (the shards in an order of that epoch, laid end to end and cut into equal parts) is cut into *lanes*, which
are read side by side, one example of each in turn; and each *window* of examples so read is shuffled before they are
visited. To go on at any example, a reader starts its lanes at the window that holds it: nothing else is read again.

Every order comes from hashes of (seed, epoch, rank, world size), which no library version changes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
MAX_LANES = 16
_NONE: Indices = np.zeros(0, np.int64)


class Run(NamedTuple):
    """Consecutive examples of one shard."""

    shard: int
    first: int
    length: int


Runs = tuple[Run, ...]


@dataclass(frozen=True, eq=False)
class ReadPlan:
    """What a reader reads, and the order in which it hands that on.

    `lanes` are read in turn, one example of each, until all are exhausted. `visits` (n,) int64 are all those examples
    in visiting order, as indices into the split (0 is the first example of its first shard); the first `skip` of them
    were visited before and are passed over.
    """

    lanes: tuple[Runs, ...]
    visits: Indices
    skip: int = 0


@dataclass(frozen=True)
class Share:
    """The part of one rank among `world_size` ranks, of all examples or of those `within` a start and a stop."""

    rank: int = 0
    world_size: int = 1
    within: tuple[int, int] | None = None

    def bounds(self, total: int) -> tuple[int, int]:
        """Start and stop of this rank's part of `total` examples; the parts are disjoint, complete and even."""
        start, stop = self.within or (0, total)
        n = stop - start
        return start + n * self.rank // self.world_size, start + n * (self.rank + 1) // self.world_size

    def size(self, total: int) -> int:
        """Number of examples of this rank."""
        start, stop = self.bounds(total)
        return stop - start


def sequential_plan(counts: Sequence[int], share: Share, start: int = 0) -> ReadPlan:
    """One pass over a rank's share in shard order, from its example `start` on; `counts` are the examples by shard."""
    low, high = share.bounds(sum(counts))
    runs = _cut(_whole(counts, range(len(counts))), low + start, high)
    return ReadPlan(lanes=(runs,), visits=np.arange(min(low + start, high), high))


def shuffled_plan(
    counts: Sequence[int], share: Share, *, seed: int, epoch: int, window: int, start: int = 0
) -> ReadPlan:
    """One epoch of a rank's share in shuffled order, from its example `start` on.

    `counts` are the examples by shard; about `window` examples are shuffled at a time.
    """
    shards = _shuffled(np.arange(len(counts)), "shards", seed, epoch)
    runs = _cut(_whole(counts, shards.tolist()), *share.bounds(sum(counts)))
    total = sum(run.length for run in runs)
    n_lanes = max(1, min(MAX_LANES, len(runs)))
    depth = max(1, window // n_lanes)  # examples of one lane in a window
    lanes = [_cut(runs, total * i // n_lanes, total * (i + 1) // n_lanes) for i in range(n_lanes)]
    passed = start // (depth * n_lanes)  # windows wholly visited before
    lanes = [_cut(lane, passed * depth, total) for lane in lanes]

    offsets = np.concatenate([[0], np.cumsum(counts)])
    table = np.full((n_lanes, max(sum(run.length for run in lane) for lane in lanes)), -1)
    for row, lane in zip(table, lanes, strict=True):
        indices = [np.arange(run.first, run.first + run.length) + offsets[run.shard] for run in lane]
        row[: sum(map(len, indices))] = np.concatenate([_NONE, *indices])
    turns = np.broadcast_to(np.arange(table.shape[1]), table.shape)
    read = table >= 0
    visits = table[read]
    hashes = _hashes(visits, "examples", seed, epoch, share.rank, share.world_size)
    by_window = np.lexsort((hashes, turns[read] // depth))
    return ReadPlan(
        lanes=tuple(lane for lane in lanes if lane),
        visits=visits[by_window],
        skip=start - passed * depth * n_lanes,
    )


def times_visited(visits: Sequence[Indices], total: int) -> Indices:
    """How often each of `total` examples comes among all of `visits`; (total,) int64, longer where one is beyond."""
    return np.bincount(np.concatenate([_NONE, *visits]), minlength=total)


def _whole(counts: Sequence[int], shards: Sequence[int]) -> Runs:
    """All examples of these shards."""
    return tuple(Run(shard, 0, counts[shard]) for shard in shards if counts[shard])


def _cut(runs: Runs, start: int, stop: int) -> Runs:
    """The examples `start` to `stop` of runs laid end to end."""
    parts = []
    position = 0
    for run in runs:
        low, high = max(start - position, 0), min(stop - position, run.length)
        if low < high:
            parts.append(Run(run.shard, run.first + low, high - low))
        position += run.length
    return tuple(parts)


def _hashes(values: Indices, *key: str | int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each value under a key: the mixing function of SplitMix64 (Steele et al. 2014, figure 17)."""
    digest = hashlib.sha256("\0".join(str(part) for part in key).encode()).digest()
    # Unsigned arithmetic of numpy arrays wraps round, which is what the function asks for.
    z = values.astype(np.uint64) + np.frombuffer(digest, np.uint64, 1)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _shuffled(values: Indices, *key: str | int) -> Indices:
    """`values` by their hashes under a key."""
    return values[np.argsort(_hashes(values, *key), kind="stable")]
