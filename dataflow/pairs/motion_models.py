"""Movements of a frame as 3x3 matrices: mapping points, fitting a movement to matches, choosing how rich it may be.

Coordinates are continuous pixels as in `dataflow.boxes` (0 is the outer edge of the first pixel). OpenCV counts from
the centre of the first pixel; `edge_to_centre` carries a matrix over for its calls, `centre_to_edge` back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from dataflow.boxes import Boxes, Size

MotionModel = Literal["identity", "translation", "affine", "homography"]
Matrix = npt.NDArray[np.float64]
Points = npt.NDArray[np.float64]

MODELS: tuple[MotionModel, ...] = ("identity", "translation", "affine", "homography")
_PARAMETERS: dict[MotionModel, int] = {"identity": 0, "translation": 2, "affine": 6, "homography": 8}
# Corner positions are not believed to better than this, in pixels of the full frame: errors of neighbouring corners
# go together (JPEG blocks, shadows), so averaging many of them does not bring the precision their number promises.
POSITION_NOISE = 0.15
_LINEAR: tuple[MotionModel, ...] = ("affine", "translation", "identity")
_TUKEY = 4.685
_ROUNDS = 2
_RAYLEIGH_MEDIAN = 1.1774
_IDENTITY = np.eye(3)
_HALF_PIXEL = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]], np.float64)
_MINUS_HALF_PIXEL = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]], np.float64)


@dataclass(frozen=True)
class Motion:
    """A movement fitted to matches.

    `homography` (3, 3) float64, its `model`, the matches that agree with it (`inliers`, (N,) bool) and the root mean
    square of their distances from it (`residual`, pixels).
    """

    homography: Matrix
    model: MotionModel
    residual: float
    inliers: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Matches:
    """Matches centred and scaled: `u` (N, 3, homogeneous) -> `v` (N, 2); those that agree (`inliers`, (N,)).

    `apart` (N, 2) is how far they are apart, `centre` and `scale` lead back to pixels.
    """

    u: Points
    v: Points
    apart: Points
    inliers: npt.NDArray[np.bool_]
    centre: Points
    scale: float

    @property
    def position_noise(self) -> float:
        """How near positions are believed."""
        return POSITION_NOISE / self.scale


@dataclass(frozen=True)
class _Fit:
    """A model, its matrix, and the squared distances (N,) of the matches from it; all of scaled matches."""

    model: MotionModel
    matrix: Matrix
    squares: npt.NDArray[np.float64]


def edge_to_centre(homography: Matrix) -> Matrix:
    """A movement (3, 3) in continuous coordinates as one that counts from pixel centres (OpenCV)."""
    return _MINUS_HALF_PIXEL @ homography @ _HALF_PIXEL


def centre_to_edge(homography: Matrix) -> Matrix:
    """A movement (3, 3) that counts from pixel centres (OpenCV) in continuous coordinates."""
    return _HALF_PIXEL @ homography @ _MINUS_HALF_PIXEL


def is_identity(homography: Matrix) -> bool:
    """Whether a movement (3, 3) leaves every point exactly where it is."""
    return bool((homography == _IDENTITY).all())


def rescale_motion(homography: Matrix, factor_x: float, factor_y: float) -> Matrix:
    """A movement (3, 3) between frames in continuous coordinates after both are resized by the factors."""
    scale = np.array([factor_x, factor_y, 1.0])
    rescaled: Matrix = homography * scale[:, None] / scale[None, :]
    return rescaled


def map_points(points: npt.ArrayLike, homography: Matrix) -> Points:
    """Points (N, 2) moved by a homography (3, 3)."""
    xy = np.asarray(points, np.float64).reshape(-1, 2)
    moved = xy @ homography[:2, :2].T + homography[:2, 2]
    mapped: Points = moved / (xy @ homography[2, :2] + homography[2, 2])[:, None]
    return mapped


def corners_of(size: Size) -> Points:
    """The four outer corners (4, 2) of a frame of `size` (height, width), clockwise from the top left."""
    height, width = size
    return np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)


def corner_error(estimate: Matrix, truth: Matrix, size: Size) -> float:
    """Mean distance, in pixels, of the four corners mapped by `estimate` from where `truth` maps them."""
    corners = corners_of(size)
    distances = np.linalg.norm(map_points(corners, estimate) - map_points(corners, truth), axis=1)
    return float(distances.mean())


def carry_boxes(boxes: npt.ArrayLike, homography: Matrix) -> Boxes:
    """Xyxy boxes (N, 4) of the before frame in the after frame: the upright box around each one's moved corners."""
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    corners = np.stack([x0, y0, x1, y0, x1, y1, x0, y1], axis=1)
    moved = map_points(corners, homography).reshape(-1, 4, 2)
    carried: Boxes = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1).astype(np.float32)
    return carried


