"""One image on its way into a batch: parsed into a draft, then drawn onto its place on the batch's canvas."""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch

from dataflow.batches import Target
from dataflow.boxes import Size, xyxy_to_shown
from dataflow.drawing import resize
from dataflow.errors import ShardboxError, UsageError
from dataflow.example_values import ExampleValues, Values
from dataflow.image_augmentation import ImageAugmentation, Region, objects_within, random_region, whole
from dataflow.images import Decoded, ImageError, RgbImage, decode
from dataflow.pair_augmentation import PairAugmentation
from dataflow.prepared import PreparedDataset
from dataflow.random_light import Levels, add_noise, changes, lit, random_levels
from dataflow.records import Objects
from dataflow.resize import Resize
from dataflow.schema import example_image_id, example_size, example_to_objects, examples_to_objects
from dataflow.splits import unit_hash
from dataflow.view import Homography, Seen, Show, View, augmented, sight_of

# A JPEG is decoded at half its size, a quarter or an eighth as long as this many times the size that is wanted is left:
# values are then within one level, in the mean, of those of a JPEG decoded in full.
_LEAST_LEFT = 1.75


class ExampleError(ShardboxError):
    """An example that cannot be made part of a batch. The message names its image id, shard and position."""


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


@dataclass(frozen=True, eq=False)
class Encoded:
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

    @property
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


@dataclass(frozen=True, eq=False)
class Draft:
    """An example that is to be drawn onto a canvas. Sizes are (height, width) px."""

    image_id: str
    place: str
    """Shard and position, for messages."""
    frames: tuple[Encoded, ...]
    show: Show
    """What is seen of them."""
    objects: Objects
    """As stored: in the whole image, not mirrored."""
    original_size: Size
    shown: Shown
    target: Target | None = None
    """What is to be found, where `show` does not change the objects: they are known before anything is decoded then."""
    homography: Homography | None = None
    """As stored, where `show` wants it."""
    transform_seed: int = 0
    """What a transform of the user's draws from."""

    @property
    def size(self) -> Size:
        """After resizing."""
        return self.shown.size

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
            raise _of_example(self.image_id, self.place, error) from error
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

    All are made together: at each, what it takes is little, and bringing the code into the processor's caches much.

    Args:
        shown: how each image is shown.
        sizes: (height, width) px of each as a whole.
        objects: of each as a whole.
    """
    seen = [
        one if how.region == whole(size) else objects_within(one, how.region)
        for how, size, one in zip(shown, sizes, objects, strict=True)
    ]
    stops = np.cumsum([len(one) for one in seen])
    found = ~np.concatenate([one.is_crowd for one in seen])
    edges = np.repeat([how.edges for how in shown], np.diff(stops, prepend=0), axis=0)
    relative = xyxy_to_shown(np.concatenate([one.boxes for one in seen])[found], edges[found])
    category_ids = np.concatenate([one.category_ids for one in seen])[found]
    target = Target(boxes=torch.from_numpy(relative), category_ids=torch.from_numpy(category_ids))
    found_before = np.concatenate([[0], np.cumsum(found)])
    return target.cut(np.diff(found_before[stops], prepend=0).tolist())


class _Parsed(NamedTuple):
    """An example of which nothing was made yet; see `Draft`."""

    epoch: int
    image_id: str
    place: str
    size: Size
    frames: tuple[Encoded, ...]
    values: Values


class ExampleReader:
    """Serialised examples of one split as drafts.

    Only what the view needs is unpacked: of a pair or difference dataset often `image` alone.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        split: str,
        policy: Resize,
        augmentation: Augmentation,
        view: View,
        *,
        reduced_decoding: bool = True,
    ) -> None:
        layout = dataset.layout
        self._sight = sight_of(view, layout.kind)
        _check_augmentation(dataset, augmentation, self._sight.compares)
        self._n_categories = len(dataset.categories)
        self._policy, self._augmentation = policy, augmentation
        self._reduces = reduced_decoding and self._sight.as_decoded
        self._shards = dataset.shards(split)
        self._stops = list(accumulate(shard.count for shard in self._shards))
        # Of single images boxes, classes and regions to ignore are all that a target is made of.
        lean = layout.kind == "images"
        self._layout = replace(layout, area="", truncated="", segmentation="") if lean else layout
        frames = self._sight.frames
        ours = ("image/height", "image/width", "homography", *(f"{frame}/orientation" for frame in frames))
        wanted = (*frames, layout.objects, layout.image_id, layout.filename, *(ours if layout.is_ours else ()))
        columns = {"bbox", "label", layout.crowd} if lean else None
        self._values = ExampleValues(dataset.builder.info.features, wanted, columns)

    def drafts(self, visits: Sequence[tuple[int, int, bytes]]) -> list[Draft]:
        """The drafts of examples: (epoch that it is seen in, index in the split, serialised example) of each.

        Raises:
            ExampleError: an example is broken.
        """
        parsed = [self._parsed(*visit) for visit in visits]
        objects = self._objects(parsed)
        shown = [self._shown(*both) for both in zip(parsed, objects, strict=True)]
        targets: Sequence[Target | None] = [None] * len(parsed)
        if self._sight.as_decoded:
            targets = targets_of(shown, [one.size for one in parsed], objects)
        return [self._draft(*one) for one in zip(parsed, objects, shown, targets, strict=True)]

    def _parsed(self, epoch: int, index: int, payload: bytes) -> _Parsed:
        shard = self._shards[bisect(self._stops, index)]
        position = index - (self._stops[shard.index] - shard.count)
        place = f"{shard.path}, example {position}"
        image_id = f"{shard.path.name}__{position}"
        try:
            values = self._values(payload)
            image_id = example_image_id(values, self._layout, image_id)
            size = example_size(values, self._layout)
        except ShardboxError as error:
            raise _of_example(image_id, place, error) from error
        return _Parsed(
            epoch, image_id, place, size, tuple(self._encoded(values, name) for name in self._sight.frames), values
        )

    def _encoded(self, values: Values, frame: str) -> Encoded:
        if not self._layout.is_ours:
            return Encoded(values[frame], 1)
        orientation = values.get(f"{frame}/orientation")
        return Encoded(values[frame], None if orientation is None else int(orientation))

    def _objects(self, parsed: Sequence[_Parsed]) -> list[Objects]:
        columns, sizes = [one.values[self._layout.objects] for one in parsed], [one.size for one in parsed]
        if self._layout.kind == "images":
            together = examples_to_objects(columns, sizes, self._layout, self._n_categories)
            if together is not None:
                return together
        return [self._objects_of(one) for one in parsed]

    def _objects_of(self, parsed: _Parsed) -> Objects:
        columns = parsed.values[self._layout.objects]
        try:
            objects = example_to_objects(columns, parsed.size, self._layout, parsed.image_id)
            objects.check_inside(parsed.size, self._n_categories)
        except ShardboxError as error:
            raise _of_example(parsed.image_id, parsed.place, error) from error
        return objects

    def _shown(self, parsed: _Parsed, objects: Objects) -> Shown:
        size = parsed.size
        mirrored = self._augmentation.mirrors(parsed.epoch, parsed.image_id)
        changed, light, factor = self._augmentation.images, None, 1.0
        region = whole(size)
        if changed is not None:
            rng = self._augmentation.generator("image", parsed.epoch, parsed.image_id)
            region, factor = random_region(changed, size, objects, rng)
            light = Light(random_levels(changed, rng), changed.noise, rng) if changed.lights else None
        x0, y0, x1, y1 = region
        height, width = self._policy.target_size((y1 - y0, x1 - x0))
        target = max(1, round(height * factor)), max(1, round(width * factor))
        reduce = _reduction(region, target, size, parsed.frames) if self._reduces else 1
        return Shown(region, target, mirrored, light, reduce)

    def _draft(self, parsed: _Parsed, objects: Objects, shown: Shown, target: Target | None) -> Draft:
        show, changed = self._sight.show, self._augmentation
        if changed.pairs is not None:
            show = augmented(show, changed.pairs, changed.generator("pair", parsed.epoch, parsed.image_id))
        return Draft(
            image_id=parsed.image_id,
            place=parsed.place,
            frames=parsed.frames,
            show=show,
            objects=objects,
            original_size=parsed.size,
            shown=shown,
            target=target,
            homography=parsed.values.get("homography"),
            transform_seed=int(unit_hash("transform", changed.seed, parsed.epoch, parsed.image_id) * 2**53),
        )


