"""COCO's greedy matching of detections with objects, for all images, thresholds and sizes of objects together.

Within an image and a class, detections take their turn by falling score, and each takes the free object that it
overlaps most, if the overlap reaches the threshold (Lin et al. 2014; `COCOeval.evaluateImg`). Groups do not touch each
other, so the first detections of all of them take their turn at once, then the second, and so on. Only pairs that
overlap enough for the lowest threshold are looked at.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from trainers.evaluation.overlaps import Flags, Floats, Ints, coco_overlaps, pair_parts

UNMATCHED, RIGHT, IGNORED = 0, 1, 2
# Above all places of pairs in a part, and far from the limit of int32.
_COUNTS = np.int32(2**30)


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of all images: `image` (N,) not falling, `category` (N,), `coco` (N, 4) xywh px."""

    image: Ints
    category: Ints
    coco: npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Claims:
    """What became of those C detections that overlap anything enough; all others are unmatched.

    `detection` (C,) flat index, rising; for T thresholds and A area ranges, `outcome` (T, A, C) int8 (`UNMATCHED`,
    `RIGHT`, or `IGNORED`: taken by a crowd region or an object out of range), `found` (T, A, C) flat index of the
    object or -1, `overlap` (T, A, C) with it or NaN.
    """

    detection: Ints
    outcome: npt.NDArray[np.int8]
    found: npt.NDArray[np.int32]
    overlap: Floats


def claim(
    detections: Boxes,
    group: Ints,
    rank: Ints,
    objects: Boxes,
    object_group: Ints,
    *,
    crowd: Flags,
    ignored: Flags,
    thresholds: Floats,
    shares: Flags | None = None,
) -> Claims:
    """Match detections with the objects of their group.

    Args:
        detections: P of them.
        group: (P,) what each belongs to, within its image.
        rank: (P,) place of each in its group by falling score, see `rank_in_group`.
        objects: G of them.
        object_group: (G,).
        crowd: (G,) regions that any number of detections may lie in.
        ignored: (A, G) what does not count, by area range; crowd regions never do.
        thresholds: (T,) rising.
        shares: (G,) objects whose overlap is the share of the detection that lies in them; by default the crowd.
    """
    limits = np.minimum(thresholds, 1 - 1e-10)  # As pycocotools has it.
    rules = _Rules(crowd, ignored, limits)
    parts = []
    for i, j in pair_parts(group, object_group, detections.image):
        overlap = coco_overlaps(detections.coco[i], objects.coco[j], (crowd if shares is None else shares)[j])
        near = overlap >= limits[0]
        parts.append(_claim_part(_Pairs(i[near], j[near], overlap[near]), rank, group, rules))
    empty = np.zeros((len(limits), len(ignored), 0))
    return Claims(
        np.concatenate([np.zeros(0, np.int64), *(part.detection for part in parts)]),
        np.concatenate([empty.astype(np.int8), *(part.outcome for part in parts)], axis=2),
        np.concatenate([empty.astype(np.int32), *(part.found for part in parts)], axis=2),
        np.concatenate([empty, *(part.overlap for part in parts)], axis=2),
    )


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Detections and objects that overlap, by their flat indices; ordered by detection and then by object."""

    detection: Ints
    object: Ints
    overlap: Floats


@dataclass(frozen=True, eq=False)
class _Rules:
    """What `claim` is told of the objects, and the least overlaps (T,)."""

    crowd: Flags
    ignored: Flags
    limits: Floats


def _claim_part(pairs: _Pairs, rank: Ints, group: Ints, rules: _Rules) -> Claims:
    """The claims of some whole groups."""
    j, overlap, limits = pairs.object, pairs.overlap, rules.limits
    claimants, of_claimant = np.unique(pairs.detection, return_inverse=True)
    # Within a detection by overlap, ties as they come: the last that is free is the one to take.
    by_overlap = np.lexsort((overlap, of_claimant))
    of_claimant, j, overlap = of_claimant[by_overlap], j[by_overlap], overlap[by_overlap]
    turn = _turns(group[claimants], rank[claimants])
    by_turn = np.argsort(turn[of_claimant], kind="stable")
    of_claimant, j, overlap = of_claimant[by_turn], j[by_turn], overlap[by_turn]
    rounds = np.searchsorted(turn[of_claimant], np.arange(turn.max(initial=-1) + 2))
    shape = (len(limits), len(rules.ignored), len(claimants))
    outcome = np.zeros(shape, np.int8)
    chosen = np.full(shape, -1, np.int32)
    objects, local = np.unique(j, return_inverse=True)
    taken = np.zeros((*shape[:2], len(objects)), np.bool_)
    for start, end in pairwise(rounds):
        part = slice(start, end)
        here = j[part]
        free = ~taken[:, :, local[part]] | rules.crowd[here]
        free &= (overlap[part] >= limits[:, None])[:, None, :]
        worth = np.where(rules.ignored[:, here], 0, _COUNTS) + np.arange(1, end - start + 1, dtype=np.int32)
        starts = np.flatnonzero(np.diff(of_claimant[part], prepend=-1))
        best = np.maximum.reduceat(np.where(free, worth, 0), starts, axis=2)
        who = of_claimant[part][starts]
        got = best > 0
        outcome[:, :, who] = np.where(best > _COUNTS, np.int8(RIGHT), np.int8(IGNORED)) * got
        pair = (best & (_COUNTS - 1)) + np.int32(start - 1)
        chosen[:, :, who] = np.where(got, pair, np.int32(-1))
        t, a, d = np.nonzero(got)
        taken[t, a, local[pair[t, a, d]]] = True
    # -1 leads to what is appended.
    return Claims(claimants, outcome, np.append(j, -1).astype(np.int32)[chosen], np.append(overlap, np.nan)[chosen])


def _turns(group: Ints, rank: Ints) -> Ints:
    """(C,) whether each is the first, second, ... of those of its group that claim anything."""
    order = np.lexsort((rank, group))
    ordered = group[order]
    turn = np.empty(len(group), np.int64)
    turn[order] = np.arange(len(group)) - np.searchsorted(ordered, ordered)
    return turn
