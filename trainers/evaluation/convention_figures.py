"""Average precision under any `Convention`, from boxes.

What does not change between conventions is kept, since a search tries hundreds of them: a score cut, a limit on
detections and what is made of equal scores leave a greedy matching as it is, so matchings differ only by crowd, boxes,
ids, classes, thresholds and sizes; and the order of detections by class and score differs only by ids and classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from dataflow.boxes import xyxy_to_coco
from dataflow.records import ImageRecord, Predictions
from trainers.evaluation.conventions import Convention, Figure
from trainers.evaluation.greedy import IGNORED, RIGHT, UNMATCHED, Boxes, claim
from trainers.evaluation.overlaps import Flags, Floats, Ints, coco_overlaps, pair_parts, rank_in_group

_AREAS: Mapping[Figure, tuple[float, float]] = {"APs": (0, 32**2), "APm": (32**2, 96**2), "APl": (96**2, 1e10)}
_EVERY_AREA = (0.0, 1e10)
_PLACE: Mapping[Figure, slice] = {"AP50": slice(0, 1), "AP75": slice(5, 6)}


@dataclass(frozen=True, eq=False)
class _Things:
    """Objects or detections, flat: `image`, `category` (N,), `boxes` (N, 4) xyxy px float64."""

    image: Ints
    category: Ints
    boxes: Floats


@dataclass(frozen=True, eq=False)
class _Matched:
    """What became of those C detections that overlap an object enough; all others are unmatched.

    `detection` (C,) in the order of their turns, `outcome` (T, C) as `Claims` has it; `outside` (P,) detections whose
    size does not count if they are unmatched, None where all sizes do; `objects` (K,) that count, by class.
    """

    detection: Ints
    outcome: npt.NDArray[np.int8]
    outside: Flags | None
    objects: Ints


@dataclass(frozen=True, eq=False)
class _Order:
    """The P detections by class and falling score: `turns` (P,) their turns, `first` (P,) the place of the first of
    equal class and score, `edges` (K + 1,) where the classes begin; `rank` the rank of each turn in its image and
    class, and in its image.
    """

    turns: Ints
    first: Ints
    edges: Ints
    rank: Mapping[str, Ints]


class ConventionFigures:
    """The figures of one set of predictions under conventions.

    Args:
        truths: the images (their bytes are not needed), in the order that settles ties.
        predictions: by image id, one for each of `truths`.
        categories: number of classes.
    """

    def __init__(self, truths: Sequence[ImageRecord], predictions: Mapping[str, Predictions], categories: int) -> None:
        found = [predictions[record.image_id] for record in truths]
        objects = [record.objects for record in truths]
        self._categories = categories
        self._objects = _flat([(o.category_ids, o.boxes) for o in objects])
        self._crowd = np.concatenate([np.zeros(0, np.bool_), *(o.is_crowd for o in objects)])
        self._areas = np.concatenate([np.zeros(0), *(o.areas for o in objects)])
        detections, scores = (
            _flat([(p.category_ids, p.boxes) for p in found]),
            np.concatenate([np.zeros(0, np.float32), *(p.scores for p in found)]),
        )
        # By image, in an image by falling score: the order in which detections take their turn.
        turn = np.lexsort((-scores, detections.image))
        self._scores = scores[turn]
        self._detections = _Things(detections.image[turn], detections.category[turn], detections.boxes[turn])
        self._orders: dict[tuple[object, ...], _Order] = {}
        self._matched: dict[tuple[object, ...], _Matched] = {}
        self._figures: dict[tuple[Convention, Figure], float | None] = {}

    def figures(self, convention: Convention, names: Sequence[Figure]) -> dict[Figure, float | None]:
        """The figures of these names; None where there are no such objects."""
        for name in names:
            if (convention, name) not in self._figures:
                self._figures[convention, name] = self._figure(convention, name)
        return {name: self._figures[convention, name] for name in names}

    def _figure(self, convention: Convention, name: Figure) -> float | None:
        matched, order = self._match(convention, _AREAS.get(name, _EVERY_AREA)), self._order(convention)
        kept = self._scores >= np.float32(convention.score_cut)
        if convention.max_detections is not None:
            kept &= order.rank[convention.max_detections.of] < convention.max_detections.number
        thresholds = range(len(matched.outcome))[_PLACE.get(name, slice(None))]
        classes = np.flatnonzero(matched.objects).tolist()
        areas = np.zeros((len(classes), len(thresholds)))
        for column, t in enumerate(thresholds):
            counted, right = _counted(matched, t, kept)
            running = np.append(0, np.cumsum(counted[order.turns]))
            places = np.flatnonzero(right[order.turns])
            ranks = running[places + 1]
            if convention.ties == "right first":
                first = order.first[places]
                ranks = running[first] + np.arange(1, len(first) + 1) - np.searchsorted(first, first)
            edges, before = np.searchsorted(places, order.edges), running[order.edges]
            for row, k in enumerate(classes):
                own = ranks[edges[k] : edges[k + 1]] - before[k]
                areas[row, column] = _area(own, int(before[k + 1] - before[k]), int(matched.objects[k]), convention)
        if convention.classes == "mean, absent as 0" and self._categories:
            return float(np.sum(areas) / (self._categories * len(thresholds)))
        return float(np.mean(areas)) if classes else None

    def _numbered(self, convention: Convention) -> Ints:
        """(P,) the classes of detections."""
        if convention.classes == "as one":
            return np.zeros_like(self._detections.category)
        return self._detections.category + {"classes one up": 1, "classes one down": -1}.get(convention.ids, 0)

    def _order(self, convention: Convention) -> _Order:
        key = (convention.ids, convention.classes == "as one")
        if key not in self._orders:
            category, image, scores = self._numbered(convention), self._detections.image, self._scores
            turns = rank_in_group(category + 1, scores)[0]
            ordered, falling = category[turns], scores[turns]
            begins = np.append(True, (np.diff(ordered) != 0) | (np.diff(falling) != 0))[: len(turns)]
            first = np.maximum.accumulate(np.where(begins, np.arange(len(turns)), 0))
            groups = {"image": image, "image and class": image * (self._categories + 2) + category + 1}
            rank = {name: rank_in_group(group, scores)[1] for name, group in groups.items()}
            edges = np.searchsorted(ordered, np.arange(self._categories + 1))
            self._orders[key] = _Order(turns, first, edges, rank)
        return self._orders[key]

    def _match(self, convention: Convention, areas: tuple[float, float]) -> _Matched:
        c = convention
        key: tuple[object, ...] = (c.crowd, c.boxes, c.ids, c.matching, c.classes == "as one", c.thresholds, areas)
        key += (c.areas,) if areas != _EVERY_AREA else ()
        if key not in self._matched:
            self._matched[key] = self._match_anew(convention, areas)
        return self._matched[key]

    def _match_anew(self, convention: Convention, areas: tuple[float, float]) -> _Matched:
        there = ~self._crowd if convention.crowd == "left out" else np.ones(len(self._crowd), np.bool_)
        crowd = self._crowd[there] & convention.crowd.startswith("ignored")
        object_category = self._objects.category[there]
        if convention.classes == "as one":
            object_category = np.zeros_like(object_category)
        boxes = _corners(self._detections.boxes, convention, detections=True)
        object_boxes = _corners(self._objects.boxes[there], convention, detections=False)
        sizes = self._areas[there] if convention.areas == "annotated" else object_boxes[:, 2] * object_boxes[:, 3]
        ignored = crowd | (sizes < areas[0]) | (sizes > areas[1])
        outside = None
        if areas != _EVERY_AREA:
            detected_sizes = boxes[:, 2] * boxes[:, 3]
            outside = (detected_sizes < areas[0]) | (detected_sizes > areas[1])
        detection, outcome, found = _assign(
            Boxes(self._detections.image, self._numbered(convention), boxes),
            Boxes(self._objects.image[there], object_category, object_boxes),
            self._scores,
            crowd=crowd,
            ignored=ignored,
            convention=convention,
        )
        if convention.ids == "first object lost":
            outcome[(found == 0) & (outcome == RIGHT)] = UNMATCHED
        objects = np.bincount(object_category[~ignored], minlength=self._categories)
        return _Matched(detection, outcome, outside, objects)


def _counted(matched: _Matched, threshold: int, kept: Flags) -> tuple[Flags, Flags]:
    """Which of the detections that are kept (P,) count, and which are right, in the order of their turns."""
    outcome = matched.outcome[threshold]
    counted = kept.copy() if matched.outside is None else kept & ~matched.outside
    counted[matched.detection[outcome == IGNORED]] = False
    found = matched.detection[outcome == RIGHT]
    counted[found] = kept[found]
    right = np.zeros_like(kept)
    right[found] = kept[found]
    return counted, right


def _flat(items: Sequence[tuple[Ints, npt.NDArray[np.float32]]]) -> _Things:
    image = np.repeat(np.arange(len(items)), [len(categories) for categories, _ in items])
    category = np.concatenate([np.zeros(0, np.int64), *(categories for categories, _ in items)])
    boxes = np.concatenate([np.zeros((0, 4)), *(boxes for _, boxes in items)])
    return _Things(image, category, boxes.astype(np.float64))


def _corners(boxes: Floats, convention: Convention, *, detections: bool) -> Floats:
    """Xyxy boxes (N, 4) as the convention takes them: left, top, width, height, float64."""
    how = convention.boxes
    if how == "all rounded" or (how == "detections rounded" and detections):
        boxes = np.round(boxes)
    elif how == "detections truncated" and detections:
        boxes = np.floor(boxes)
    elif how == "shifted" and detections:
        boxes = boxes + 1
    coco = xyxy_to_coco(boxes).astype(np.float64)
    coco[:, 2:] += how == "inclusive"
    return coco


@cache
def _spaced(start: float, stop: float, count: int, precision: Literal["double", "single"]) -> Floats:
    """Thresholds as numpy spaces them, or as torch does in single precision, from both ends."""
    if precision == "double":
        return np.linspace(start, stop, count)
    # The step is rounded, its multiples are added and then rounded once.
    step = np.float64((np.float32(stop) - np.float32(start)) / np.float32(count - 1))
    places = np.arange(count)
    spaced = np.where(places < count // 2, np.float32(start) + step * places, np.float32(stop) - step * places[::-1])
    single: Floats = spaced.astype(np.float32).astype(np.float64)
    return single


def _assign(
    detections: Boxes,
    objects: Boxes,
    scores: npt.NDArray[np.float32],
    *,
    crowd: Flags,
    ignored: Flags,
    convention: Convention,
) -> tuple[Ints, npt.NDArray[np.int8], Ints]:
    """Detections take objects in turn, within their image and class.

    `detection` (C,), `outcome` (T, C) and `found` (T, C) as `Claims` has them.
    """
    thresholds = _spaced(0.5, 0.95, 10, convention.thresholds)
    # Classes from -1 to one beyond the last.
    classes = int(max(detections.category.max(initial=0), objects.category.max(initial=0))) + 2
    group, object_group = (boxes.image * classes + boxes.category + 1 for boxes in (detections, objects))
    regions = crowd & (convention.crowd == "ignored")
    if convention.matching == "best object":
        pairs = pair_parts(group, object_group, detections.image)
        parts = ((i, j, coco_overlaps(detections.coco[i], objects.coco[j], regions[j])) for i, j in pairs)
        return _take_best(parts, ignored, thresholds)
    claims = claim(
        detections,
        group,
        rank_in_group(group, scores)[1],
        objects,
        object_group,
        crowd=crowd,
        shares=regions,
        ignored=ignored[None],
        thresholds=thresholds,
    )
    return claims.detection, claims.outcome[:, 0], claims.found[:, 0].astype(np.int64)


def _take_best(
    parts: Iterable[tuple[Ints, Ints, Floats]], ignored: Flags, thresholds: Floats
) -> tuple[Ints, npt.NDArray[np.int8], Ints]:
    """What `_assign` gives where each detection can have the object alone that it overlaps most, if it comes first.

    `parts` are pairs of detections and objects with their overlaps. Of equal overlaps, what counts and then the first;
    who finds what does not count is excused.
    """
    near = [tuple(column[overlap >= thresholds[0]] for column in (i, j, overlap)) for i, j, overlap in parts]
    nothing = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    i, j, overlap = (np.concatenate(columns) for columns in zip(nothing, *near, strict=True))
    order = np.lexsort((j, ignored[j], -overlap, i))
    detection, first = np.unique(i[order], return_index=True)
    best, reached = j[order][first], overlap[order][first]
    outcome = np.zeros((len(thresholds), len(detection)), np.int8)
    for t, least in enumerate(np.minimum(thresholds, 1 - 1e-10)):
        enough = np.flatnonzero(reached >= least)
        _, comes_first = np.unique(best[enough], return_index=True)
        outcome[t, enough[comes_first]] = RIGHT
        outcome[t, enough[ignored[best[enough]]]] = IGNORED
    return detection, outcome, np.broadcast_to(best, outcome.shape)


def _area(places: Ints, counted: int, objects: int, convention: Convention) -> float:
    """Area under precision over recall of one class with `objects` objects.

    `places` (R,) are those of right detections among the `counted` ones by falling score, from 1 on. Between two of
    them precision falls, so nothing is lost by looking at it there alone.
    """
    if convention.interpolation == "101 points, trapezoids":
        return _trapezoids(places, counted, objects)
    tp = np.arange(1, len(places) + 1)
    recall = tp / objects
    envelope = _envelope(tp / places)
    if convention.interpolation == "continuous":
        return float((np.diff(recall, prepend=0.0) * envelope).sum())
    points = _spaced(0.0, 1.0, 101 if convention.interpolation == "101 points" else 11, convention.thresholds)
    return float(np.append(envelope, 0.0)[np.searchsorted(recall, points)].mean())


def _trapezoids(places: Ints, counted: int, objects: int) -> float:
    """The area between 101 values; they lie on lines from the last place of one recall to the first of the next."""
    seen = np.union1d(np.concatenate([places, places - 1]), counted)
    seen = seen[seen > 0]
    tp = np.searchsorted(places, seen, side="right")
    recall = np.concatenate([[0.0], tp / objects, [1.0]])
    ends = _envelope(np.concatenate([[1.0], tp / seen, [0.0]]))
    x = np.linspace(0, 1, 101)
    return float(np.trapezoid(np.interp(x, recall, ends), x))


def _envelope(precision: Floats) -> Floats:
    """The best that is still to come."""
    best: Floats = np.maximum.accumulate(precision[::-1])[::-1]
    return best
