"""Average precision under any `Convention`, from boxes.

Written for clarity of the rules, not to compete with `trainers.matching`: one convention at a time, with what does
not change between conventions kept. A score cut and a limit on detections leave a prefix of one greedy matching, so
matchings differ only by crowd, boxes, ids, classes, thresholds and sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataflow.boxes import xyxy_to_coco
from dataflow.records import ImageRecord, Predictions
from trainers.conventions import Convention, Figure

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

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
    """`right`, `ignored` (T, P) of the detections in order; `objects` (K,) that count, by class."""

    right: Flags
    ignored: Flags
    category: Ints
    objects: Ints


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
        self._detections = _flat([(p.category_ids, p.boxes) for p in found])
        self._scores = np.concatenate([np.zeros(0, np.float32), *(p.scores for p in found)])
        # By image, in an image by falling score: the order in which detections take their turn.
        self._turn = np.lexsort((-self._scores, self._detections.image))
        self._matched: dict[tuple[object, ...], _Matched] = {}
        self._figures: dict[tuple[Convention, Figure], float | None] = {}

    def figures(self, convention: Convention, names: Sequence[Figure]) -> dict[Figure, float | None]:
        """The figures of these names; None where there are no such objects."""
        for name in names:
            if (convention, name) not in self._figures:
                self._figures[convention, name] = self._figure(convention, name)
        return {name: self._figures[convention, name] for name in names}

    def _figure(self, convention: Convention, name: Figure) -> float | None:
        matched = self._match(convention, _AREAS.get(name, _EVERY_AREA))
        scores = self._scores[self._turn]
        kept = (scores >= np.float32(convention.score_cut)) & self._within(convention, matched.category)
        order = np.flatnonzero(kept)[np.argsort(-scores[kept], kind="stable")]
        areas = []
        for category in range(len(matched.objects)):
            if not matched.objects[category]:
                if convention.classes == "mean, absent as 0":
                    areas.append(0.0)
                continue
            own = order[matched.category[order] == category]
            for t in range(len(matched.right))[_PLACE.get(name, slice(None))]:
                counted = own[~matched.ignored[t, own]]
                right = matched.right[t, counted]
                if convention.ties == "right first":
                    right = right[np.lexsort((~right, -scores[counted]))]
                areas.append(_area(right, int(matched.objects[category]), convention))
        if convention.classes == "mean, absent as 0" and areas:
            # An absent class has one zero, a present one a value for each threshold.
            return float(np.sum(areas) / (self._categories * len(range(10)[_PLACE.get(name, slice(None))])))
        return float(np.mean(areas)) if areas else None

    def _within(self, convention: Convention, category: Ints) -> Flags:
        """(P,) whether detections, in the order of their turns, are within the most that count."""
        if convention.max_detections is None:
            return np.ones(len(category), np.bool_)
        image = self._detections.image[self._turn]
        groups = image if convention.max_detections.of == "image" else image * (self._categories + 2) + category
        return _rank(groups) < convention.max_detections.number

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
        category = self._detections.category[self._turn]
        category = category + {"classes one up": 1, "classes one down": -1}.get(convention.ids, 0)
        object_category = self._objects.category[there]
        if convention.classes == "as one":
            category, object_category = np.zeros_like(category), np.zeros_like(object_category)
        boxes = _corners(self._detections.boxes[self._turn], convention, detections=True)
        object_boxes = _corners(self._objects.boxes[there], convention, detections=False)
        sizes = self._areas[there] if convention.areas == "annotated" else object_boxes[:, 2] * object_boxes[:, 3]
        ignored = crowd | (sizes < areas[0]) | (sizes > areas[1])
        detected_sizes = boxes[:, 2] * boxes[:, 3]
        outside = (detected_sizes < areas[0]) | (detected_sizes > areas[1])
        right, excused = _assign(
            _Things(self._detections.image[self._turn], category, boxes),
            _Things(self._objects.image[there], object_category, object_boxes),
            crowd=crowd,
            ignored=ignored,
            convention=convention,
        )
        objects = np.bincount(object_category[~ignored], minlength=self._categories)
        return _Matched(right, excused | (~right & outside), category, objects)


def _flat(items: Sequence[tuple[Ints, npt.NDArray[np.float32]]]) -> _Things:
    image = np.repeat(np.arange(len(items)), [len(categories) for categories, _ in items])
    category = np.concatenate([np.zeros(0, np.int64), *(categories for categories, _ in items)])
    boxes = np.concatenate([np.zeros((0, 4)), *(boxes for _, boxes in items)])
    return _Things(image, category, boxes.astype(np.float64))


def _rank(groups: Ints) -> Ints:
    """(N,) how many of the same group come before."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    first = np.searchsorted(ordered, ordered)
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - first
    return rank


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


