"""Augmentation of before/after pairs for training: where the camera stood, what light there was, how it shook.

Everything happens to the frames as they were taken, before alignment and difference, which then see what they would see
of a real pair. First both frames are magnified alike, then each gets a light of its own and the after frame a shake.
Mirroring, which commutes with all of that, is done where any image is drawn into a batch.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from dataflow.boxes import Size, box_areas
from dataflow.bridge.image_augmentation import cut_at_border, whole
from dataflow.bridge.random_light import LIGHT_LIMITS, Levels, LightBounds, add_noise, changes, lit, random_levels
from dataflow.errors import UsageError
from dataflow.images import RgbImage
from dataflow.pairs.camera_motion import draw_moved, random_movement
from dataflow.pairs.image_diff import checked_pair
from dataflow.pairs.motion_models import Matrix, carry_boxes
from dataflow.records import Objects

# Least and most of each bound. Below half its size a bilinear drawing skips pixels; of frames further apart, no
# alignment follows.
_LIMITS: Final = LIGHT_LIMITS | {
    "scale": (1.0, 2.0),
    "shake_px": (0.0, 200.0),
    "rotation": (0.0, 30.0),
    "zoom": (0.0, 0.3),
}


@dataclass(frozen=True)
class PairAugmentation(LightBounds):
    """How far pairs are changed; the defaults change nothing.

    Both frames alike: magnified by a factor of 1 / `scale` to `scale`, drawn evenly by its logarithm, about a random
    point of the frame. Each frame on its own: brightness multiplied by
    1 - `exposure` to 1 + `exposure`, each channel by 1 - `colour` to 1 + `colour`, the distance from mid-grey by
    1 - `contrast` to 1 + `contrast`, and normal noise of standard deviation `noise` grey levels added. The after frame
    alone: shifted by at most `shake_px` in any direction, turned by at most `rotation` degrees either way, magnified by
    1 - `zoom` to 1 + `zoom`.

    Raises:
        UsageError: a number out of bounds.
    """

    scale: float = 1.0
    shake_px: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0

    def __post_init__(self) -> None:
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise UsageError(f"an augmentation with {name} {value}", f"use a number from {least:g} to {most:g}")


@dataclass(frozen=True, eq=False)
class PairMotion:
    """Where the scene goes: `shared` (3, 3) float64 moves it in both frames, `shake` (3, 3) then in the after frame."""

    shared: Matrix
    shake: Matrix

    @property
    def after(self) -> Matrix:
        """From the after frame as it was to the augmented one (3, 3)."""
        composed: Matrix = self.shake @ self.shared
        return composed


@dataclass(frozen=True, eq=False)
class AugmentedPair:
    """An augmented pair.

    `before` and `after` (H, W, 3) uint8. `objects`: each in pixels of the frame that it is in. `homography` (3, 3)
    float64: the true movement from the before to the after frame, of a scene that stood still in the pair as it was.
    """

    before: RgbImage
    after: RgbImage
    objects: Objects
    homography: Matrix


def augment_pair(
    before: RgbImage, after: RgbImage, objects: Objects, augmentation: PairAugmentation, rng: np.random.Generator
) -> AugmentedPair:
    """A pair (H, W, 3) uint8 of one size as `augmentation` would have it; the frames keep their size.

    `objects.in_before` says in which frame's pixels each object is. What lies beyond the border of a frame repeats it.
    The result depends on `rng` alone, and each property of it on its own bound alone: a pair that is magnified stays
    so when noise is added. A frame that nothing happens to is returned itself, and so are the objects.

    Raises:
        SizeMismatchError: the frames differ in size.
        UsageError: a frame is empty, not of 8 bits, of neither one nor three channels, or too long to be moved.
    """
    before, after = checked_pair(before, after, None)
    size = (after.shape[0], after.shape[1])
    motion = random_motion(augmentation, size, rng)
    lights = [random_levels(augmentation, rng) for _ in range(2)]
    # Each frame is drawn once, from the pixels it came with, and lit after that. The other way round is the same up to
    # rounding where nothing saturates; this way a light saturates what a camera would see, and stays an exact function
    # of the pixels drawn; and noise is not smoothed.
    before, after = (
        _taken(frame, matrix, light, augmentation.noise, rng)
        for frame, matrix, light in zip((before, after), (motion.shared, motion.after), lights, strict=True)
    )
    return AugmentedPair(before, after, move_objects(objects, motion, size), motion.shake)


def random_motion(augmentation: PairAugmentation, size: Size, rng: np.random.Generator) -> PairMotion:
    """A movement of frames of `size` (height, width), drawn evenly within the bounds."""
    height, width = size
    reach = np.log(augmentation.scale)
    factor = np.exp(rng.uniform(-reach, reach))
    x, y = rng.uniform(size=2) * (width, height)
    magnified = np.array([[factor, 0, x * (1 - factor)], [0, factor, y * (1 - factor)], [0, 0, 1]])
    movement = random_movement(rng, augmentation.shake_px, augmentation.rotation, augmentation.zoom, exposure=0)
    return PairMotion(magnified, movement.homography(size))


def _drawn(frame: RgbImage, matrix: Matrix) -> RgbImage:
    """The frame moved by a matrix on a canvas of its size; itself where nothing moves."""
    height, width = frame.shape[:2]
    if np.array_equal(matrix, np.eye(3)):
        return frame
    return np.asarray(draw_moved(frame, matrix, (height, width)), np.uint8)


def _taken(frame: RgbImage, matrix: Matrix, light: Levels, sigma: float, rng: np.random.Generator) -> RgbImage:
    """The frame moved by a matrix, in a light and with noise; itself where nothing happens to it."""
    taken = _drawn(frame, matrix)
    if changes(light):
        # What was drawn is ours to write to; fresh memory would take longer than the change of light.
        taken = lit(taken, light, None if taken is frame else taken)
    return add_noise(taken.copy() if taken is frame else taken, sigma, rng) if sigma else taken


def move_objects(objects: Objects, motion: PairMotion, size: Size) -> Objects:
    """Objects carried along with their frames of `size` (height, width), and cut at the border (see `cut_at_border`).

    Boxes are upright around their moved corners: exact but for a turn. Areas of masks are scaled; the masks themselves
    are not moved but dropped.
    """
    matrices = np.where(objects.in_before[:, None, None], motion.shared, motion.after)
    is_moved = (matrices != np.eye(3)).any(axis=(1, 2))
    if not is_moved.any():
        return objects
    carried = np.where(
        objects.in_before[:, None], carry_boxes(objects.boxes, motion.shared), carry_boxes(objects.boxes, motion.after)
    )
    scaled = objects.areas * np.abs(np.linalg.det(matrices[:, :2, :2]))
    is_box = np.isclose(objects.areas, box_areas(objects.boxes), rtol=1e-4)
    areas = np.where(is_moved, np.where(is_box, box_areas(carried), scaled), objects.areas)
    return cut_at_border(objects, carried, areas, whole(size), is_moved)
