"""Encoded examples out of shards from front to back, in the thread that asks for them: for evaluation.

It needs no TensorFlow, and opens only shards of which something is wanted; of an object store, one is copied here for
as long as it is read. Reading takes a hundredth of the time of decoding, so that nothing would be gained by threads.
"""

from collections.abc import Generator
from itertools import islice

import numpy as np

from dataflow.bridge.planned_reads import Plans, short_shard, unreadable_shard
from dataflow.prepared import Shard, read_payloads


def read_consecutively(shards: list[Shard], plans: Plans) -> Generator[tuple[int, bytes], None, None]:
    """(ticket, serialised example) of plans of one lane, whose visits are in order (see `sequential_plan`).

    Args:
        shards: all shards of the split, in order.
        plans: what to read.

    Raises:
        UsageError: a shard is missing.
        CorruptRecordError: a shard is damaged or holds fewer examples than its dataset says.
    """
    offsets = np.cumsum([0, *(shard.count for shard in shards)]).tolist()
    for epoch, plan in plans():
        for run in (run for lane in plan.lanes for run in lane):
            shard, ticket = shards[run.shard], epoch * offsets[-1] + offsets[run.shard] + run.first
            found = 0
            try:
                for payload in islice(read_payloads(shard.path), run.first, run.first + run.length):
                    yield ticket + found, payload
                    found += 1
            except OSError as error:
                raise unreadable_shard(shard, error) from error
            if found != run.length:
                raise short_shard(shard)