def _spaced(start: float, stop: float, count: int, convention: Convention) -> Floats:
    """Thresholds as numpy spaces them, or as torch does in single precision, from both ends."""
    if convention.thresholds == "double":
        return np.linspace(start, stop, count)
    # The step is rounded, its multiples are added and then rounded once.
    step = np.float64((np.float32(stop) - np.float32(start)) / np.float32(count - 1))
    places = np.arange(count)
    spaced = np.where(places < count // 2, np.float32(start) + step * places, np.float32(stop) - step * places[::-1])
    single: Floats = spaced.astype(np.float32).astype(np.float64)
    return single


def _assign(
    detections: _Things, objects: _Things, *, crowd: Flags, ignored: Flags, convention: Convention
) -> tuple[Flags, Flags]:
    """(right, excused), both (T, P): detections take objects in turn, within their image and class."""
    thresholds = _spaced(0.5, 0.95, 10, convention)
    right = np.zeros((len(thresholds), len(detections.image)), np.bool_)
    excused = np.zeros_like(right)
    lost = 0 if convention.ids == "first object lost" else -1
    last = int(max([0, *detections.image.tolist()[-1:], *objects.image.tolist()[-1:]]))
    edges = np.arange(last + 2)
    starts, object_starts = np.searchsorted(detections.image, edges), np.searchsorted(objects.image, edges)
    for image in np.unique(objects.image).tolist():
        own = np.arange(object_starts[image], object_starts[image + 1])
        own = own[np.argsort(ignored[own], kind="stable")]  # What counts comes first.
        found = np.arange(starts[image], starts[image + 1])
        regions = crowd[own] & (convention.crowd == "ignored")
        overlaps = _overlaps(detections.boxes[found], objects.boxes[own], regions)
        overlaps[detections.category[found][:, None] != objects.category[own]] = -1.0
        taken = np.zeros((len(thresholds), len(own)), np.bool_)
        for d in np.flatnonzero((overlaps >= thresholds[0]).any(axis=1)).tolist():
            least = np.minimum(thresholds, 1 - 1e-10)
            if convention.matching == "best object":
                best = int(np.argmax(overlaps[d]))
                place = np.where(overlaps[d, best] >= least, best, -1)
            else:
                place = _best_free(overlaps[d] >= least[:, None], overlaps[d], ~taken | crowd[own], ~ignored[own])
            (t,) = np.nonzero(place >= 0)
            chosen = place[t]
            again = taken[t, chosen] & ~crowd[own][chosen]  # Only where a detection has no second choice.
            excused[t, found[d]] = ignored[own][chosen]
            right[t, found[d]] = ~ignored[own][chosen] & ~again & (own[chosen] != lost)
            taken[t, chosen] = True
    return right, excused


def _overlaps(found: Floats, objects: Floats, crowd: Flags) -> Floats:
    """Intersection over union (D, G) of xywh boxes; over the detection's own area where an object is a crowd."""
    d, g = found[:, None], objects[None]
    sides = [
        np.minimum(d[..., i] + d[..., i + 2], g[..., i] + g[..., i + 2]) - np.maximum(d[..., i], g[..., i])
        for i in (0, 1)
    ]
    shared = np.clip(sides[0], 0, None) * np.clip(sides[1], 0, None)
    areas = found[:, 2] * found[:, 3]
    union = areas[:, None] + objects[:, 2] * objects[:, 3] - shared
    whole = np.where(crowd, areas[:, None], union)
    overlaps: Floats = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return overlaps


def _best_free(reached: Flags, overlaps: Floats, free: Flags, counts: Flags) -> Ints:
    """(T,) which object a detection takes, -1 none: of those it reaches that are free, one that counts if any.

    `reached`, `free` (T, G); `overlaps`, `counts` (G,).
    """
    possible = reached & free
    counting = possible & counts
    possible = np.where(counting.any(axis=1, keepdims=True), counting, possible)
    values = np.where(possible, overlaps, -1.0)
    # Of equal overlaps pycocotools takes the last.
    place = values.shape[1] - 1 - np.argmax(values[:, ::-1], axis=1)
    chosen: Ints = np.where(possible.any(axis=1), place, -1)
    return chosen


def _area(right: Flags, objects: int, convention: Convention) -> float:
    """Area under precision over recall of detections in order of score; `right` (P,) tells which found an object."""
    tp = np.cumsum(right)
    recall = tp / objects
    precision = tp / (np.arange(len(right)) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if convention.interpolation == "101 points, trapezoids":
        x = np.linspace(0, 1, 101)
        ends = np.maximum.accumulate(np.concatenate([[1.0], precision, [0.0]])[::-1])[::-1]
        return float(np.trapezoid(np.interp(x, np.concatenate([[0.0], recall, [1.0]]), ends), x))
    if convention.interpolation == "continuous":
        return float((np.diff(recall, prepend=0.0) * envelope).sum())
    points = _spaced(0.0, 1.0, 101 if convention.interpolation == "101 points" else 11, convention)
    return float(np.append(envelope, 0.0)[np.searchsorted(recall, points)].mean())