def fit_motion(model: MotionModel, source: Points, target: Points, weights: npt.NDArray[np.float64]) -> Matrix:
    """The movement of the given model that maps `source` (N, 2) nearest to `target` (N, 2), weights (N,).

    The least weighted squares of the reprojection error: the homography by two Gauss-Newton steps from the affine
    movement, the others in closed form.
    Raises numpy.linalg.LinAlgError where the points do not settle it.
    """
    matches = _in_unit(source, target, np.ones(len(source), np.bool_))
    matrix = np.eye(3)
    for step in ("affine", model, model) if model == "homography" else (model,):
        matrix = _fit(step, matches, weights, matrix).matrix
    return _in_pixels(matrix, matches)


def _in_unit(source: Points, target: Points, inliers: npt.NDArray[np.bool_]) -> _Matches:
    """Matches centred and scaled after Hartley (1997, "In defense of the eight-point algorithm")."""
    centre = source.sum(axis=0) / len(source)
    from_centre = source - centre
    scale = max(float(np.abs(from_centre).sum()) / from_centre.size, 1e-6)
    u = np.empty((len(source), 3))
    u[:, :2], u[:, 2] = from_centre / scale, 1
    v = (target - centre) / scale
    return _Matches(u, v, v - u[:, :2], inliers, centre, scale)


def _in_pixels(matrix: Matrix, matches: _Matches) -> Matrix:
    (x, y), scale = matches.centre.tolist(), matches.scale
    to_unit = np.array([[1 / scale, 0, -x / scale], [0, 1 / scale, -y / scale], [0, 0, 1]])
    in_pixels: Matrix = np.array([[scale, 0, x], [0, scale, y], [0, 0, 1]]) @ matrix @ to_unit
    in_pixels /= in_pixels[2, 2]
    return in_pixels


def _fit(model: MotionModel, matches: _Matches, weights: npt.NDArray[np.float64], current: Matrix) -> _Fit:
    """The weighted fit of a model; of the homography, a Gauss-Newton step on from `current`."""
    if model == "homography":
        matrix, _ = _homography_step(matches, weights, current)
        moved = matches.u @ matrix.T
        apart = moved[:, :2] / moved[:, 2:] - matches.v
    elif model == "affine":
        weighted = matches.u.T * weights
        rows = _solve(weighted @ matches.u, weighted @ matches.v)
        matrix, apart = np.array([*rows.T, (0.0, 0.0, 1.0)]), matches.u @ rows - matches.v
    else:
        matrix, apart = np.eye(3), matches.apart
        if model == "translation":
            matrix[:2, 2] = weights @ apart / weights.sum()
            apart = apart - matrix[:2, 2]
    return _Fit(model, matrix, np.asarray(np.vecdot(apart, apart), np.float64))


def _homography_step(matches: _Matches, weights: npt.NDArray[np.float64], current: Matrix) -> tuple[Matrix, float]:
    """A homography a Gauss-Newton step on from `current`, and the decrease of weighted squares that it promises."""
    moved = matches.u @ current.T
    mapped, homogeneous = moved[:, :2] / moved[:, 2:], matches.u / moved[:, 2:]
    # Derivatives (N, 2, 8) of the mapped points after the matrix's entries, and what is left of them behind these.
    system = np.zeros((len(moved), 2, 9))
    system[:, 0, 0:3] = homogeneous
    system[:, 1, 3:6] = homogeneous
    np.multiply(-mapped[:, :, None], homogeneous[:, None, :2], out=system[:, :, 6:8])
    np.subtract(matches.v, mapped, out=system[:, :, 8])
    weighted = (system[:, :, :8] * weights[:, None, None]).reshape(-1, 8).T
    normal = weighted @ system.reshape(-1, 9)
    step = _solve(np.ascontiguousarray(normal[:, :8]), normal[:, 8:])
    matrix = current.copy()
    matrix.ravel()[:8] += step.ravel()
    return matrix, float(step.ravel() @ normal[:, 8])


