"""Augmentation of single images for training: which part of an image is shown, how large, and in what light.

What is shown is decided before anything is decoded, from the size of the image and its boxes, so that the canvas of a
batch is known at once; drawing then costs what it costs without. Mirroring is done where an image is drawn.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from dataflow.boxes import LEAST_SIDE_PX, Boxes, Size, box_areas
from dataflow.bridge.random_light import LIGHT_LIMITS, LightBounds
from dataflow.errors import UsageError
from dataflow.records import Objects

# An object of which less than this share is left at the border is not asked for: what remains of it seldom tells its
# class, and a box around it would teach to detect fragments.
LEAST_SHOWN = 0.2

# Least and most of each bound.
_LIMITS: Final = LIGHT_LIMITS | {"scale": (1.0, 8.0), "crop": (0.1, 1.0)}
# What is cut out lies on multiples of this, so that it can be cut out of a JPEG decoded at reduced size, too; of images
# at least so many times as large.
_GRID, _GRIDS = 8, 16

Region = tuple[int, int, int, int]
"""x0, y0, x1, y1 px of an upright image."""


@dataclass(frozen=True)
class ImageAugmentation(LightBounds):
    """How far an image is changed; the defaults change nothing.

    It is shown larger or smaller by a factor of 1 / `scale` to `scale`, drawn evenly by its logarithm: larger is a part
    of the image in the size of the whole, smaller is the whole on a part of the canvas (scale jitter). Before that, of
    its height and its width a share of `crop` to 1 each is kept, which changes its shape. One object, drawn at random,
    stays whole, and what is kept grows until it does; others are cut, and not asked for where less than a fifth of them
    is left. Brightness is multiplied by 1 - `exposure` to 1 + `exposure`, each channel by 1 - `colour` to
    1 + `colour`, the distance from mid-grey by 1 - `contrast` to 1 + `contrast`, and normal noise of standard
    deviation `noise` grey levels added, all after resizing.

    Raises:
        UsageError: a number out of bounds.
    """

    scale: float = 1.0
    crop: float = 1.0

    def __post_init__(self) -> None:
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise UsageError(f"an augmentation with {name} {value}", f"use a number from {least:g} to {most:g}")

    @property
    def lights(self) -> bool:
        """Whether it changes levels."""
        return any((self.exposure, self.contrast, self.colour, self.noise))


def whole(size: Size) -> Region:
    """All of an image of `size` (height, width)."""
    return 0, 0, size[1], size[0]


def random_region(
    augmentation: ImageAugmentation, size: Size, objects: Objects, rng: np.random.Generator
) -> tuple[Region, float]:
    """Which part of an image of `size` (height, width) is shown, and how large: at most 1, of the size it would have.

    It depends on `rng` alone, and each property on its own bound alone.
    """
    reach = np.log(augmentation.scale)
    factor = float(np.exp(rng.uniform(-reach, reach)))
    shares = rng.uniform(augmentation.crop, 1, 2) / max(factor, 1.0)
    place, chosen = rng.uniform(size=2), rng.uniform()
    found = objects.boxes[~objects.is_crowd]
    box = found[int(chosen * len(found))] if len(found) else None
    step = _GRID if min(size) >= _GRIDS * _GRID else 1
    y0, y1 = _interval(size[0], shares[0], place[0], step, None if box is None else (box[1], box[3]))
    x0, x1 = _interval(size[1], shares[1], place[1], step, None if box is None else (box[0], box[2]))
    return (x0, y0, x1, y1), min(factor, 1.0)


def _interval(length: int, share: float, place: float, step: int, kept: tuple[float, float] | None) -> tuple[int, int]:
    """About a share of a side, from a multiple of `step` px, at a place (0 to 1) among those that hold `kept`."""
    extent = max(step, round(length * share / step) * step)
    first, last = (0, 0) if kept is None else (int(kept[0]) // step * step, min(length, -int(-kept[1] // step) * step))
    extent = max(extent, last - first)
    if extent > length - step:
        return 0, length
    highest = (length - extent) // step
    low, high = (0, highest) if kept is None else (max(0, -((extent - last) // step)), min(first // step, highest))
    start = min(high, low + int(place * (high - low + 1))) * step
    return start, max(start + extent, last)


def objects_within(objects: Objects, region: Region) -> Objects:
    """The objects that a part of their image shows, cut at its border; still in pixels of the whole image.

    See `cut_at_border`.
    """
    return cut_at_border(objects, objects.boxes, objects.areas, region, np.zeros(len(objects), np.bool_))


def cut_at_border(
    objects: Objects, boxes: Boxes, areas: npt.NDArray[np.float32], border: Region, redrawn: npt.NDArray[np.bool_]
) -> Objects:
    """What is shown of objects that an augmentation has put to other places.

    What has lost nearly all of itself is left out (see `LEAST_SHOWN`), regions to ignore only where nothing of them is
    left: what shows of them is still neither right nor wrong. Areas lose the share that their boxes lose; masks of what
    was cut or `redrawn` are dropped.

    Args:
        objects: the N objects as they were.
        boxes: (N, 4) px, where they are now, perhaps beyond the border.
        areas: (N,) px2, their areas there.
        border: of what is shown, in the same pixels.
        redrawn: (N,) whether a mask does not fit its object any more.
    """
    shown_boxes = np.clip(boxes, np.array(border[:2] * 2, np.float32), np.array(border[2:] * 2, np.float32))
    shown = box_areas(shown_boxes) / box_areas(boxes)
    is_wide = (shown_boxes[:, 2:] - shown_boxes[:, :2] >= LEAST_SIDE_PX).all(axis=1)
    keep = is_wide & (objects.is_crowd | (shown >= LEAST_SHOWN))
    is_cut = (np.abs(shown_boxes - boxes) > LEAST_SIDE_PX).any(axis=1)
    kept, is_other = objects.only(keep), (is_cut | redrawn)[keep]
    return replace(
        kept,
        boxes=shown_boxes[keep],
        areas=(areas * shown)[keep],
        is_truncated=kept.is_truncated | is_cut[keep],
        segmentations=tuple("" if other else text for text, other in zip(kept.segmentations, is_other, strict=True)),
    )
