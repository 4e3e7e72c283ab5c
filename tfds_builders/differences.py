"""Pairs to differences: what the workers of `shardbox diff` run."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from dataflow.boxes import Size, box_areas, clip_boxes
from dataflow.errors import ShardboxError
from dataflow.findings import Code, Finding
from dataflow.illumination import match_illumination
from dataflow.image_diff import DiffMode, SizeMismatchError, checked_pair, difference
from dataflow.images import RgbImage, decode_rgb, encode_jpeg, encode_png
from dataflow.motion_models import carry_boxes
from dataflow.prepared import PreparedDataset, Shard
from dataflow.records import FramePair, Objects
from dataflow.registration import AlignmentError, Method, align, warp_to_after
from dataflow.schema import pair_to_example
from dataflow.shards import Outcome
from dataflow.tfrecord import CorruptRecordError
from tfds_builders.inspection import LEAST_SIDE_PX

ImageFormat = Literal["jpeg", "png"]
# True alignments of real frames never fell below 0.8, wrong ones lie around 0.5.
LEAST_SCORE = 0.6
_CODES = {SizeMismatchError: Code.SIZE_MISMATCH, AlignmentError: Code.PAIR_UNALIGNED}
_UNALIGNED = "check that both frames show one scene; for a steady camera use --align none"
IMAGE_FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)


def shard_to_line(shard: Shard, digest: str) -> str:
    """A shard of pairs as a line of a plan; its digest tells later whether it is still the same."""
    return json.dumps([shard.split, shard.index, digest])


@dataclass(frozen=True)
class DifferenceLoader:
    """The pairs of input shards to difference examples, in the order in which they lie there. Runs on workers."""

    pairs: Path
    mode: DiffMode
    image_format: ImageFormat
    align: Method = "none"

    def __call__(self, lines: Sequence[str]) -> Iterator[Outcome]:
        """One outcome per pair; one that cannot be decoded, differs in size or lies behind damage is quarantined."""
        dataset = PreparedDataset(self.pairs)
        for line in lines:
            split, index, _ = json.loads(line)
            shard = dataset.shards(split)[index]
            done = 0
            try:
                for pair in dataset.shard_pairs(shard):
                    yield self._outcome(pair)
                    done += 1
            except CorruptRecordError as error:
                code, file = Code.IMAGE_UNREADABLE, shard.path.name
                for name in (f"{file}__{index}" for index in range(done, shard.count)):
                    finding = Finding(code, "error", file, error.message, error.remedy, image_id=name)
                    yield Outcome(name, None, (finding,))

    def _outcome(self, pair: FramePair) -> Outcome:
        try:
            before, after = (decode_rgb(frame.image, frame.orientation) for frame in (pair.before, pair.after))
            if self.align == "none":
                image = difference(before, after, self.mode)
            else:
                pair, image = self._aligned(pair, before, after)
        except ShardboxError as error:
            code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), Code.IMAGE_UNREADABLE)
            finding = Finding(code, "error", pair.after.filename, error.message, error.remedy, image_id=pair.pair_id)
            return Outcome(pair.pair_id, None, (finding,))
        encoded = encode_jpeg(image) if self.image_format == "jpeg" else encode_png(image)
        return Outcome(pair.pair_id, pair_to_example(pair, encoded))

    def _aligned(self, pair: FramePair, before: RgbImage, after: RgbImage) -> tuple[FramePair, RgbImage]:
        """The difference of the after frame to the before frame drawn in it, in its light, and the pair with its boxes
        there. Objects that the camera lost from view on the way are left out."""
        before, after = checked_pair(before, after, None)
        alignment = align(before, after, self.align)
        if alignment.score < LEAST_SCORE:
            raise AlignmentError(f"an alignment of score {alignment.score:.2f}", _UNALIGNED)
        size = pair.after.size
        warped, valid = warp_to_after(before, alignment, size)
        image = difference(match_illumination(warped, after, valid), after, self.mode, valid)
        objects = _carried(pair.objects, alignment.homography, size)
        score = float(min(alignment.score, 1.0))
        return replace(pair, objects=objects, homography=alignment.homography, alignment_score=score), image


def _carried(objects: Objects, homography: npt.NDArray[np.float64], size: Size) -> Objects:
    """Objects in the pixels of the after frame: those of the before frame carried there, and cut at the border."""
    if np.array_equal(homography, np.eye(3)):
        return objects
    moved = clip_boxes(carry_boxes(objects.boxes, homography), size)
    boxes = np.where(objects.in_before[:, None], moved, objects.boxes)
    keep = np.asarray((boxes[:, 2:] - boxes[:, :2] >= LEAST_SIDE_PX).all(axis=1))
    areas = np.where(objects.in_before, box_areas(boxes), objects.areas)
    return Objects(
        boxes=boxes[keep],
        category_ids=objects.category_ids[keep],
        areas=areas[keep],
        is_crowd=objects.is_crowd[keep],
        is_truncated=objects.is_truncated[keep],
        in_before=objects.in_before[keep],
        # A mask of the before frame is not carried.
        segmentations=tuple(
            "" if before else text
            for text, before, kept in zip(objects.segmentations, objects.in_before, keep, strict=True)
            if kept
        ),
        track_ids=None if objects.track_ids is None else objects.track_ids[keep],
        changes=None if objects.changes is None else objects.changes[keep],
    )
