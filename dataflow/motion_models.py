"""Movements of a frame as 3x3 matrices: mapping points, fitting a movement to matches, choosing how rich it may be.

Coordinates are continuous pixels as in `dataflow.boxes` (0 is the outer edge of the first pixel). OpenCV counts from
the centre of the first pixel; `edge_to_centre` carries a matrix over for its calls, `centre_to_edge` back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
    """Matches `u` (N, 3, homogeneous) -> `v` (N, 2), centred and scaled.

    Those that agree (N,), and how near positions are believed.
    """

    u: Points
    v: Points
    inliers: npt.NDArray[np.bool_]
    position_noise: float


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
    to_unit, u, v = _in_unit(source, target)
    fitted = np.eye(3)
    for step in ("affine", model, model) if model == "homography" else (model,):
        fitted = _step(step, _homogeneous(u), v, weights, fitted)
    return _in_pixels(fitted, to_unit)


def _in_unit(source: Points, target: Points) -> tuple[Matrix, Points, Points]:
    """Matches centred and scaled after Hartley (1997, "In defense of the eight-point algorithm"), and how."""
    centre = source.mean(axis=0)
    scale = max(float(np.abs(source - centre).mean()), 1e-6)
    to_unit = np.array([[1 / scale, 0, -centre[0] / scale], [0, 1 / scale, -centre[1] / scale], [0, 0, 1]])
    return to_unit, (source - centre) / scale, (target - centre) / scale


def _homogeneous(u: Points) -> Points:
    padded = np.ones((len(u), 3))
    padded[:, :2] = u
    return padded


def _in_pixels(fitted: Matrix, to_unit: Matrix) -> Matrix:
    in_pixels: Matrix = np.linalg.inv(to_unit) @ fitted @ to_unit
    in_pixels /= in_pixels[2, 2]
    return in_pixels


def _step(model: MotionModel, u: Points, v: Points, weights: npt.NDArray[np.float64], current: Matrix) -> Matrix:
    """The weighted fit of a model to `u` (N, 3, homogeneous) -> `v` (N, 2).

    Of the homography, a Gauss-Newton step on from `current`.
    """
    fitted = np.eye(3)
    if model == "translation":
        fitted[:2, 2] = weights @ (v - u[:, :2]) / weights.sum()
    elif model == "affine":
        weighted = u.T * weights
        fitted[:2] = np.linalg.solve(weighted @ u, weighted @ v).T
    elif model == "homography":
        jacobian, error = _linearise(u, v, current)
        weighted = (jacobian * weights[:, None, None]).reshape(-1, 8).T
        step = np.linalg.solve(weighted @ jacobian.reshape(-1, 8), weighted @ error.ravel())
        fitted = current + np.append(step, 0.0).reshape(3, 3)
    if not np.isfinite(fitted).all():
        raise np.linalg.LinAlgError("no finite fit")
    return fitted


def _linearise(u: Points, v: Points, current: Matrix) -> tuple[npt.NDArray[np.float64], Points]:
    """Derivatives (N, 2, 8) of the mapped points `u` (N, 3) after a homography's entries, and what is left (N, 2)."""
    moved = u @ current.T
    mapped, homogeneous = moved[:, :2] / moved[:, 2:], u / moved[:, 2:]
    jacobian = np.zeros((len(u), 2, 8))
    jacobian[:, 0, 0:3] = homogeneous
    jacobian[:, 1, 3:6] = homogeneous
    np.multiply(-mapped[:, :, None], homogeneous[:, None, :2], out=jacobian[:, :, 6:8])
    return jacobian, v - mapped


def _squares(model: MotionModel, matches: _Matches, fitted: Matrix) -> npt.NDArray[np.float64]:
    """Squared distances (N,) of matches from a movement."""
    if model == "homography":
        moved = matches.u @ fitted.T
        apart = moved[:, :2] / moved[:, 2:] - matches.v
    else:
        apart = matches.u @ fitted[:2].T - matches.v
    return np.asarray(np.vecdot(apart, apart), np.float64)


def _settle(model: MotionModel, matches: _Matches, start: Matrix) -> tuple[_Fit, npt.NDArray[np.float64]]:
    """A model fitted to the matches that agree with it, starting from the consensus, and how far each is believed.

    Tukey's biweight with its usual constant 4.685 (Beaton and Tukey 1974), the scale from the consensus's median.
    """
    weights, fitted = matches.inliers.astype(np.float64), start
    for _ in range(_ROUNDS):
        fitted = _step(model, matches.u, matches.v, weights, fitted)
        squares = _squares(model, matches, fitted)
        noise = max(_spread(squares, matches.inliers), matches.position_noise / 2)
        weights = np.square(np.maximum(1 - squares / (_TUKEY * noise) ** 2, 0))
    return _Fit(model, fitted, squares), weights


def _spread(squares: npt.NDArray[np.float64], inliers: npt.NDArray[np.bool_]) -> float:
    """The standard deviation per coordinate that the consensus's upper median distance stands for."""
    agreeing = squares[inliers]
    middle = len(agreeing) // 2
    return math.sqrt(np.partition(agreeing, middle)[middle]) / _RAYLEIGH_MEDIAN


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
    to_unit, u, v = _in_unit(source, target)
    matches = _Matches(_homogeneous(u), v, inliers, POSITION_NOISE * float(to_unit[0, 0]))
    penalty = math.log(4 * len(source))
    weights = inliers.astype(np.float64)
    fits: list[_Fit] = []
    for model in (model for model in _LINEAR if model in models):
        try:
            if fits:
                fitted = _step(model, matches.u, v, weights, np.eye(3))
                fits.append(_Fit(model, fitted, _squares(model, matches, fitted)))
            else:
                fit, weights = _settle(model, matches, np.eye(3))
                fits.append(fit)
        except np.linalg.LinAlgError:
            continue
    if "homography" in models and fits[0].model == "affine":
        fits = _homography(matches, weights, fits[0], 2 * penalty) + fits
    noise = max(_spread(fits[0].squares, inliers), matches.position_noise)
    costs = [_unexplained(fit, noise) + penalty * _PARAMETERS[fit.model] for fit in fits]
    best = fits[int(np.argmin(costs))]
    agree = best.squares <= (_TUKEY * noise) ** 2
    residual = math.sqrt(best.squares[agree].mean()) / float(to_unit[0, 0]) if agree.any() else float("inf")
    homography = np.eye(3) if best.model == "identity" else _in_pixels(best.matrix, to_unit)
    return Motion(homography, best.model, residual, agree)


def _unexplained(fit: _Fit, noise: float) -> float:
    """What a model leaves unexplained: the first term of GRIC."""
    return float(np.minimum(fit.squares / noise**2, 4).sum())


def _homography(matches: _Matches, weights: npt.NDArray[np.float64], affine: _Fit, worth: float) -> list[_Fit]:
    """The homography, if already a first step to it from the affine movement explains more by `worth`."""
    try:
        matrix = _step("homography", matches.u, matches.v, weights, affine.matrix)
        first = _Fit("homography", matrix, _squares("homography", matches, matrix))
        noise = max(_spread(first.squares, matches.inliers), matches.position_noise)
        if _unexplained(first, noise) + worth >= _unexplained(affine, noise):
            return []
        return [_settle("homography", matches, matrix)[0]]
    except np.linalg.LinAlgError:
        return []
