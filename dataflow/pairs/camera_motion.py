"""Synthetic camera movement, whose truth is known: for tests, benchmarks and augmentation."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dataflow.boxes import Size
from dataflow.errors import UsageError
from dataflow.images import RgbImage
from dataflow.pairs.motion_models import Matrix, edge_to_centre, is_identity

Mask = npt.NDArray[np.bool_]
# OpenCV's warps count pixels in 16 bits with a sign.
_LONGEST_SIDE = 32766


@dataclass(frozen=True)
class Movement:
    """A movement of the camera between two frames, as it shows in the later one.

    The scene is turned by `rotation` degrees (clockwise as displayed) and magnified by `zoom` about the centre of
    the frame, then shifted by (`shift_x`, `shift_y`) pixels right and down; its brightness is multiplied by `exposure`.
    """

    shift_x: float = 0.0
    shift_y: float = 0.0
    rotation: float = 0.0
    zoom: float = 1.0
    exposure: float = 1.0

    def homography(self, size: Size) -> Matrix:
        """The movement (3, 3) float64 of continuous pixel coordinates in a frame of `size` (height, width)."""
        height, width = size
        angle = np.deg2rad(self.rotation)
        cosine, sine = self.zoom * np.cos(angle), self.zoom * np.sin(angle)
        turn = np.array([[cosine, -sine], [sine, cosine]])
        centre = np.array([width / 2, height / 2])
        matrix = np.eye(3)
        matrix[:2, :2] = turn
        matrix[:2, 2] = centre - turn @ centre + (self.shift_x, self.shift_y)
        return matrix


@dataclass(frozen=True)
class ShakenFrame:
    """A frame after a movement.

    `pixels` (H, W, 3) uint8, the true `homography` (3, 3) from the frame as it was, and `valid` (H, W) bool: the
    pixels that the frame as it was shows; the others repeat its border.
    """

    pixels: RgbImage
    homography: Matrix
    valid: Mask


def random_movement(
    rng: np.random.Generator,
    shift: float = 12.0,
    rotation: float = 2.0,
    zoom: float = 0.02,
    exposure: float = 0.2,
) -> Movement:
    """A movement drawn evenly within bounds.

    A shift of at most `shift` px in any direction, a turn of at most `rotation` degrees either way, a magnification
    within 1 - `zoom` and 1 + `zoom`, and a brightness within 1 - `exposure` and 1 + `exposure`.
    """
    length, direction = shift * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
    return Movement(
        shift_x=float(length * np.cos(direction)),
        shift_y=float(length * np.sin(direction)),
        rotation=float(rng.uniform(-rotation, rotation)),
        zoom=float(1 + rng.uniform(-zoom, zoom)),
        exposure=float(1 + rng.uniform(-exposure, exposure)),
    )


def shake(frame: RgbImage, movement: Movement, sharp: bool = True) -> ShakenFrame:
    """The frame (H, W, 3) uint8 as a camera would see it after `movement`; no movement returns the same values.

    `sharp` keeps fine detail (Lanczos over 8 pixels, for measurements); without it the drawing is bilinear, softer
    and about ten times as fast (for augmentation).
    """
    size = (frame.shape[0], frame.shape[1])
    homography = movement.homography(size)
    # OpenCV's cubic kernel (a = -0.75) does not keep ramps: it moves a scene by up to 0.05 px more than it was told.
    moved, valid = warp(frame, homography, size, cv2.INTER_LANCZOS4 if sharp else cv2.INTER_LINEAR)
    if movement.exposure != 1.0:
        moved = cv2.convertScaleAbs(moved, alpha=movement.exposure)
    return ShakenFrame(moved, homography, valid)


def warp(
    frame: npt.NDArray[Any], homography: Matrix, size: Size, interpolation: int = cv2.INTER_LINEAR
) -> tuple[npt.NDArray[Any], Mask]:
    """A frame moved by `homography` onto a canvas of `size`, and where it has pixels: (H, W) bool.

    `frame`: (H, W, 3) or (H, W), uint8 or float32; the pixels returned are of its kind.
    A pixel is valid when its centre lies between centres of pixels of `frame`, so that nothing had to be guessed;
    the others repeat the border. The identity copies.

    Raises:
        UsageError: a side is longer than 32,766 px, and the frame moves.
    """
    if is_identity(homography) and frame.shape[:2] == size:
        return frame.copy(), np.ones(size, np.bool_)
    valid = _shown(edge_to_centre(homography), (frame.shape[0], frame.shape[1]), size)
    return draw_moved(frame, homography, size, interpolation), valid


def draw_moved(
    frame: npt.NDArray[Any],
    homography: Matrix,
    size: Size,
    interpolation: int = cv2.INTER_LINEAR,
    beyond: float | None = None,
) -> npt.NDArray[Any]:
    """The pixels of `warp` alone; the identity, too, is drawn. `beyond` stands for what lies beyond a frame (H, W).

    Raises:
        UsageError: a side is longer than 32,766 px.
    """
    if max(*frame.shape[:2], *size) > _LONGEST_SIDE:
        height, width = frame.shape[:2]
        remedy = f"use frames of at most {_LONGEST_SIDE} px a side, or do not align them"
        raise UsageError(f"a frame of {width}x{height} px cannot be drawn moved", remedy)
    matrix, canvas = edge_to_centre(homography), (size[1], size[0])
    border = cv2.BORDER_REPLICATE if beyond is None else cv2.BORDER_CONSTANT
    outside = beyond or 0.0
    if matrix[2].tolist() == [0, 0, 1]:
        drawn = cv2.warpAffine(frame, matrix[:2], canvas, None, interpolation, border, outside)
    else:
        drawn = cv2.warpPerspective(frame, matrix, canvas, None, interpolation, border, outside)
    return np.asarray(drawn)


def _shown(matrix: Matrix, source: Size, size: Size) -> Mask:
    """Which pixels (H, W) of a canvas of `size` fall between pixel centres of a frame of size `source`.

    Along a row every condition is linear in x once multiplied by the (positive) denominator, so each row's pixels
    are one interval, found without looking at the pixels.
    """
    (a, b, c), (height, width) = np.linalg.inv(matrix), source
    rows, columns = size
    slack = 1e-6
    y, low = np.arange(rows, dtype=np.float64), np.zeros(rows)
    high = low + (columns - 1)
    # slope * x + along_y * y + constant >= 0 for: x' >= 0, x' <= width - 1, y' >= 0, y' <= height - 1, denominator > 0.
    for slope, along_y, constant in (
        a + slack * c,
        (width - 1 + slack) * c - a,
        b + slack * c,
        (height - 1 + slack) * c - b,
        c,
    ):
        # Where nothing depends on x, a slope of next to nothing puts the crossing beyond all pixels, on either side.
        crossing = (along_y * y + constant) / -(slope if abs(slope) > 1e-12 else 1e-12)
        if slope < -1e-12:
            np.minimum(high, crossing, out=high)
        else:
            np.maximum(low, crossing, out=low)
    # Runs are written out, in a tenth of the time in which pixels are compared.
    runs = np.empty((rows, 3), np.intp)
    begin, end, rest = runs.T
    begin[:] = np.minimum(np.ceil(low - slack), columns)
    end[:] = np.maximum(np.floor(high + slack) + 1, begin) - begin
    rest[:] = columns - begin - end
    pattern = np.zeros((rows, 3), np.bool_)
    pattern[:, 1] = True
    return pattern.ravel().repeat(runs.ravel()).reshape(size)
