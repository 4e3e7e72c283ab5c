"""What about the scores makes figures say less than they seem to."""

import numpy as np

from trainers.evaluation.coco_figures import MOST_DETECTIONS
from trainers.evaluation.matching import Matching
from trainers.evaluation.overlaps import rank_in_group

# A detector that keeps what it is unsure of goes lower than this, and thins out where it ends.
_LEAST_CUT = 0.02
_ENOUGH = 20
_FEW_IMAGES = 30
_SHARE = 1 / 20


def warnings(matching: Matching, names: tuple[str, ...]) -> tuple[str, ...]:
    """Sentences, the gravest first; none where nothing is wrong."""
    found = [_nothing(matching), _cut(matching), _equal(matching), _limit(matching), _few(matching)]
    strange = np.bincount(matching.detections.category, minlength=len(names))[matching.truths == 0]
    if strange.any():
        found.append(
            f"{int(strange.sum())} detections are of classes of which the split has no objects: "
            "average precision, a mean over the classes that are there, does not see them."
        )
    return tuple(sentence for sentence in found if sentence)


def _nothing(matching: Matching) -> str:
    return "" if len(matching.scores) else "Nothing was detected."


def _cut(matching: Matching) -> str:
    """Whether scores end in a cliff rather than in a slope.

    They do if none is below 0.02, no image has as many detections as count (which would also end them), and the
    lowest twentieth of their range holds at least a twentieth of them.
    """
    scores = matching.scores
    if len(scores) < _ENOUGH:
        return ""
    lowest, highest = float(scores.min()), float(scores.max())
    full = np.bincount(matching.detections.image).max() >= MOST_DETECTIONS[-1]
    edge = float((scores <= lowest + _SHARE * (highest - lowest)).mean())
    if lowest < _LEAST_CUT or lowest == highest or full or edge < _SHARE:
        return ""
    return (
        f"No detection scores below {lowest:.3g}, and {edge:.0%} of them score just above: they seem to have been cut "
        "before they were evaluated. Average precision counts what is below, too, and comes out too low; predict "
        "without a threshold."
    )


def _equal(matching: Matching) -> str:
    if len(matching.scores) < 2 or np.ptp(matching.scores) > 0:
        return ""
    return "All detections have the same score: average precision depends on the order in which they come."


def _limit(matching: Matching) -> str:
    most = MOST_DETECTIONS[-1]
    group = matching.detections.image * len(matching.truths) + matching.detections.category
    rank = rank_in_group(group, matching.scores)[1]
    beyond = rank >= most
    if not beyond.any():
        return ""
    images = len(np.unique(matching.detections.image[beyond]))
    return f"{int(beyond.sum())} detections in {images} images are beyond the {most} of a class that count."


def _few(matching: Matching) -> str:
    n = len(matching.image_ids)
    return f"The split has {n} images only: look at the intervals." if 0 < n < _FEW_IMAGES else ""
