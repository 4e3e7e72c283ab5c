"""Movements of a frame as 3x3 matrices: mapping points, fitting a movement to matches, choosing how rich it may be.

Coordinates are continuous pixels as in `dataflow.boxes` (0 is the outer edge of the first pixel). OpenCV counts from
the centre of the first pixel; `edge_to_centre` carries a matrix over for its calls, `centre_to_edge` back.
"""

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
_TUKEY = 4.685
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

    Gauss-Newton on the reprojection error, in coordinates centred and scaled after Hartley (1997, "In defense of the
    eight-point algorithm"); exact in one step but for the homography, which settles in two.
    Raises numpy.linalg.LinAlgError where the points do not settle it.
    """
    if model == "identity":
        return np.eye(3)
    centre = source.mean(axis=0)
    scale = max(float(np.abs(source - centre).mean()), 1e-6)
    to_unit = np.array([[1 / scale, 0, -centre[0] / scale], [0, 1 / scale, -centre[1] / scale], [0, 0, 1]])
    u, v = (source - centre) / scale, (target - centre) / scale
    fitted = np.eye(3)
    for _ in range(2 if model == "homography" else 1):
        jacobian, error = _linearise(model, u, v, fitted)
        weighted = jacobian * np.repeat(weights, 2)[:, None]
        step = np.linalg.solve(weighted.T @ jacobian, weighted.T @ error)
        if model == "translation":
            fitted[:2, 2] += step
        else:
            fitted.ravel()[: len(step)] += step
    in_pixels: Matrix = np.linalg.inv(to_unit) @ fitted @ to_unit
    in_pixels /= in_pixels[2, 2]
    return in_pixels


def _linearise(model: MotionModel, u: Points, v: Points, current: Matrix) -> tuple[Matrix, npt.NDArray[np.float64]]:
    """Derivatives (2N, K) of the mapped points after the model's parameters, and what is left to explain (2N,)."""
    error = (v - map_points(u, current)).ravel()
    jacobian = np.zeros((len(u), 2, 8))
    if model == "translation":
        jacobian[:, 0, 0] = jacobian[:, 1, 1] = 1
        return jacobian[:, :, :2].reshape(-1, 2), error
    homogeneous = np.concatenate([u, np.ones((len(u), 1))], axis=1) / (u @ current[2, :2] + 1)[:, None]
    jacobian[:, 0, 0:3] = homogeneous
    jacobian[:, 1, 3:6] = homogeneous
    jacobian[:, :, 6:8] = -map_points(u, current)[:, :, None] * homogeneous[:, None, :2]
    columns = _PARAMETERS[model]
    return jacobian[:, :, :columns].reshape(-1, columns), error


def _robust_weights(
    model: MotionModel, source: Points, target: Points, inliers: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """How far each match (N,) is believed once the richest model is fitted, starting from the consensus.

    Tukey's biweight with its usual constant 4.685 (Beaton and Tukey 1974), the scale from the consensus's median.
    """
    weights = inliers.astype(np.float64)
    for _ in range(3):
        fitted = fit_motion(model, source, target, weights)
        distances = np.linalg.norm(map_points(source, fitted) - target, axis=1)
        noise = max(float(np.median(distances[inliers])) / _RAYLEIGH_MEDIAN, POSITION_NOISE / 2)
        weights = np.clip(1 - (distances / (_TUKEY * noise)) ** 2, 0, None) ** 2
    return weights


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
    weights = inliers.astype(np.float64)
    fits: list[tuple[MotionModel, Matrix, npt.NDArray[np.float64]]] = []
    for model in sorted(models, key=MODELS.index, reverse=True):
        try:
            if not fits:
                weights = _robust_weights(model, source, target, inliers)
            fitted = fit_motion(model, source, target, weights)
        except np.linalg.LinAlgError:
            continue
        if np.isfinite(fitted).all():
            fits.append((model, fitted, np.linalg.norm(map_points(source, fitted) - target, axis=1)))
    noise = max(float(np.median(fits[0][2][inliers])) / _RAYLEIGH_MEDIAN, POSITION_NOISE)
    penalty = np.log(4 * len(source))
    costs = [np.minimum((e / noise) ** 2, 4).sum() + penalty * _PARAMETERS[model] for model, _, e in fits]
    model, fitted, distances = fits[int(np.argmin(costs))]
    agree = distances <= _TUKEY * noise
    residual = float(np.sqrt(np.mean(distances[agree] ** 2))) if agree.any() else float("inf")
    return Motion(fitted, model, residual, agree)
