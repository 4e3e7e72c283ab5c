"""Pictures that look alike on two sides of a split: pairs of hashes that differ in few bits, among millions.

Two hashes of 128 bits that differ in at most 7 agree in one of 8 bands of 16 bits (the pigeonhole principle, as in
Manku, Jain and Das Sarma 2007, section 3): only pictures that agree in a band are compared.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Of 128 bits: re-encoded and resized copies of a photograph differ in fewer, other photographs in more.
NEAR_BITS = 7
_BANDS = 8
# Where many pictures are alike (a camera that stands still), so many look-alikes of one picture say enough.
ENOUGH = 8
# Comparisons in a band that may be made to be complete: about a second. Groups that would need more (white pages
# agree in whole bands) are sorted by their looks, and each of their pictures is compared with so many next to it.
_BUDGET = 50_000_000
_NEXT = 64

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LookAlikes:
    """Pairs (P, 2) of indices, each pair once, the lower index first, sorted.

    Every picture that has look-alikes is in a pair, and those with fewer than `ENOUGH` of them are in all their pairs,
    unless the search was cut short. `are_all`: no other pair exists.
    """

    pairs: Indices
    are_all: bool


def look_alikes(looks: Hashes, splits: Indices, scenes: Indices, contents: Hashes) -> LookAlikes:
    """Pictures of different splits, scenes and contents whose looks (N, 2) differ in at most `NEAR_BITS` bits.

    A look of 0 is none. Time and memory are bounded by the number of pictures, however many of them are alike:
    pictures with `ENOUGH` look-alikes are compared with one another no more, and groups beyond the budget are not
    searched in full.
    """
    search = _Search(looks, splits, scenes, contents)
    known = np.flatnonzero(looks.any(axis=1))
    for band in range(_BANDS if len(known) else 0):
        search.search_band(known, band)
    return search.found()


class _Search:
    """The pairs found so far, band after band."""

    def __init__(self, looks: Hashes, splits: Indices, scenes: Indices, contents: Hashes) -> None:
        self._looks, self._splits, self._scenes, self._contents = looks, splits, scenes, contents
        self._bands = np.ascontiguousarray(looks).view(np.uint16).reshape(-1, _BANDS)
        self._found: list[Indices] = []
        self._counts = np.zeros(len(looks), np.int64)
        """Look-alikes found of each picture; more are sought below `ENOUGH`."""
        self._in_full = np.zeros((len(looks), _BANDS), np.bool_)
        """Whether a picture was compared with all that agree with it in a band."""
        self._cut_short = False

    def found(self) -> LookAlikes:
        """What was found."""
        pairs = np.unique(np.sort(np.concatenate([np.zeros((0, 2), np.int64), *self._found]), axis=1), axis=0)
        return LookAlikes(pairs, not self._cut_short and bool((self._counts < ENOUGH).all()))

    def search_band(self, known: Indices, band: int) -> None:
        """Compare the pictures that agree in a band."""
        # Pictures of one key in an order that has nothing to do with their splits.
        members = known[np.lexsort((self._contents[known], self._bands[known, band]))]
        keys = self._bands[members, band]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        sizes = np.diff(np.r_[starts, len(keys)])
        splits = self._splits[members]
        is_mixed = np.minimum.reduceat(splits, starts) != np.maximum.reduceat(splits, starts)
        costs = np.where(is_mixed, sizes * (sizes - 1) // 2, 0)
        by_cost = np.argsort(costs, kind="stable")
        in_full = np.zeros(len(sizes), np.bool_)
        in_full[by_cost] = np.cumsum(costs[by_cost]) <= _BUDGET
        self._compare(members, np.repeat(np.where(is_mixed & in_full, starts + sizes, 0), sizes), band, len(members))
        self._in_full[members, band] = np.repeat(in_full, sizes)
        for group in np.flatnonzero(~in_full).tolist():
            inside = members[starts[group] : starts[group] + sizes[group]]
            # What is alike comes together: by the bands behind this one, which agrees, and then by those before it.
            others = [self._bands[inside, (band + i) % _BANDS] for i in range(_BANDS - 1, 0, -1)]
            together = inside[np.lexsort((self._contents[inside], *others))]
            self._compare(together, np.full(len(together), len(together), np.int64), band, _NEXT)
            self._cut_short = True

    def _compare(self, members: Indices, ends: Indices, band: int, reach: int) -> None:
        """Each member with those up to `reach` places behind it and before place `ends` of it."""
        places = np.flatnonzero(ends)
        for distance in range(1, reach + 1):
            places = places[ends[places] > places + distance]
            if not len(places):
                return
            a, b = members[places], members[places + distance]
            wanted = self._splits[a] != self._splits[b]
            wanted &= (self._counts[a] < ENOUGH) | (self._counts[b] < ENOUGH)
            a, b = a[wanted], b[wanted]
            bits = np.bitwise_count(self._looks[a] ^ self._looks[b]).sum(axis=1)
            near = (bits <= NEAR_BITS) & (self._scenes[a] != self._scenes[b])
            near &= self._contents[a] != self._contents[b]
            if near.any():
                self._add(a[near], b[near], band)
                if (self._counts[members] >= ENOUGH).all():
                    return

    def _add(self, a: Indices, b: Indices, band: int) -> None:
        """Note pairs that were not compared in a band before this one."""
        agree = (self._bands[a, :band] == self._bands[b, :band]) & self._in_full[a, :band]
        a, b = a[~agree.any(axis=1)], b[~agree.any(axis=1)]
        np.add.at(self._counts, np.r_[a, b], 1)
        self._found.append(np.stack([a, b], axis=1))
