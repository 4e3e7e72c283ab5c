"""Finishing a build that nobody waited for: its shards are there, its launcher is not."""

from collections.abc import Mapping
from pathlib import Path

from dataflow.beam.job_metrics import save_metrics
from dataflow.beam.jobs import ShardJob
from dataflow.errors import DataRefusedError
from dataflow.shards import ShardKey, ShardResult
from tfds_builders.reuse import finished_shards, take_shards, without_shards


class UnfinishedError(DataRefusedError):
    """A build cannot be finished yet (exit status 1)."""


def shards_left_behind(
    work: Path, job: ShardJob, digests: Mapping[ShardKey, str], directory: Path, runner: str
) -> list[ShardResult]:
    """The results of all shards of `job`, which were written in `work` earlier; their files come into `directory`.

    Raises:
        UnfinishedError: some are missing, or were made of another source, by other options or another version.
    """
    written = finished_shards(work, digests)
    missing = without_shards(job, written).inputs
    if missing:
        names = [job.shard_format.file_name(key) for key in missing]
        raise UnfinishedError(
            f"{work}: {len(missing)} of {len(job.inputs)} shards are missing, such as {names[0]}",
            "where the job still runs, try again later; where it has ended, remove this by `shardbox finish DIR "
            "--discard` and start anew (what was made of another source, by other options or version does not count)",
        )
    if work != directory:
        take_shards(work, directory, written)
    save_metrics(work, directory, written, runner, None)
    return written
