"""Pairs to differences: what the workers of `shardbox diff` run."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from dataflow.aligned_pair import AlignedPair, align_pair, carry_objects
from dataflow.errors import ShardboxError
from dataflow.findings import Code, Finding
from dataflow.image_diff import DiffMode, SizeMismatchError
from dataflow.images import decode_rgb, encode_jpeg, encode_png
from dataflow.prepared import PreparedDataset, Shard
from dataflow.records import FramePair
from dataflow.registration import AlignmentError, Method
from dataflow.schema import pair_to_example
from dataflow.shards import Outcome
from dataflow.tfrecord import CorruptRecordError

ImageFormat = Literal["jpeg", "png"]
_CODES = {SizeMismatchError: Code.SIZE_MISMATCH, AlignmentError: Code.PAIR_UNALIGNED}
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
            aligned = align_pair(before, after, self.align)
            image = aligned.difference(self.mode)
        except ShardboxError as error:
            code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), Code.IMAGE_UNREADABLE)
            finding = Finding(code, "error", pair.after.filename, error.message, error.remedy, image_id=pair.pair_id)
            return Outcome(pair.pair_id, None, (finding,))
        encoded = encode_jpeg(image) if self.image_format == "jpeg" else encode_png(image)
        return Outcome(pair.pair_id, pair_to_example(_in_after_frame(pair, aligned), encoded))


def _in_after_frame(pair: FramePair, aligned: AlignedPair) -> FramePair:
    """The pair with what its alignment found, and its boxes carried along."""
    homography = aligned.alignment.homography
    return replace(
        pair,
        objects=carry_objects(pair.objects, homography, aligned.size),
        homography=homography,
        alignment_score=min(aligned.alignment.score, 1.0),
    )
