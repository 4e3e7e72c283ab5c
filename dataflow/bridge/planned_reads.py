"""What all ways of reading shards share: what they are asked for, and what they say of a shard that fails them."""

from collections.abc import Callable, Iterable

from dataflow.bridge.order import ReadPlan
from dataflow.errors import UsageError
from dataflow.prepared import Shard
from dataflow.tfrecord import CorruptRecordError

Plans = Callable[[], Iterable[tuple[int, ReadPlan]]]
"""Epoch numbers and what to read in each; called each time reading starts, and gives the same each time."""


def unreadable_shard(shard: Shard, error: OSError) -> UsageError:
    """The error for a shard that is missing, or that the system does not let us read."""
    return UsageError(f"{shard.path} cannot be read: {error.strerror}", "put the shard back, or prepare again")


def short_shard(shard: Shard) -> CorruptRecordError:
    """The error for a shard that is whole in itself but lacks examples."""
    return CorruptRecordError(
        f"{shard.path} does not hold the {shard.count} examples that its dataset_info.json says",
        "prepare the dataset again",
    )