def _of_example(image_id: str, place: str, error: ShardboxError) -> ExampleError:
    return ExampleError(f"image {image_id!r} ({place}): {error.message}", error.remedy)


def _check_augmentation(dataset: PreparedDataset, augmentation: Augmentation, compares: bool) -> None:
    if augmentation.pairs is not None and not compares:
        raise UsageError(
            f"{dataset.path} cannot be augmented before its frames are compared",
            "give a dataset of pairs, and a mode of difference or both frames as inputs",
        )
    if augmentation.images is not None and augmentation.images.lights and dataset.layout.kind != "images":
        raise UsageError(
            f"{dataset.path} does not hold single images: a change of light would be taken for a change of the scene",
            "augment pairs with PairAugmentation, or leave exposure, contrast, colour and noise out",
        )


def _reduction(region: Region, target: Size, size: Size, frames: Sequence[Encoded]) -> int:
    """The fraction of its size at which a JPEG is decoded, so that enough is left to resize from."""
    x0, y0, x1, y1 = region
    left = min((y1 - y0) / target[0], (x1 - x0) / target[1])
    if left < 2 * _LEAST_LEFT:  # Nearly all photographs.
        return 1
    for n in (8, 4, 2):
        # At the far edge part of a pixel may be left over; on a turned image the far edge may be the near one.
        exact = all(frame.orientation == 1 for frame in frames) or not (size[0] % n or size[1] % n)
        if left >= n * _LEAST_LEFT and exact:
            return n
    return 1
