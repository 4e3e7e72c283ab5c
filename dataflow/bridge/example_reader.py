"""Serialised examples to drafts: what is known of an image before it is decoded."""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from dataflow.boxes import Size
from dataflow.bridge.batches import Target
from dataflow.bridge.drafts import (
    Augmentation,
    Draft,
    Encoded,
    Light,
    Shown,
    of_example,
    place_of,
    targets_of,
    targets_together,
)
from dataflow.bridge.image_augmentation import Region, random_region, whole
from dataflow.bridge.random_light import random_levels
from dataflow.bridge.resize import Resize
from dataflow.bridge.view import View, augmented, sight_of
from dataflow.errors import ShardboxError, UsageError
from dataflow.example_values import ExampleValues, Values
from dataflow.prepared import PreparedDataset, Shard
from dataflow.records import Objects, no_objects
from dataflow.schema import example_image_id, example_size, example_to_objects, examples_to_objects

# A JPEG is decoded at half its size, a quarter or an eighth as long as this many times the size that is wanted is left:
# values are then within one level, in the mean, of those of a JPEG decoded in full.
_LEAST_LEFT = 1.75
_SIZES = 4096  # of images, for which it is remembered how they are shown: most photographs are of a few
_NONE = no_objects()


class _Parsed(NamedTuple):
    """An example of which nothing was made yet; see `Draft`."""

    epoch: int
    image_id: str
    shard: Shard
    position: int
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
        together = self._together(parsed) if self._layout.kind == "images" else None
        if together is not None and self._augmentation.images is None:  # The whole of every image is shown.
            shown = [self._whole(one) for one in parsed]
            return self._known(parsed, shown, targets_together(shown, *together))
        objects = [self._objects_of(one) for one in parsed] if together is None else together[1].cut(together[0])
        shown = [self._shown(*both) for both in zip(parsed, objects, strict=True)]
        if self._sight.as_decoded:
            return self._known(parsed, shown, targets_of(shown, [one.size for one in parsed], objects))
        return [self._draft(*one) for one in zip(parsed, shown, objects, strict=True)]

    def _known(self, parsed: Sequence[_Parsed], shown: Sequence[Shown], targets: Sequence[Target]) -> list[Draft]:
        return [self._draft(one, how, _NONE, target) for one, how, target in zip(parsed, shown, targets, strict=True)]

    def _parsed(self, epoch: int, index: int, payload: bytes) -> _Parsed:
        shard = self._shards[bisect(self._stops, index)]
        position = index - (self._stops[shard.index] - shard.count)
        image_id = ""
        try:
            values = self._values(payload)
            image_id = example_image_id(values, self._layout, "")
            size = example_size(values, self._layout)
        except ShardboxError as error:
            raise of_example(image_id or _numbered(shard, position), place_of(shard, position), error) from error
        frames = tuple([self._encoded(values, name) for name in self._sight.frames])
        return _Parsed(epoch, image_id or _numbered(shard, position), shard, position, size, frames, values)

    def _encoded(self, values: Values, frame: str) -> Encoded:
        if not self._layout.is_ours:
            return Encoded(values[frame], 1)
        orientation = values.get(f"{frame}/orientation")
        return Encoded(values[frame], None if orientation is None else int(orientation))

    def _together(self, parsed: Sequence[_Parsed]) -> tuple[list[int], Objects] | None:
        """How many objects each of some single images has, and all of them; None where one of these is odd."""
        columns = [one.values[self._layout.objects] for one in parsed]
        found = examples_to_objects(columns, [one.size for one in parsed], self._layout, self._n_categories)
        return None if found is None else ([len(one["label"]) for one in columns], found)

    def _objects_of(self, parsed: _Parsed) -> Objects:
        columns = parsed.values[self._layout.objects]
        try:
            objects = example_to_objects(columns, parsed.size, self._layout, parsed.image_id)
            objects.check_inside(parsed.size, self._n_categories)
        except ShardboxError as error:
            raise of_example(parsed.image_id, place_of(parsed.shard, parsed.position), error) from error
        return objects

    def _whole(self, parsed: _Parsed) -> Shown:
        """How an image is shown of which nothing is left out."""
        mirrored = self._augmentation.mirrors(parsed.epoch, parsed.image_id)
        upright = all(frame.orientation == 1 for frame in parsed.frames)
        return _shown_whole(parsed.size, mirrored, self._policy, self._reduces, upright)

    def _shown(self, parsed: _Parsed, objects: Objects) -> Shown:
        changed = self._augmentation.images
        if changed is None:
            return self._whole(parsed)
        mirrored = self._augmentation.mirrors(parsed.epoch, parsed.image_id)
        rng = self._augmentation.generator("image", parsed.epoch, parsed.image_id)
        region, factor = random_region(changed, parsed.size, objects, rng)
        light = Light(random_levels(changed, rng), changed.noise, rng) if changed.lights else None
        x0, y0, x1, y1 = region
        height, width = self._policy.target_size((y1 - y0, x1 - x0))
        target = max(1, round(height * factor)), max(1, round(width * factor))
        upright = all(frame.orientation == 1 for frame in parsed.frames)
        reduce = _reduction(region, target, parsed.size, upright) if self._reduces else 1
        return Shown(region, target, mirrored, light, reduce)

    def _draft(self, parsed: _Parsed, shown: Shown, objects: Objects, target: Target | None = None) -> Draft:
        show, changed = self._sight.show, self._augmentation
        if changed.pairs is not None:
            show = augmented(show, changed.pairs, changed.generator("pair", parsed.epoch, parsed.image_id))
        return Draft(
            parsed.image_id,
            parsed.shard,
            parsed.position,
            parsed.frames,
            show,
            objects,
            parsed.size,
            shown,
            target,
            parsed.values.get("homography"),
            changed.seed,
            parsed.epoch,
        )


def _numbered(shard: Shard, position: int) -> str:
    """The id of an image that has none of its own."""
    return f"{shard.path.name}__{position}"


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


@lru_cache(_SIZES)
def _shown_whole(size: Size, mirrored: bool, policy: Resize, reduces: bool, upright: bool) -> Shown:
    """How an image of `size` (height, width) is shown as a whole; the same for all of that size."""
    target, region = policy.target_size(size), whole(size)
    return Shown(region, target, mirrored, None, _reduction(region, target, size, upright) if reduces else 1)


def _reduction(region: Region, target: Size, size: Size, upright: bool) -> int:
    """The fraction of its size at which a JPEG is decoded, so that enough is left to resize from.

    `upright`: whether it is stored as it is shown.
    """
    x0, y0, x1, y1 = region
    left = min((y1 - y0) / target[0], (x1 - x0) / target[1])
    if left < 2 * _LEAST_LEFT:  # Nearly all photographs.
        return 1
    for n in (8, 4, 2):
        # At the far edge part of a pixel may be left over; on a turned image the far edge may be the near one.
        exact = upright or not (size[0] % n or size[1] % n)
        if left >= n * _LEAST_LEFT and exact:
            return n
    return 1
