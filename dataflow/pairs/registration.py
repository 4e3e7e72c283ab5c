"""Registration: how the camera moved between two frames of one scene, and the earlier frame drawn in the later one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from dataflow.boxes import Size
from dataflow.errors import ShardboxError, UsageError
from dataflow.images import RgbImage
from dataflow.pairs.camera_motion import Mask, draw_moved, warp
from dataflow.pairs.frame import Frame, Grey
from dataflow.pairs.illumination import lit, rounded
from dataflow.pairs.motion_models import (
    Matrix,
    Motion,
    MotionModel,
    Points,
    centre_to_edge,
    choose_motion,
    corners_of,
    edge_to_centre,
    is_identity,
    map_points,
    rescale_motion,
)
from dataflow.pairs.quarter_shifts import quarter_shifts

Method = Literal["none", "phase", "features", "ecc"]

_SMALLEST_SIDE = 16
_CORNERS = 100
_WINDOW = (8, 10)
_LEVELS = 3
# Frames reduced by more than this are followed again at full size, with a window that sees as much.
_COARSEST_SCALE = 2.5
_FINE_WINDOW = (15, 15)
# When following ends: iterations, step in pixels.
_SETTLED = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 10, 0.03)
# How well a match must agree with the consensus (pixels at working size).
_CONSENSUS_DISTANCE = 1.5
_FEWEST_MATCHES = 12
_SMALLEST_CONSENSUS = 0.3
# A camera stood still where no quarter of the frame moved by this (pixels of the full frame); half of the least
# movement that matters, and above what is measured on PETS, where nothing moves: 0.09.
_STILL = 0.1
# Below this root mean square (grey levels), what remains of a frame without its slow changes is noise.
_LEAST_DETAIL = 1.0
_EQUAL_LEVELS = 2.0
# To a canvas that has but the first, third, fifth row of a frame and so on.
_SECOND_ROWS = np.array([[1, 0, 0], [0, 0.5, 0.25], [0, 0, 1]], np.float64)
# What contrast is raised by before frames are compared, at most.
_LARGEST_GAIN = 4.0
_UNVERIFIED_SCORE = 0.5
_LEAST_SCORE = 0.25
_REMEDY = "leave the pair out; if the camera stood still, make differences without alignment"


class AlignmentError(ShardboxError):
    """Two frames between which no movement of the camera could be established."""


@dataclass(frozen=True)
class Alignment:
    """The movement of the camera from one frame to another.

    `homography` (3, 3) float64 takes continuous pixel coordinates of the before frame to the after frame, `model` is
    the simplest kind of movement that explains what was seen. `score` in [0, 1] says how far to trust it: the mean
    correlation of the detail of the aligned frames over their textured parts, whatever the method (1 for method
    `none`, which claims nothing, and for equal frames; 0.5 where there is no detail to tell by). `residual`: root mean
    square distance in pixels of the full frame from the movement, of the matched corners that agree with it (methods
    `features` and `ecc`), or of the shifts of the quarters of the frame (`phase`, and where the camera stood still).
    """

    homography: Matrix
    model: MotionModel
    score: float
    residual: float


@dataclass(frozen=True)
class _Pair:
    """Both frames, of one size."""

    before: Frame
    after: Frame

    @cached_property
    def bright_after(self) -> Grey:
        """The after frame at working size, a difference of gain and offset undone."""
        return self.as_bright(self.after.working)

    def as_bright(self, after: Grey) -> Grey:
        """The after frame, in grey at any size, with the mean and spread of the before frame."""
        (wanted_mean, wanted_spread), (mean, spread) = self.before.brightness, self.after.brightness
        gain = rounded(min(wanted_spread / max(spread, 1e-6), _LARGEST_GAIN))
        return lit(after, gain, rounded(wanted_mean - gain * mean))

    @property
    def scale(self) -> tuple[float, float]:
        """Full over working size, in x and y."""
        (full_height, full_width), (height, width) = self.before.grey.shape, self.before.working.shape
        return full_width / width, full_height / height

    def to_working(self, homography: Matrix) -> Matrix:
        """A movement of full frames at working size."""
        x, y = self.scale
        return rescale_motion(homography, 1 / x, 1 / y)

    def to_full(self, homography: Matrix) -> Matrix:
        """A movement at working size of the full frames."""
        return rescale_motion(homography, *self.scale)


def align(before: RgbImage, after: RgbImage, method: Method = "features") -> Alignment:
    """`align_frames` of pixels, (H, W, 3) or grey (H, W) uint8 of one size."""
    return align_frames(Frame(before), Frame(after), method)


def align_frames(before: Frame, after: Frame, method: Method = "features") -> Alignment:
    """The movement of the camera from `before` to `after`, of one size.

    `features`: the identity where no quarter of the frame moved, else corners (Shi and Tomasi 1994) followed by
    pyramidal Lucas-Kanade (Bouguet 2000), a consensus by RANSAC (Fischler and Bolles 1981), the model by
    `choose_motion`. `ecc`: the same, refined by maximising the enhanced
    correlation coefficient (Evangelidis and Psarakis 2008) over the pixels that agree.
    `phase`: phase correlation, for pure shifts. `none`: the identity, unseen.

    The result depends on the pixels only, not on threads or global seeds. Raises AlignmentError where the frames
    differ in size or no movement explains them, UsageError for a method or pixels of another kind.
    """
    if method not in get_args(Method):
        raise UsageError(f"no alignment method {method!r}", f"choose from {', '.join(get_args(Method))}")
    _check(before.pixels, after.pixels)
    if method == "none" or _equal(before.pixels, after.pixels):
        return Alignment(np.eye(3), "identity", 1.0, 0.0)
    pair = _Pair(before, after)
    if _too_plain(pair):
        return Alignment(np.eye(3), "identity", _UNVERIFIED_SCORE, 0.0)
    motion = _METHODS[method](pair)
    if motion.model != "identity":
        _check_plausible(motion.homography, (before.pixels.shape[0], before.pixels.shape[1]))
    score = _score(pair, motion.homography)
    if score < _LEAST_SCORE:
        raise AlignmentError(f"the frames do not match where they were aligned (score {score:.2f})", _REMEDY)
    return Alignment(motion.homography, motion.model, score, motion.residual)


def warp_to_after(before: RgbImage, alignment: Alignment, size: Size) -> tuple[RgbImage, Mask]:
    """The before frame drawn in an after frame of `size` (height, width), and which of its pixels have a counterpart.

    Returns pixels (H, W, 3) uint8, bilinear, and (H, W) bool. Where there is no counterpart the border is repeated.
    The identity copies the pixels untouched.
    """
    return warp(before, alignment.homography, size)


def _check(before: RgbImage, after: RgbImage) -> None:
    for name, frame in (("before", before), ("after", after)):
        channels = frame.shape[2:] or (1,)
        if frame.dtype != np.uint8 or frame.ndim not in (2, 3) or channels[0] not in (1, 3) or 0 in frame.shape:
            raise UsageError(
                f"the {name} frame is {frame.dtype} of shape {frame.shape}", "give uint8 of shape (H, W, 3) or (H, W)"
            )
    if before.shape[:2] != after.shape[:2]:
        sizes = [f"{frame.shape[1]}x{frame.shape[0]}" for frame in (before, after)]
        raise AlignmentError(f"the before frame is {sizes[0]}, the after frame {sizes[1]}", "pair frames of one size")


def _equal(before: RgbImage, after: RgbImage) -> bool:
    # A row tells most frames apart.
    return before.shape == after.shape and bool((before[0] == after[0]).all()) and np.array_equal(before, after)


def _too_plain(pair: _Pair) -> bool:
    """Whether there is nothing to align by, and nothing to see either.

    Raises AlignmentError where there is nothing to align by, and the frames differ all the same.
    """
    first, second = pair.before.working, pair.after.working
    tiny = min(first.shape) < _SMALLEST_SIDE
    if not tiny and min(pair.before.roughness, pair.after.roughness) >= _LEAST_DETAIL:
        return False
    if float(cv2.norm(first, second, cv2.NORM_L1)) / first.size <= _EQUAL_LEVELS:
        return True
    height, width = pair.before.grey.shape
    what = f"frames of {width}x{height} are too small" if tiny else "there is too little texture"
    raise AlignmentError(f"{what} to align by, and they differ", _REMEDY)


def _by_features(pair: _Pair) -> Motion:
    shifts = quarter_shifts(pair.before.detail, pair.after.detail)
    if shifts is not None:
        height, width = pair.before.detail.shape
        full_height, full_width = pair.before.grey.shape
        apart = np.linalg.norm(shifts * (full_width / width, full_height / height), axis=1)
        if apart.max() < _STILL:
            return Motion(np.eye(3), "identity", float(np.sqrt(np.mean(apart**2))), np.ones(len(apart), np.bool_))
    source, target = _matches(pair)
    if len(source) < _FEWEST_MATCHES:
        raise AlignmentError(f"only {len(source)} corners were found in both frames", _REMEDY)
    inliers = _consensus(source, target)
    if inliers.sum() < max(_FEWEST_MATCHES, _SMALLEST_CONSENSUS * len(source)):
        raise AlignmentError(f"of {len(source)} corners only {inliers.sum()} moved alike", _REMEDY)
    # From pixel centres at working size to continuous coordinates of the full frame.
    scale = np.array(pair.scale)
    source = (source + 0.5) * scale
    motion = choose_motion(source, (target + 0.5) * scale, inliers)
    return _refined_at_full_size(pair, motion, source) if scale.max() > _COARSEST_SCALE else motion


def _refined_at_full_size(pair: _Pair, coarse: Motion, source: Points) -> Motion:
    """The movement of a large frame, its corners (N, 2, continuous) followed again at full size.

    They are sought from where `coarse` puts them; `coarse` itself where too few are found there.
    """
    after = pair.as_bright(pair.after.grey)
    believed = source[coarse.inliers]
    points = (believed - 0.5).astype(np.float32)[:, None]
    guess = (map_points(believed, coarse.homography) - 0.5).astype(np.float32)[:, None]
    reach = max(pair.scale)
    levels = int(np.ceil(np.log2(reach))) - 1
    flags = cv2.OPTFLOW_USE_INITIAL_FLOW
    followed, found, _ = cv2.calcOpticalFlowPyrLK(
        pair.before.grey, after, points, guess.copy(), winSize=_FINE_WINDOW, maxLevel=levels, flags=flags
    )
    near = np.linalg.norm((followed - guess).reshape(-1, 2), axis=1) < _CONSENSUS_DISTANCE * reach
    kept = (found.ravel() == 1) & near
    if kept.sum() < _FEWEST_MATCHES:
        return coarse
    target = followed.reshape(-1, 2)[kept].astype(np.float64) + 0.5
    return choose_motion(believed[kept], target, np.ones(int(kept.sum()), np.bool_))


def _matches(pair: _Pair) -> tuple[Points, Points]:
    """Corners (N, 2) of the before frame and where they are in the after frame, from pixel centres at working size.

    Corners are chosen in the detail: at half the working size that takes a fourth of the time.
    """
    detail, working = pair.before.detail, pair.before.working
    corners = cv2.goodFeaturesToTrack(detail, _CORNERS, 0.02, max(detail.shape) / 48)
    if corners is None:
        return np.zeros((0, 2)), np.zeros((0, 2))
    scale = np.array([working.shape[1] / detail.shape[1], working.shape[0] / detail.shape[0]])
    corners = ((corners + 0.5) * scale - 0.5).astype(np.float32)
    followed, found, _ = cv2.calcOpticalFlowPyrLK(
        working, pair.bright_after, corners, None, winSize=_WINDOW, maxLevel=_LEVELS, criteria=_SETTLED
    )
    kept = found.ravel() == 1
    return corners.reshape(-1, 2)[kept].astype(np.float64), followed.reshape(-1, 2)[kept].astype(np.float64)


def _consensus(source: Points, target: Points) -> npt.NDArray[np.bool_]:
    """Which matches (N,) agree on one movement: affine, or a homography where that explains clearly more.

    Both calls seed a generator of their own with a constant, so the outcome is the same in any thread.
    """
    _, affine = cv2.estimateAffine2D(
        source, target, method=cv2.RANSAC, ransacReprojThreshold=_CONSENSUS_DISTANCE, refineIters=0
    )
    inliers = np.zeros(len(source), np.bool_) if affine is None else affine.ravel() == 1
    if inliers.sum() < 0.6 * len(source):
        _, projective = cv2.findHomography(source, target, cv2.RANSAC, _CONSENSUS_DISTANCE)
        if projective is not None and projective.sum() > 1.1 * inliers.sum():
            inliers = projective.ravel() == 1
    return inliers


def _by_phase(pair: _Pair) -> Motion:
    """Shifts of the whole frame and of its quarters by phase correlation; the quarters tell whether it moved at all."""
    before, after = pair.before.working, pair.bright_after
    whole = _shift(before, after)
    height, width = before.shape
    halves = [(slice(0, n // 2), slice(n - n // 2, n)) for n in (height, width)]
    parts = [(rows, columns) for rows in halves[0] for columns in halves[1]]
    centres = np.array([[(c.start + c.stop) / 2, (r.start + r.stop) / 2] for r, c in parts])
    shifts = np.array([_shift(before[part], after[part]) for part in parts])
    scale = np.array(pair.scale)
    agree = np.ones(len(parts), np.bool_)
    chosen = choose_motion(centres * scale, (centres + shifts) * scale, agree, ("identity", "translation"))
    homography = np.eye(3)
    if chosen.model == "translation":
        homography[:2, 2] = whole * scale
    apart = np.linalg.norm(shifts * scale - homography[:2, 2], axis=1)
    return Motion(homography, chosen.model, float(np.sqrt(np.mean(apart**2))), agree)


def _shift(before: Grey, after: Grey) -> npt.NDArray[np.float64]:
    """The shift (x, y) from `before` to `after` by phase correlation (Kuglin and Hines 1975), Hann window."""
    window = cv2.createHanningWindow((before.shape[1], before.shape[0]), cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(before.astype(np.float32), after.astype(np.float32), window)
    return np.array([x, y])


def _by_ecc(pair: _Pair) -> Motion:
    """The movement by features, or by phase where there are too few, refined on the pixels that agree with it.

    Where that does not converge, or does not score higher, the start is returned.
    """
    try:
        start = _by_features(pair)
    except AlignmentError:
        start = _by_phase(pair)
    if start.model == "identity":
        return start
    kinds = {
        "translation": cv2.MOTION_TRANSLATION,
        "affine": cv2.MOTION_AFFINE,
        "homography": cv2.MOTION_HOMOGRAPHY,
    }
    first = edge_to_centre(pair.to_working(start.homography))
    first = (first / first[2, 2]).astype(np.float32)
    projective = start.model == "homography"
    before, after = pair.before.working, pair.bright_after
    drawn, shown = warp(before, centre_to_edge(first.astype(np.float64)), before.shape)
    # What moved on its own, or has no counterpart, must not pull.
    apart = cv2.absdiff(drawn, after)
    noise = 1.4826 * float(np.median(apart[shown])) if shown.any() else 0.0
    mask = (shown & (apart <= 4 * max(noise, 2.0))).astype(np.uint8)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-5)
    # Unblurred (the last argument): with OpenCV's blur of 5 the error on PETS was four times as large.
    try:
        _, refined = cv2.findTransformECC(
            before, after, first if projective else first[:2], kinds[start.model], criteria, mask, 1
        )
    except cv2.error:
        return start
    matrix = refined if projective else np.vstack([refined, (0, 0, 1)])
    homography = pair.to_full(centre_to_edge(matrix.astype(np.float64)))
    if _score(pair, homography) < _score(pair, start.homography):
        return start
    return Motion(homography, start.model, start.residual, start.inliers)


_METHODS: dict[Method, Callable[[_Pair], Motion]] = {"phase": _by_phase, "features": _by_features, "ecc": _by_ecc}


def _check_plausible(homography: Matrix, size: Size) -> None:
    """A camera neither mirrors the frame nor makes a fourth or four times of it."""
    corners = corners_of(size)
    depth = corners @ homography[2, :2] + homography[2, 2]
    area = cv2.contourArea(map_points(corners, homography).astype(np.float32), oriented=True) / (size[0] * size[1])
    if not np.isfinite(homography).all() or depth.min() <= 0 or not 0.25 < area < 4:
        raise AlignmentError("the movement found is not one of a camera", _REMEDY)


def _score(pair: _Pair, homography: Matrix) -> float:
    """Mean correlation, clipped to [0, 1], of the detail of the aligned frames over blocks with texture.

    Every second row is looked at.
    """
    first, second = pair.before.detail, pair.after.detail[::2]
    (height, width), (full_height, full_width) = first.shape, pair.before.grey.shape
    if is_identity(homography):
        first = first[::2]
    else:
        reduced = rescale_motion(homography, width / full_width, height / full_height)
        # A pixel that takes but a thousandth from beyond the border is known by it.
        first = draw_moved(first, _SECOND_ROWS @ reduced, (len(second), width), beyond=1e6)
        shown = cv2.compare(first, 512.0, cv2.CMP_LT)
        first, second = cv2.copyTo(first, shown), cv2.copyTo(second, shown)
    blocks = (max(1, width // 12), max(1, height // 12))
    product, power_first, power_second = (
        cv2.resize(values, blocks, interpolation=cv2.INTER_AREA)
        for values in (cv2.multiply(first, second), cv2.multiply(first, first), cv2.multiply(second, second))
    )
    textured = np.maximum(power_first, power_second) > 4 * _LEAST_DETAIL**2
    if not textured.any():
        return _UNVERIFIED_SCORE
    correlation = product[textured] / np.sqrt(np.maximum(power_first * power_second, 1e-6))[textured]
    return float(np.minimum(np.maximum(correlation, 0), 1).sum() / len(correlation))