def _solve(normal: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The solution of normal equations (k, k) for right-hand sides (k, m), in a third of `np.linalg.solve`'s time.

    Raises numpy.linalg.LinAlgError where there is none.
    """
    solved, solution = cv2.solve(normal, right)
    if not solved or not np.isfinite(solution).all():
        raise np.linalg.LinAlgError("the points do not settle it")
    return np.asarray(solution, np.float64)


def _settle(model: MotionModel, matches: _Matches, start: Matrix) -> tuple[_Fit, npt.NDArray[np.float64]]:
    """A model fitted to the matches that agree with it, starting from the consensus, and how far each is believed.

    Tukey's biweight with its usual constant 4.685 (Beaton and Tukey 1974), the scale from the consensus's median.
    """
    weights, fit = matches.inliers.astype(np.float64), _Fit(model, start, np.zeros(0))
    for _ in range(_ROUNDS):
        fit = _fit(model, matches, weights, fit.matrix)
        noise = max(_spread(fit, matches.inliers), matches.position_noise / 2)
        weights = np.square(np.maximum(1 - fit.squares / (_TUKEY * noise) ** 2, 0))
    return fit, weights


def _spread(fit: _Fit, inliers: npt.NDArray[np.bool_]) -> float:
    """The standard deviation per coordinate that the consensus's upper median distance stands for."""
    agreeing = fit.squares[inliers]
    middle = len(agreeing) // 2
    agreeing.partition(middle)
    return math.sqrt(agreeing[middle]) / _RAYLEIGH_MEDIAN


def choose_motion(
    source: Points, target: Points, inliers: npt.NDArray[np.bool_], models: Sequence[MotionModel] = MODELS
) -> Motion:
    """The simplest movement that explains matches `source` -> `target` (N, 2), some of which agree (`inliers`).

    By the geometric robust information criterion, GRIC (Torr 1998, "Geometric motion segmentation and model
    selection"): sum of min(e^2 / sigma^2, 2 (r - d)) + d n ln r + k ln(r n), with r = 4 coordinates in a
    match and d = 2 for all four models, so that the middle term is common and left out; k is the number of
    parameters. sigma is the residual of the richest model, and at least `POSITION_NOISE`. A model that the matches
    do not settle is passed over.
    """
    matches = _in_unit(source, target, inliers)
    penalty = math.log(4 * len(source))
    weights = inliers.astype(np.float64)
    fits: list[_Fit] = []
    for model in (model for model in _LINEAR if model in models):
        try:
            if fits:
                fits.append(_fit(model, matches, weights, np.eye(3)))
            else:
                fit, weights = _settle(model, matches, np.eye(3))
                fits.append(fit)
        except np.linalg.LinAlgError:
            continue
    if "homography" in models and fits[0].model == "affine":
        noise = max(_spread(fits[0], inliers), matches.position_noise)
        # Half of what its two parameters cost: only some of the matches are believed yet.
        fits = _homography(matches, weights, fits[0].matrix, penalty * noise**2) + fits
    noise = max(_spread(fits[0], inliers), matches.position_noise)
    costs = [_unexplained(fit, noise) + penalty * _PARAMETERS[fit.model] for fit in fits]
    best = fits[costs.index(min(costs))]
    agree = best.squares <= (_TUKEY * noise) ** 2
    agreeing = best.squares[agree]
    residual = math.sqrt(agreeing.sum() / len(agreeing)) * matches.scale if len(agreeing) else float("inf")
    homography = np.eye(3) if best.model == "identity" else _in_pixels(best.matrix, matches)
    return Motion(homography, best.model, residual, agree)


def _unexplained(fit: _Fit, noise: float) -> float:
    """What a model leaves unexplained: the first term of GRIC."""
    return float(np.minimum(fit.squares / noise**2, 4).sum())


def _homography(
    matches: _Matches, weights: npt.NDArray[np.float64], affine: Matrix, least_decrease: float
) -> list[_Fit]:
    """The homography, if a first step to it from the affine movement promises that squares fall by enough."""
    try:
        first, decrease = _homography_step(matches, weights, affine)
        return [_settle("homography", matches, first)[0]] if decrease > least_decrease else []
    except np.linalg.LinAlgError:
        return []
