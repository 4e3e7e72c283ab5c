"""Encoded examples out of shards, read in the background and handed on in a planned order: here the way is chosen.

TFRecord files are read from front to back by tf.data, ArrayRecord files at random and without TensorFlow. Either way
nothing is parsed or decoded. Every example comes with its *ticket*, `epoch * examples of the split + index in the
split`, by which an endless stream over epochs is told apart.
"""

from collections.abc import Generator
from dataclasses import replace

from dataflow.bridge.array_records import read_array_records
from dataflow.bridge.planned_reads import Plans
from dataflow.bridge.tfrecord_stream import read_tfrecords
from dataflow.errors import UsageError
from dataflow.prepared import Shard
from dataflow.stores.paths import cached_files


def read_in_order(shards: list[Shard], plans: Plans, window: int) -> Generator[tuple[int, bytes], None, None]:
    """(ticket, serialised example) of every planned visit, in order. Closing the iterator ends the reading.

    The format of the shards decides how they are read, and nothing else: the same plans give the same examples.

    Args:
        shards: all shards of the split, in order; those of an object store are copied to this machine first, and kept.
        plans: what to read, and in which order to hand it on.
        window: how many examples the plans shuffle at a time.

    Raises:
        UsageError: the shards are in a format that is not read, or one of them is missing.
        CorruptRecordError: a shard is damaged or holds fewer examples than its dataset says.
        MissingExtraError: the shards are TFRecord files, and TensorFlow is not installed.
    """
    local = cached_files([shard.path for shard in shards])
    shards = [replace(shard, path=path) for shard, path in zip(shards, local, strict=True)]
    if all(".array_record" in shard.path.name for shard in shards):
        return read_array_records(shards, plans)
    for shard in shards:
        if ".tfrecord" not in shard.path.name:
            raise UsageError(
                f"{shard.path} is neither a TFRecord nor an ArrayRecord file",
                "prepare the dataset in the format `tfrecord` or `array_record`",
            )
    return read_tfrecords(shards, plans, window)
