"""Pairs to differences: what the workers of `shardbox diff` run."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import xxhash

from dataflow.beam.step_times import Stopwatch
from dataflow.errors import ShardboxError
from dataflow.findings import Code, Finding
from dataflow.images import RgbImage, decode_rgb, encode_jpeg, encode_png
from dataflow.pairs.aligned_pair import AlignedPair, align_pair, carry_objects
from dataflow.pairs.alignment_counts import PairAlignment
from dataflow.pairs.frame import Frame
from dataflow.pairs.image_diff import NO_CHANGE, DiffMode, SizeMismatchError
from dataflow.pairs.registration import AlignmentError, Method
from dataflow.pairs.valid_pixels import encode_mask
from dataflow.prepared import PreparedDataset, Shard
from dataflow.records import FramePair, ImageRecord
from dataflow.schema import pair_to_example
from dataflow.shards import Outcome
from dataflow.tfrecord import CorruptRecordError
from tfds_builders.frame_chains import windows, work_in_chains
from tfds_builders.sources.source import THREADS

ImageFormat = Literal["jpeg", "png"]
_CODES = {SizeMismatchError: Code.SIZE_MISMATCH, AlignmentError: Code.PAIR_UNALIGNED}
IMAGE_FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)
# Encoded frames that are read before their pairs are worked on: what is in memory is these, their differences (about as
# many bytes again; as PNG several times as many) and two decoded frames for each thread, half as large again where they
# are aligned. A shard of usual size is one.
_WINDOW_BYTES = 192 * 2**20


def shard_to_line(shard: Shard, digest: str) -> str:
    """A shard of pairs as a line of a plan; its digest tells later whether it is still the same."""
    return json.dumps([shard.split, shard.index, digest])


@dataclass(frozen=True)
class _Encoded:
    """An encoded frame; equal ones have equal pixels."""

    digest: bytes
    orientation: int | None
    image: bytes = field(compare=False, repr=False)


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
                for outcome in self.outcomes(dataset.shard_pairs(shard)):
                    yield outcome
                    done += 1
            except CorruptRecordError as error:
                code, file = Code.IMAGE_UNREADABLE, shard.path.name
                for name in (f"{file}__{index}" for index in range(done, shard.count)):
                    finding = Finding(code, "error", file, error.message, error.remedy, image_id=name)
                    yield Outcome(name, None, (finding,))

    def outcomes(self, pairs: Iterable[FramePair], threads: int = THREADS) -> Iterator[Outcome]:
        """One outcome per pair, in order; within a window each frame is decoded once, however many pairs it is in."""
        keep_freed_memory()
        for window in windows(pairs, lambda pair: len(pair.before.image) + len(pair.after.image), _WINDOW_BYTES):
            links = [(_encoded(pair.before), _encoded(pair.after)) for pair in window]
            yield from work_in_chains(window, links, _decode, self._outcome, threads)

    def _outcome(self, pair: FramePair, before: Callable[[], Frame], after: Callable[[], Frame]) -> Outcome:
        watch = Stopwatch()
        try:
            aligned = align_pair(before(), after(), self.align)
            image = aligned.difference(self.mode)
        except ShardboxError as error:
            code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), Code.IMAGE_UNREADABLE)
            finding = Finding(code, "error", pair.after.filename, error.message, error.remedy, image_id=pair.pair_id)
            return Outcome(pair.pair_id, None, (finding,))
        encoded = encode_jpeg(image) if self.image_format == "jpeg" else encode_png(image)
        found = aligned.alignment
        model = None if self.align == "none" else found.model
        change = mean_change(image, self.mode)
        return Outcome(
            pair.pair_id,
            pair_to_example(_in_after_frame(pair, aligned), encoded),
            alignment=PairAlignment(pair.pair_id, found.score, found.residual, model, change),
            seconds=watch.seconds(),
        )


def keep_freed_memory() -> None:
    """Have malloc keep the memory of freed images for those that come, rather than give each back to the system.

    glibc takes the largest array that was freed so far (of up to 32 MiB) for the usual size, maps only larger ones by
    themselves, and gives memory back from twice that on. Without it an image's memory is mapped anew each time, which
    takes longer than to fill it. Elsewhere it does nothing.
    """
    np.empty(31 * 2**20, np.uint8)


def _encoded(record: ImageRecord) -> _Encoded:
    return _Encoded(xxhash.xxh3_128_digest(record.image), record.orientation, record.image)


def _decode(frame: _Encoded) -> Frame:
    return Frame(decode_rgb(frame.image, frame.orientation))


def _in_after_frame(pair: FramePair, aligned: AlignedPair) -> FramePair:
    """The pair with what its alignment found, and its boxes carried along."""
    homography = aligned.alignment.homography
    return replace(
        pair,
        objects=carry_objects(pair.objects, homography, aligned.size),
        homography=homography,
        alignment_score=min(aligned.alignment.score, 1.0),
        alignment_model=aligned.alignment.model,
        alignment_residual=aligned.alignment.residual,
        valid=b"" if aligned.valid is None else encode_mask(aligned.valid),
    )


def mean_change(image: RgbImage, mode: DiffMode) -> float:
    """How far a difference image (H, W, 3) uint8 of `mode` is from showing no change: mean over it, grey levels."""
    still = NO_CHANGE[mode]
    total = cv2.norm(image, np.full_like(image, still), cv2.NORM_L1) if still else cv2.norm(image, cv2.NORM_L1)
    return float(total) / image.size
