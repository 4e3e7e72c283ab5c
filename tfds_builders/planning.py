"""The plan of an ingestion: which split and shard every image goes to."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dataflow.errors import UsageError
from dataflow.findings import Code, Finding
from dataflow.shards import ShardKey, shard_count, shard_of
from dataflow.splits import DEFAULT, Fractions, FrameRanges, Splits, split_of_group
from tfds_builders.source import Reference


@dataclass(frozen=True)
class Plan:
    """Every reference with its shard, the shards, and what was found while planning."""

    shards: tuple[ShardKey, ...]
    inputs: tuple[tuple[ShardKey, Reference], ...]
    quarantined: tuple[str, ...]
    findings: tuple[Finding, ...]


def plan_shards(references: Sequence[Reference], splits: Splits | None, seed: int) -> Plan:
    """Give every reference a split and a shard.

    `splits` given by the user decide; else those of the source; else 80/20 by scene. Of references with one id the
    first is kept and the others are quarantined.

    Raises:
        UsageError: a split that was asked for would be empty.
    """
    kept, quarantined, findings = _distinct(references)
    by_split = _by_split(kept, splits, seed)
    shards: list[ShardKey] = []
    inputs: list[tuple[ShardKey, Reference]] = []
    for split in sorted(by_split):
        members = by_split[split]
        of = shard_count(sum(reference.num_bytes for reference in members), len(members))
        keys = [ShardKey(split, index, of) for index in range(of)]
        shards += keys
        inputs += [(keys[shard_of(reference.image_id, of)], reference) for reference in members]
    return Plan(tuple(shards), tuple(inputs), quarantined, findings)


def _distinct(references: Sequence[Reference]) -> tuple[list[Reference], tuple[str, ...], tuple[Finding, ...]]:
    seen: dict[str, Reference] = {}
    twice: list[Reference] = []
    for reference in references:
        if seen.setdefault(reference.image_id, reference) is not reference:
            twice.append(reference)
    findings = tuple(
        Finding(
            Code.DUPLICATE_ID,
            "error",
            reference.file,
            f"id {reference.image_id!r} is taken by {seen[reference.image_id].file}",
            "rename one of the images",
            image_id=reference.image_id,
        )
        for reference in twice
    )
    return list(seen.values()), tuple(reference.image_id for reference in twice), findings


def _by_split(references: Sequence[Reference], splits: Splits | None, seed: int) -> dict[str, list[Reference]]:
    by_split: dict[str, list[Reference]] = {}
    if splits is None and len({reference.group_id for reference in references}) == 1:
        # One scene and no wish: it trains. Its hash might as well have put all of it into validation.
        return {"train": list(references)}
    for reference in references:
        by_split.setdefault(_split(reference, splits, seed), []).append(reference)
    if splits is None:
        return by_split
    for name in splits.names:
        if name not in by_split:
            raise UsageError(f"the split {name!r} would be empty", _remedy(references, splits))
    return by_split


def _split(reference: Reference, splits: Splits | None, seed: int) -> str:
    if isinstance(splits, FrameRanges):
        if reference.split is None:
            raise UsageError("--splits by frame numbers", "only sequences of frames (--format mot) have them")
        return reference.split
    if splits is None and reference.split is not None:
        return reference.split
    return split_of_group(reference.group_id, splits or DEFAULT, seed)


def _remedy(references: Sequence[Reference], splits: Splits) -> str:
    scenes = Counter(reference.group_id for reference in references)
    if isinstance(splits, Fractions) and len(scenes) < 2 * len(splits.names):
        return (
            f"a scene is never divided, and scenes are few here ({len(scenes)}): "
            "add some, try another --seed, or cut a sequence by time: --splits train=1-150,validation=151-200"
        )
    return "give it a larger share, a range that holds frames, or another --seed"
