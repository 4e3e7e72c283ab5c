"""One image on its way into a batch: parsed into a draft, then drawn onto its place on the batch's canvas."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
import torch
import torch.nn.functional as F

from dataflow.batches import Target
from dataflow.boxes import Size, xyxy_to_cxcywh
from dataflow.errors import ShardboxError, UsageError
from dataflow.images import ImageError, RgbImage, decode_rgb
from dataflow.pair_augmentation import PairAugmentation
from dataflow.prepared import PreparedDataset
from dataflow.records import Objects
from dataflow.resize import Resize
from dataflow.schema import example_image_id, example_size, example_to_objects
from dataflow.splits import unit_hash
from dataflow.view import Homography, Seen, Show, View, augmented, sight_of

_SIX_CHANNELS = [n for channel in range(6) for n in (channel, channel)]
"""For OpenCV: every channel of two images to the same channel of one."""


class ExampleError(ShardboxError):
    """An example that cannot be made part of a batch. The message names its image id, shard and position."""


@dataclass(frozen=True)
class Augmentation:
    """What training changes about examples at random, decided for each by a hash of (seed, epoch, image id).

    `flip`: the probability of mirroring left to right, after all else. `pairs`: what happens to the frames of a pair.
    """

    flip: float = 0.0
    seed: int = 0
    pairs: PairAugmentation | None = None

    def mirrors(self, epoch: int, image_id: str) -> bool:
        """Whether this image is mirrored in this epoch."""
        return self.flip > 0 and unit_hash("flip", self.seed, epoch, image_id) < self.flip

    def generator(self, epoch: int, image_id: str) -> np.random.Generator:
        """What the frames of this pair are changed by in this epoch."""
        return np.random.default_rng(int(unit_hash("pair", self.seed, epoch, image_id) * 2**53))


@dataclass(frozen=True, eq=False)
class Encoded:
    """An encoded image, and the EXIF orientation applied before anything else (None: its own)."""

    image: bytes
    orientation: int | None = None


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
    """As stored, not mirrored."""
    original_size: Size
    size: Size
    """After resizing."""
    mirrored: bool
    homography: Homography | None = None
    """As stored, where `show` wants it."""

    def target(self, objects: Objects) -> Target:
        """The objects to find among those that are seen: without regions that are to be ignored."""
        found = ~objects.is_crowd
        relative = xyxy_to_cxcywh(objects.boxes[found], self.original_size)
        if self.mirrored:
            relative[:, 0] = 1 - relative[:, 0]
        category_ids = np.array(objects.category_ids[found])
        return Target(boxes=torch.from_numpy(relative), category_ids=torch.from_numpy(category_ids))

    def draw(self, canvas: RgbImage, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> Seen:
        """Draw what is seen, resized, onto the top left of `canvas` (H, W, C), zero the rest, and say so in `mask`.

        Raises:
            ExampleError: an image cannot be decoded, or has another size than its example says.
        """
        try:
            seen = self.show([self._decoded(frame) for frame in self.frames], self.objects, self.homography)
        except ShardboxError as error:
            raise ExampleError(f"image {self.image_id!r} ({self.place}): {error.message}", error.remedy) from error
        height, width = self.size
        resized = [resize(pixels, self.size) for pixels in seen.images]
        if self.mirrored:
            resized = [np.asarray(cv2.flip(pixels, 1), np.uint8) for pixels in resized]
        if len(resized) == 1:
            np.copyto(canvas[:height, :width], resized[0])
        else:
            cv2.mixChannels(resized, [canvas[:height, :width]], _SIX_CHANNELS)
        canvas[height:] = 0
        canvas[:height, width:] = 0
        mask[:height, :width] = True
        mask[height:] = False
        mask[:height, width:] = False
        return seen

    def _decoded(self, frame: Encoded) -> RgbImage:
        pixels = decode_rgb(frame.image, frame.orientation)
        if pixels.shape[:2] != self.original_size:
            raise ImageError(
                f"the image has (height, width) = {pixels.shape[:2]} px, its example says {self.original_size}",
                "prepare the dataset again",
            )
        return pixels


def resize(pixels: RgbImage, size: Size) -> RgbImage:
    """Pixels (H, W, 3) uint8 resized to `size` (height, width): bilinear with antialias, in fixed-point arithmetic.

    It is the operation that torchvision applies to uint8 tensors on a CPU with AVX2 (or on ARM), and gives its values.
    """
    height, width = pixels.shape[:2]
    if size == (height, width):
        return pixels
    # Told apart from a contiguous tensor by its batch stride alone, the image is read and written with the channels
    # last, as it lies in memory, without being repacked on the way in and out.
    strides = (height * width * 3, 1, width * 3, 3)
    image = torch.from_numpy(pixels).as_strided((1, 3, height, width), strides)
    resized = F.interpolate(image, size=size, mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


class ExampleReader:
    """Serialised examples of one split as drafts.

    Only what the view needs is unpacked: of a pair or difference dataset often `image` alone.
    """

    def __init__(
        self, dataset: PreparedDataset, split: str, policy: Resize, augmentation: Augmentation, view: View
    ) -> None:
        layout = dataset.layout
        self._sight = sight_of(view, layout.kind)
        if augmentation.pairs is not None and not self._sight.compares:
            raise UsageError(
                f"{dataset.path} cannot be augmented before its frames are compared",
                "give a dataset of pairs, and a mode of difference or both frames as inputs",
            )
        self._n_categories = len(dataset.categories)
        self._layout, self._policy, self._augmentation = layout, policy, augmentation
        self._shards = dataset.shards(split)
        self._stops = np.cumsum([shard.count for shard in self._shards])
        features = dataset.builder.info.features
        frames = self._sight.frames
        ours = ("image/height", "image/width", "homography", *(f"{frame}/orientation" for frame in frames))
        wanted = (*frames, layout.objects, layout.image_id, layout.filename, *(ours if layout.is_ours else ()))
        self._features = tfds.features.FeaturesDict({name: features[name] for name in wanted if name in features})
        self._decoders = {name: tfds.decode.SkipDecoding() for name in frames}

    def draft(self, epoch: int, index: int, payload: bytes) -> Draft:
        """The draft of the example at `index` of the split, as it is seen in `epoch`.

        Raises:
            ExampleError: the example is broken.
        """
        shard = self._shards[int(np.searchsorted(self._stops, index, side="right"))]
        position = index - int(self._stops[shard.index] - shard.count)
        place = f"{shard.path}, example {position}"
        image_id = f"{shard.path.name}__{position}"
        try:
            example = self._features.deserialize_example_np(payload, decoders=self._decoders)
            image_id = example_image_id(example, self._layout, image_id)
            original_size = example_size(example, self._layout)
            objects = example_to_objects(example[self._layout.objects], original_size, self._layout, image_id)
            objects.check_inside(original_size, self._n_categories)
        except ShardboxError as error:
            raise ExampleError(f"image {image_id!r} ({place}): {error.message}", error.remedy) from error
        show, pairs = self._sight.show, self._augmentation.pairs
        if pairs is not None:
            show = augmented(show, pairs, self._augmentation.generator(epoch, image_id))
        return Draft(
            image_id=image_id,
            place=place,
            frames=tuple(self._encoded(example, frame) for frame in self._sight.frames),
            show=show,
            objects=objects,
            original_size=original_size,
            size=self._policy.target_size(original_size),
            mirrored=self._augmentation.mirrors(epoch, image_id),
            homography=example.get("homography"),
        )

    def _encoded(self, example: Mapping[str, Any], frame: str) -> Encoded:
        if not self._layout.is_ours:
            return Encoded(example[frame], 1)
        orientation = example.get(f"{frame}/orientation")
        return Encoded(example[frame], None if orientation is None else int(orientation))
