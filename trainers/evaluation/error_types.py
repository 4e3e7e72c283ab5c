"""What kind of error each wrong detection and missed object is, and what each kind costs: TIDE.

Bolya, Foley, Hays and Hoffman, "TIDE: A General Toolbox for Identifying Object Detection Errors" (2020), section 3. A
wrong detection is compared with all objects of its image that count, whatever their class:

| type | same class, best IoU | other class, best IoU |
|---|---|---|
| localisation | 0.1 to 0.5 | |
| classification | | from 0.5 |
| duplicate | from 0.5, the object being found already | |
| background | to 0.1 | to 0.1 |
| both (class and place) | what is left | |

The first row that fits decides. A missed object that a localisation or classification error refers to is explained by
it; any other is `missed`. The cost of a type is the AP50 that is gained when errors of this type alone are mended: a
detection that refers to an object not found otherwise becomes right (the best one for each object), any other goes;
missed objects are not counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from trainers.evaluation.coco_figures import average_precision
from trainers.evaluation.matching import Matching
from trainers.evaluation.overlaps import Flags, Floats, Ints, coco_overlaps, pair_parts, rank_in_group

ErrorType = Literal["classification", "localisation", "both", "duplicate", "background", "missed"]
Cause = Literal["camera-motion", "illumination", "unmoved"]
ERROR_TYPES: tuple[ErrorType, ...] = get_args(ErrorType)
_CLASS, _PLACE, _BOTH, _DUPLICATE, _BACKGROUND, _MISSED = range(6)
_NONE = -1
_FOREGROUND, _NEAR = 0.5, 0.1
_IOU_50 = 0

Codes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class ImageErrors:
    """The errors of one image, in the order of its predictions and objects, at the operating score and IoU 0.5.

    `detections` (M): None for what is right, ignored or below the score. `objects` (N): None for what is found or does
    not count; for a missed object the type of the error that explains it, else `missed`. `causes` (M): why a wrong
    detection is suspected to be there, None where nothing is suspected or the images are no pairs.
    """

    detections: tuple[ErrorType | None, ...]
    objects: tuple[ErrorType | None, ...]
    causes: tuple[Cause | None, ...]


@dataclass(frozen=True, eq=False)
class ErrorAnalysis:
    """The errors of a split.

    `by_image` and `counts` are those at the operating score and IoU 0.5. `cost` is AP50 lost by type, on the scale of
    the figures (0 to 1), with all detections, as TIDE has it; so are `false_positives`, the cost of all wrong
    detections, and `false_negatives`, that of all missed objects. Costs do not add up: mending one error uncovers
    another. `ranked` are (image id, AP50 that would be gained if all in this image were right), costliest first.
    """

    by_image: Mapping[str, ImageErrors]
    counts: Mapping[ErrorType, int]
    cost: Mapping[ErrorType, float]
    false_positives: float
    false_negatives: float
    causes: Mapping[Cause, int]
    ranked: tuple[tuple[str, float], ...]


@dataclass(frozen=True, eq=False)
class _Typed:
    """`detections` (P,) and `objects` (G,) are places in `ERROR_TYPES` or -1; `mended` (P,) the object that a detection
    would find if it were mended, or -1 where it would go.
    """

    detections: Codes
    objects: Codes
    mended: Ints


def analyse_errors(matching: Matching, score: float, ranked: tuple[tuple[str, float], ...]) -> ErrorAnalysis:
    """The errors at IoU 0.5, without causes, which `change_causes.add_causes` finds.

    Args:
        matching: of all detections.
        score: the lowest that counts, for `by_image` and `counts`.
        ranked: see `ErrorAnalysis`.
    """
    everything = _types(matching, np.ones(len(matching.scores), np.bool_))
    kept = _types(matching, matching.scores >= np.float32(score))
    numbers = np.bincount(kept.detections[kept.detections >= 0], minlength=len(ERROR_TYPES))
    numbers[_MISSED] = int((kept.objects == _MISSED).sum())
    cost, false_positives, false_negatives = _costs(matching, everything)
    return ErrorAnalysis(
        by_image=_by_image(matching, kept),
        counts=dict(zip(ERROR_TYPES, numbers.tolist(), strict=True)),
        cost=cost,
        false_positives=false_positives,
        false_negatives=false_negatives,
        causes=dict.fromkeys(get_args(Cause), 0),
        ranked=ranked,
    )


def _types(matching: Matching, kept: Flags) -> _Typed:
    """The types of the errors among the detections `kept` (P,), which are all those from some score on."""
    wrong = np.flatnonzero(matching.wrong[_IOU_50] & kept)
    same, same_object, other, other_object = _nearest(matching, wrong)
    codes = np.full(len(wrong), _BOTH, np.int8)
    codes[np.maximum(same, other) <= _NEAR] = _BACKGROUND
    codes[same >= _FOREGROUND] = _DUPLICATE
    codes[other >= _FOREGROUND] = _CLASS
    codes[(same >= _NEAR) & (same <= _FOREGROUND)] = _PLACE
    target = np.where(codes == _PLACE, same_object, np.where(codes == _CLASS, other_object, -1))

    right = np.flatnonzero(matching.right[_IOU_50] & kept)
    missed = ~matching.crowd
    missed[matching.found[_IOU_50, right]] = False
    found = np.append(~missed, True)  # Place -1: nothing.
    target[found[target]] = -1
    # The best of those that refer to an object, by score and then as they come.
    aims = np.flatnonzero(target >= 0)
    order = aims[rank_in_group(target[aims], matching.scores[wrong[aims]])[0]]
    aimed_at, first = np.unique(target[order], return_index=True)
    objects = np.where(missed, _MISSED, _NONE).astype(np.int8)
    objects[aimed_at] = codes[order[first]]
    detections = np.full(len(matching.scores), _NONE, np.int8)
    detections[wrong] = codes
    mended = np.full(len(matching.scores), -1)
    mended[wrong[order[first]]] = aimed_at
    return _Typed(detections, objects, mended)


def _nearest(matching: Matching, chosen: Ints) -> tuple[Floats, Ints, Floats, Ints]:
    """Best IoU and object among those of its own class and among those of others, for the detections `chosen`.

    Overlaps below 0.1 are not looked at: they count as 0, with object -1. Of equal overlaps the first object is taken.
    """
    detections, objects = matching.detections, matching.objects
    counted = np.flatnonzero(~matching.crowd)
    best = np.zeros((2, len(chosen)))
    nearest = np.full((2, len(chosen)), -1)
    image = detections.image[chosen]
    for i, j in pair_parts(image, objects.image[counted], image):
        found, which = chosen[i], counted[j]
        overlap = coco_overlaps(detections.coco[found], objects.coco[which], np.zeros(len(i), np.bool_))
        near = overlap >= _NEAR
        is_other = detections.category[found] != objects.category[which]
        for side in (0, 1):
            own = np.flatnonzero(near & (is_other == bool(side)))
            # Ordered by overlap, the first object last: what is written last stays.
            order = own[np.lexsort((-which[own], overlap[own]))]
            best[side, i[order]] = overlap[order]
            nearest[side, i[order]] = which[order]
    return best[0], nearest[0], best[1], nearest[1]


def _costs(matching: Matching, typed: _Typed) -> tuple[dict[ErrorType, float], float, float]:
    """AP50 lost by type, by all wrong detections, by all missed objects."""
    right, truths = matching.right[_IOU_50], matching.truths
    counted = ~matching.ignored[_IOU_50]
    category = matching.detections.category

    def mean(kept: Flags, right: Flags, category: Ints, truths: Ints) -> float:
        found = average_precision(category[kept], matching.scores[kept], right[kept], truths)
        return float(np.nanmean(found)) if truths.any() else 0.0

    before = mean(counted, right, category, truths)
    cost: dict[ErrorType, float] = {}
    for code, name in enumerate(ERROR_TYPES[:_MISSED]):
        of_type = typed.detections == code
        mended = of_type & (typed.mended >= 0)
        now = category.copy()
        now[mended] = matching.objects.category[typed.mended[mended]]
        cost[name] = max(mean(counted & (~of_type | mended), right | mended, now, truths) - before, 0.0)

    def without(objects: Flags) -> float:
        """AP50 gained where some objects are not counted."""
        gone = np.bincount(matching.objects.category[objects], minlength=len(truths))
        return max(mean(counted, right, category, truths - gone) - before, 0.0)

    cost["missed"] = without(typed.objects == _MISSED)
    return cost, max(mean(right, right, category, truths) - before, 0.0), without(typed.objects != _NONE)


def _by_image(matching: Matching, typed: _Typed) -> dict[str, ImageErrors]:
    names: list[ErrorType | None] = [*ERROR_TYPES, None]  # -1 is the last.
    detections, objects = ([names[code] for code in codes.tolist()] for codes in (typed.detections, typed.objects))
    edges = np.arange(len(matching.image_ids) + 1)
    starts = np.searchsorted(matching.detections.image, edges).tolist()
    object_starts = np.searchsorted(matching.objects.image, edges).tolist()
    return {
        image_id: ImageErrors(
            detections=tuple(detections[starts[index] : starts[index + 1]]),
            objects=tuple(objects[object_starts[index] : object_starts[index + 1]]),
            causes=(None,) * (starts[index + 1] - starts[index]),
        )
        for index, image_id in enumerate(matching.image_ids)
    }
