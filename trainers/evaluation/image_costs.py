"""Which images cost most AP50."""

from collections.abc import Sequence

import numpy as np

from trainers.evaluation.coco_figures import interpolated
from trainers.evaluation.matching import Matching
from trainers.evaluation.overlaps import Flags, Floats, Ints, rank_in_group

_IOU_50 = 0
# Numbers in a table at a time.
_CELLS = 4_000_000


def rank_images(matching: Matching, image_ids: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """(image id, AP50 that would be gained if all in this image were right) of the images named, costliest first.

    "Right" means that its wrong detections are gone and that its missed objects are found, with a score above all
    others. What it gains is exact for one image alone. Images that gain nothing are left out; ties are by id. The
    work grows with the number of images times that of objects, so name those that have errors.
    """
    place = {image: index for index, image in enumerate(matching.image_ids)}
    images = np.array(sorted(place[image] for image in image_ids), np.int64)
    gains = _gains(matching, images)
    ranked = sorted(zip(images.tolist(), gains.tolist(), strict=True), key=lambda item: -item[1])
    named = [(matching.image_ids[index], gain) for index, gain in ranked if gain > 0]
    return tuple(sorted(named, key=lambda item: (-item[1], item[0])))


def _gains(matching: Matching, images: Ints) -> Floats:
    """AP50 gained by each of `images` (I,), places in order."""
    counted = np.flatnonzero(~matching.ignored[_IOU_50])
    category = matching.detections.category[counted]
    order = counted[rank_in_group(category, matching.scores[counted])[0]]
    truths = matching.truths
    edges = np.searchsorted(matching.detections.category[order], np.arange(len(truths) + 1))
    missed = ~matching.crowd
    missed[matching.found[_IOU_50, matching.right[_IOU_50]]] = False
    gains = np.zeros(len(images))
    for k in np.flatnonzero(truths).tolist():
        own = order[edges[k] : edges[k + 1]]
        right = matching.right[_IOU_50, own]
        lost = matching.objects.image[missed & (matching.objects.category == k)]
        gains += _class_gains(right, matching.detections.image[own], lost, images, int(truths[k]))
    return gains / max(int((truths > 0).sum()), 1)


def _class_gains(right: Flags, image: Ints, lost: Ints, images: Ints, truths: int) -> Floats:
    """AP50 that one class gains by each of `images` (I,).

    `right` and `image` are of its detections by falling score, `lost` are the images of the objects that it missed.
    """
    # The curve before the first detection and after each right one.
    tp = np.arange(right.sum() + 1, dtype=np.int32)
    places = np.concatenate([[0], np.flatnonzero(right) + 1]).astype(np.int32)
    before = interpolated(tp[None], places[None], truths).mean()
    wrong = np.flatnonzero(~right & np.isin(image, images))
    row = np.searchsorted(images, image[wrong])
    column = np.searchsorted(places, wrong, side="right")
    missed = np.bincount(np.searchsorted(images, lost[np.isin(lost, images)]), minlength=len(images))
    concerned = np.union1d(row, np.flatnonzero(missed))
    gains = np.zeros(len(images))
    width = len(tp) + 1
    step = max(_CELLS // width, 1)
    for start in range(0, len(concerned), step):
        rows = concerned[start : start + step]
        own = np.isin(row, rows)
        cells = np.searchsorted(rows, row[own]) * width + column[own]
        gone = np.bincount(cells, minlength=len(rows) * width).reshape(len(rows), width)
        more = missed[rows, None]
        counted = places - np.cumsum(gone, axis=1)[:, :-1] + more
        gains[rows] = interpolated(tp + more, counted, truths).mean(axis=1) - before
    return gains
