"""One image on its way into a batch: parsed into a draft, then drawn onto its place on the batch's canvas."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch

from dataflow.boxes import Size, xyxy_to_shown
from dataflow.bridge.batches import Target
from dataflow.bridge.drawing import resize
from dataflow.bridge.image_augmentation import ImageAugmentation, Region, objects_within, whole
from dataflow.bridge.pair_augmentation import PairAugmentation
from dataflow.bridge.random_light import Levels, add_noise, changes, lit
from dataflow.bridge.view import Homography, Seen, Show
from dataflow.errors import ShardboxError
from dataflow.images import Decoded, ImageError, RgbImage, decode
from dataflow.prepared import Shard
from dataflow.records import Objects
from dataflow.splits import unit_hash


class ExampleError(ShardboxError):
    """An example that cannot be made part of a batch. The message names its image id, shard and position."""


def of_example(image_id: str, place: str, error: ShardboxError) -> ExampleError:
    """An error that names the image it is about."""
    return ExampleError(f"image {image_id!r} ({place}): {error.message}", error.remedy)


def place_of(shard: Shard, position: int) -> str:
    """Where an example is, for messages."""
    return f"{shard.path}, example {position}"


@dataclass(frozen=True)
class Augmentation:
    """What training changes about examples at random, decided for each by a hash of (seed, epoch, image id).

    `flip`: the probability of mirroring left to right, after all else. `images`: which part is shown of an image, how
    large and in what light. `pairs`: what happens to the frames of a pair before they are compared.
    """

    flip: float = 0.0
    seed: int = 0
    images: ImageAugmentation | None = None
    pairs: PairAugmentation | None = None

    def mirrors(self, epoch: int, image_id: str) -> bool:
        """Whether this image is mirrored in this epoch."""
        return self.flip > 0 and unit_hash("flip", self.seed, epoch, image_id) < self.flip

    def generator(self, what: Literal["pair", "image"], epoch: int, image_id: str) -> np.random.Generator:
        """What this example is changed by in this epoch."""
        return np.random.default_rng(int(unit_hash(what, self.seed, epoch, image_id) * 2**53))


class Encoded(NamedTuple):
    """An encoded image, and the EXIF orientation applied before anything else (None: its own)."""

    image: bytes
    orientation: int | None = None


@dataclass(frozen=True, eq=False)
class Shown:
    """How an example is shown: a `region` of its image, resized to `size`, `mirrored`, in a light (see `_Light`).

    `reduce`: the fraction of its size that a JPEG is decoded at.
    """

    region: Region
    size: Size
    mirrored: bool = False
    light: "Light | None" = None
    reduce: int = 1

    @cached_property
    def edges(self) -> tuple[int, int, int, int]:
        """Where the left, top, right and bottom edge of what is shown are in the original image; see `Batch.shown`."""
        x0, y0, x1, y1 = self.region
        return (x1, y0, x0, y1) if self.mirrored else (x0, y0, x1, y1)

    def fitted(self, pixels: RgbImage, n: int, room: RgbImage | None = None) -> RgbImage:
        """An image (H, W, 3), decoded at 1 / `n` of its size, as it is shown, in `room` if that can be.

        `pixels` may be written to.
        """
        x0, y0, x1, y1 = self.region
        if (x0, y0) != (0, 0) or (-(-y1 // n), -(-x1 // n)) != pixels.shape[:2]:
            pixels = np.ascontiguousarray(pixels[y0 // n : -(-y1 // n), x0 // n : -(-x1 // n)])
        extent = None if n == 1 else ((y1 - y0) / n, (x1 - x0) / n)
        fitted = resize(pixels, self.size, extent, None if self.mirrored else room)
        if self.light is not None:
            fitted = self.light.on(fitted)
        return np.asarray(cv2.flip(fitted, 1, dst=room), np.uint8) if self.mirrored else fitted


@dataclass(frozen=True, eq=False)
class Light:
    """Levels that change, and noise of a standard deviation in grey levels that comes from a generator."""

    levels: Levels
    noise: float
    rng: np.random.Generator

    def on(self, pixels: RgbImage) -> RgbImage:
        """Pixels (h, w, 3), written to, in this light."""
        shone = lit(pixels, self.levels, pixels) if changes(self.levels) else pixels
        return add_noise(shone, self.noise, self.rng) if self.noise else shone


class Draft(NamedTuple):
    """An example that is to be drawn onto a canvas. Sizes are (height, width) px.

    A tuple, because it takes a fifth of the time of a frozen dataclass, and there is one for every image.
    """

    image_id: str
    shard: Shard
    position: int
    """In the shard."""
    frames: tuple[Encoded, ...]
    show: Show
    """What is seen of them."""
    objects: Objects
    """As stored: in the whole image, not mirrored. None of them where `target` is known."""
    original_size: Size
    shown: Shown
    target: Target | None = None
    """What is to be found, where `show` does not change the objects: they are known before anything is decoded then."""
    homography: Homography | None = None
    """As stored, where `show` wants it."""
    seed: int = 0
    epoch: int = 0

    @property
    def place(self) -> str:
        """Shard and position, for messages."""
        return place_of(self.shard, self.position)

    @property
    def size(self) -> Size:
        """After resizing."""
        return self.shown.size

    @property
    def transform_seed(self) -> int:
        """What a transform of the user's draws from."""
        return int(unit_hash("transform", self.seed, self.epoch, self.image_id) * 2**53)

    def seen(self, room: RgbImage | None = None) -> Seen:
        """What is seen, as it is shown: images (h, w, 3) of `size`, and objects in pixels of the whole image.

        `room` (h, w, 3), rows one behind the other, is where a single image may be made.

        Raises:
            ExampleError: an image cannot be decoded, or has another size than its example says.
        """
        try:
            decoded = [self._decoded(frame, room if self._as_stored else None) for frame in self.frames]
            seen = self.show([one.pixels for one in decoded], self.objects, self.homography)
        except ShardboxError as error:
            raise of_example(self.image_id, self.place, error) from error
        damage = "; ".join(one.damage for one in decoded if one.damage)
        # What is made of two frames is made of them whole.
        images = zip(seen.images, decoded, strict=False)
        fitted = tuple(self.shown.fitted(pixels, one.reduced, room) for pixels, one in images)
        return Seen(fitted, seen.objects, seen.refused, damage)

    @property
    def _as_stored(self) -> bool:
        """Whether what is decoded is what is shown, but for its light."""
        shown, size = self.shown, self.original_size
        return len(self.frames) == 1 and shown.size == size and shown.region == whole(size) and not shown.mirrored

    def _decoded(self, frame: Encoded, room: RgbImage | None) -> Decoded:
        decoded = decode(frame.image, frame.orientation, self.shown.reduce, room)
        height, width = (-(-side // decoded.reduced) for side in self.original_size)
        if decoded.pixels.shape[:2] != (height, width):
            raise ImageError(
                f"the image has (height, width) = {decoded.pixels.shape[:2]} px, its example says {(height, width)}"
                + (f" at 1/{decoded.reduced} of its size" if decoded.reduced > 1 else ""),
                "prepare the dataset again",
            )
        return decoded


def targets_of(shown: Sequence[Shown], sizes: Sequence[Size], objects: Sequence[Objects]) -> list[Target]:
    """What is to be found in images that are shown so: their objects without regions to ignore.

    Args:
        shown: how each image is shown.
        sizes: (height, width) px of each as a whole.
        objects: of each as a whole.
    """
    seen = [
        one if how.region == whole(size) else objects_within(one, how.region)
        for how, size, one in zip(shown, sizes, objects, strict=True)
    ]
    boxes, category_ids, is_crowd = (
        np.concatenate([getattr(one, name) for one in seen]) for name in ("boxes", "category_ids", "is_crowd")
    )
    return targets_together(shown, [len(one) for one in seen], Objects(boxes, category_ids, is_crowd=is_crowd))


def targets_together(shown: Sequence[Shown], counts: Sequence[int], objects: Objects) -> list[Target]:
    """The same of objects that are laid end to end, so many of each image.

    All are made together: at each, what it takes is little, and bringing the code into the processor's caches much.
    """
    found = ~objects.is_crowd
    edges = np.repeat([how.edges for how in shown], counts, axis=0)
    relative = xyxy_to_shown(objects.boxes[found], edges[found])
    target = Target(boxes=torch.from_numpy(relative), category_ids=torch.from_numpy(objects.category_ids[found]))
    if not found.all():
        before = np.concatenate([[0], np.cumsum(found)])
        counts = np.diff(before[np.cumsum(counts)], prepend=0).tolist()
    return target.cut(list(counts))
