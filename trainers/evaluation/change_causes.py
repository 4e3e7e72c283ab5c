"""Why a detector of changes may have reported something where no object changed: what the two frames show there.

Three causes are suspected, in this order, of a wrong detection whose type is `background`:

- `unmoved`, if an object that is known not to have changed is there (IoU 0.5);
- `camera-motion`, if the frames, as they were compared, still differ by a movement of the camera of a pixel or more at
  the box and undoing it takes away at least two fifths of the difference there; or if the movement that was undone
  before is not to be trusted;
- `unmoved`, if fine structure (a frame less its mean over 7 x 7 pixels) and brightness are the same in both frames:
  whatever is there has not changed;
- `illumination`, if brightness changed in all channels alike, as a shadow does it, and either the structure is the same
  or the change is the same all over, whose outline alone is new.

These are suspicions, not proofs: an object that stops where a like one stood cannot be told from one that never moved,
nor parallax from movement, and a smooth grey object on smooth grey ground looks like its own shadow.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, get_args

import cv2
import numpy as np
import numpy.typing as npt

from dataflow.boxes import pairwise_iou
from dataflow.images import RgbImage, decode_rgb
from dataflow.pairs.aligned_pair import AlignedPair, align_pair, lay_over
from dataflow.pairs.camera_motion import draw_moved
from dataflow.pairs.frame import Frame
from dataflow.pairs.motion_models import Matrix, is_identity, map_points
from dataflow.pairs.registration import Alignment, AlignmentError, Method, align_frames
from dataflow.prepared import PreparedDataset
from dataflow.records import Change, FramePair
from trainers.evaluation.error_types import Cause, ErrorAnalysis
from trainers.prediction.predictions import PredictionSet

_SAME_PLACE = 0.5
_LEAST_MOVEMENT_PX = 1.0
_LEFT_WHEN_UNDONE = 0.6
# True alignments of real frames never fell below 0.8.
_TRUSTED_SCORE = 0.8
_SMALLEST_SIDE = 4
_WINDOW = (7, 7)
# Grey levels: what sensors make of nothing, and the least change of brightness that is one.
_TEXTURE, _BRIGHTNESS = 2.5, 6.0
_LEAST_TEXTURED = 0.1
_SAME_STRUCTURE = 0.6
# Of logarithms of brightness: the least change that is one, and how far channels may differ; a level against noise.
_LEAST_FACTOR, _SAME_COLOUR, _DARK = 0.12, 0.2, 4.0
_ALIKE = 0.8

Grey = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Compared:
    """Both frames as they were compared, (H, W, 3) uint8, and what is left to be undone between them.

    `movement` (3, 3) leads from before to after, px; None where the camera stood still. `undone` is the before frame
    after it. `trusted` is false if the frames were aligned with a poor score.
    """

    before: RgbImage
    after: RgbImage
    movement: Matrix | None
    undone: RgbImage
    trusted: bool


def add_causes(
    analysis: ErrorAnalysis, dataset: PreparedDataset, predictions: PredictionSet, split: str
) -> ErrorAnalysis:
    """The analysis with what is suspected of wrong detections of type `background`; reads the pairs that have any."""
    by_image = dict(analysis.by_image)
    for pair in dataset.pairs(split):
        errors = by_image[pair.pair_id]
        wrong = [i for i, name in enumerate(errors.detections) if name == "background"]
        compared = as_compared(pair, predictions.align) if wrong else None
        if compared is None:
            continue
        boxes = predictions.by_image[pair.pair_id].boxes
        causes = list(errors.causes)
        for i in wrong:
            causes[i] = suspect(compared, boxes[i], unchanged_boxes(pair))
        by_image[pair.pair_id] = replace(errors, causes=tuple(causes))
    suspected = [cause for errors in by_image.values() for cause in errors.causes]
    return replace(analysis, by_image=by_image, causes={cause: suspected.count(cause) for cause in get_args(Cause)})


def as_compared(pair: FramePair, align: Method) -> Compared | None:
    """A pair as the detector had it, aligned if dataset or run aligned it; None if its frames differ in size."""
    before, after = (decode_rgb(frame.image, frame.orientation) for frame in (pair.before, pair.after))
    if before.shape != after.shape:
        return None
    known = Alignment(pair.homography, pair.alignment_model, pair.alignment_score, pair.alignment_residual)
    drawn = AlignedPair(before, after, known)
    if align != "none":
        with suppress(AlignmentError):
            drawn = align_pair(Frame(before), Frame(after), align)
    elif known.score < 1.0 or not is_identity(known.homography):
        drawn = lay_over(before, after, known)
    return still_to_undo(drawn.before, drawn.after, drawn.alignment.score)


def still_to_undo(before: RgbImage, after: RgbImage, score: float = 1.0) -> Compared:
    """Two frames with the movement that is left between them; `score` is that of an earlier alignment."""
    movement = None
    with suppress(AlignmentError):
        left = align_frames(Frame(before), Frame(after))
        if left.model != "identity":
            movement = left.homography
    undone = before if movement is None else draw_moved(before, movement, (after.shape[0], after.shape[1]))
    return Compared(before, after, movement, undone, score >= _TRUSTED_SCORE)


def unchanged_boxes(pair: FramePair) -> npt.NDArray[np.float32]:
    """(N, 4) of the objects that are known not to have changed."""
    changes = pair.objects.changes
    return pair.objects.boxes[:0] if changes is None else pair.objects.boxes[changes == Change.NONE]


def suspect(compared: Compared, box: npt.ArrayLike, unchanged: npt.ArrayLike = ()) -> Cause | None:
    """What may have caused a detection in `box` (4,) xyxy px, and objects at `unchanged` (N, 4)."""
    if pairwise_iou(box, unchanged).max(initial=0.0) >= _SAME_PLACE:
        return "unmoved"
    height, width = compared.after.shape[:2]
    x0, y0, x1, y1 = np.asarray(box, np.float64).tolist()
    rows = slice(max(int(y0), 0), min(int(np.ceil(y1)), height))
    columns = slice(max(int(x0), 0), min(int(np.ceil(x1)), width))
    part = (rows, columns)
    if min(rows.stop - rows.start, columns.stop - columns.start) < _SMALLEST_SIDE:
        return None
    if _camera_moved(compared, part):
        return "camera-motion"
    return _same_structure(compared.undone[part], compared.after[part])


def _camera_moved(compared: Compared, part: tuple[slice, slice]) -> bool:
    """Whether a movement of the camera explains the difference in a part of the frames."""
    if not compared.trusted:
        return True
    if compared.movement is None:
        return False
    rows, columns = part
    centre = np.array([[(columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2]])
    if np.linalg.norm(map_points(centre, compared.movement) - centre) < _LEAST_MOVEMENT_PX:
        return False
    left, seen = (
        float(cv2.absdiff(frame[part], compared.after[part]).mean()) for frame in (compared.undone, compared.before)
    )
    return left <= _LEFT_WHEN_UNDONE * seen


def _same_structure(before: RgbImage, after: RgbImage) -> Cause | None:
    """What is to be said of two patches (h, w, 3) that show the same, None if they do not."""
    grey = [cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).astype(np.float32) for patch in (before, after)]
    smooth = [_mean(patch) for patch in grey]
    agree = float(np.abs(smooth[1] - smooth[0]).mean()) < _BRIGHTNESS
    detail = [patch - low for patch, low in zip(grey, smooth, strict=True)]
    power = [_mean(patch * patch) for patch in detail]
    textured = np.maximum(*power) >= _TEXTURE**2
    if textured.mean() < _LEAST_TEXTURED:
        same = agree
    else:
        correlation = _mean(detail[0] * detail[1])[textured] / np.sqrt(power[0] * power[1] + 1e-6)[textured]
        same = float((correlation >= _SAME_STRUCTURE).mean()) >= _SAME_STRUCTURE
    if same and agree:
        return "unmoved"
    proportional, even = _brightness_change(before, after)
    if proportional and (same or even):
        return "illumination"
    return "unmoved" if same else None


def _mean(patch: npt.NDArray[Any]) -> Grey:
    return np.asarray(cv2.blur(patch, _WINDOW), np.float32)


def _brightness_change(before: RgbImage, after: RgbImage) -> tuple[bool, bool]:
    """Of the pixels whose brightness changed: did all channels change alike, and did all pixels change alike?

    A shadow multiplies what lies in it by one factor, whatever its colour; where it is sharp, its outline is new
    structure, but what it does is the same everywhere in it.
    """
    logs = [np.log(cv2.blur(patch, (3, 3)).astype(np.float32) + _DARK) for patch in (before, after)]
    change = logs[1] - logs[0]
    mean = change.mean(axis=2)
    changed = np.abs(mean) >= _LEAST_FACTOR
    if not changed.any():
        return False, False
    spread = np.ptp(change[changed], axis=1)
    middle = float(np.median(mean[changed]))
    alike = np.abs(mean[changed] - middle) <= abs(middle) / 2
    return float((spread <= _SAME_COLOUR).mean()) >= _ALIKE, float(alike.mean()) >= _ALIKE
