"""The plan of an ingestion: which split and shard every image goes to."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dataflow.errors import UsageError
from dataflow.findings import Code, Finding
from dataflow.shards import ShardKey, place_in_shard, shard_count, shard_of
from dataflow.splits import DEFAULT, Fractions, FrameRanges, Splits, split_of_group
from tfds_builders.sources.source import Reference
from tfds_builders.stratify import ClassIds, balanced_seed

# With fewer examples per shard, those that are kept together could leave shards empty.
_FEWEST_TO_KEEP_TOGETHER = 64


@dataclass(frozen=True)
class PlanOptions:
    """What decides where an image goes.

    `splits`: the user's wish; None for the source's own, else 80/20. `seed`: another one puts other scenes into the
    splits; None for the first that balances the classes (see `stratify`). `scenes`: what makes images one scene: None
    for what the source says, "folder" for the folder of the image id, or a regular expression, found in the id, whose
    first group (or whole match) names the scene. `shards`: shards of each split; None to choose by bytes.
    """

    splits: Splits | None = None
    seed: int | None = None
    scenes: str | None = None
    shards: int | None = None


@dataclass(frozen=True)
class Plan:
    """The references of every shard in their order, and what was found while planning."""

    inputs: dict[ShardKey, list[Reference]]
    quarantined: tuple[str, ...]
    findings: tuple[Finding, ...]
    seed: int
    """The seed that the splits were made with."""


def plan_shards(references: Sequence[Reference], options: PlanOptions, class_ids: ClassIds) -> Plan:
    """Give every reference a split and a shard. `class_ids` says which classes images show.

    Of references with one id the first is kept and the others are quarantined.

    Raises:
        UsageError: a split that was asked for would be empty, or options that make no sense.
    """
    kept, quarantined, findings = _distinct(_in_scenes(references, options.scenes))
    by_split, seed = _by_split(kept, options, class_ids)
    inputs: dict[ShardKey, list[Reference]] = {}
    for split in sorted(by_split):
        members = by_split[split]
        of = options.shards or shard_count(sum(reference.num_bytes for reference in members), len(members))
        inputs |= {ShardKey(split, index, of): [] for index in range(of)}
        together = len(members) >= _FEWEST_TO_KEEP_TOGETHER * of
        for reference in sorted(members, key=lambda reference: place_in_shard(reference.image_id)):
            name = reference.keep_with if together and reference.keep_with else reference.image_id
            inputs[ShardKey(split, shard_of(name, of), of)].append(reference)
    return Plan(inputs, quarantined, findings, seed)


def _in_scenes(references: Sequence[Reference], scenes: str | None) -> Sequence[Reference]:
    """The references with the scenes that the user wants."""
    if scenes is None:
        return references
    if scenes == "folder":
        return [replace(r, group_id=r.image_id.rpartition("/")[0] or r.image_id) for r in references]
    try:
        pattern = re.compile(scenes)
    except re.error as error:
        raise UsageError(f"--scenes {scenes}: {error}", "write `folder`, or a regular expression") from error
    named = []
    for reference in references:
        match = pattern.search(reference.image_id)
        if match is None:
            raise UsageError(
                f"--scenes {scenes} matches nothing in the image id {reference.image_id!r}", "extend the expression"
            )
        named.append(replace(reference, group_id=match[1] if pattern.groups and match[1] else match[0]))
    return named


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


def _by_split(
    references: Sequence[Reference], options: PlanOptions, class_ids: ClassIds
) -> tuple[dict[str, list[Reference]], int]:
    """References by split, and the seed that was used."""
    splits, by_split = options.splits, dict[str, list[Reference]]()
    scenes = {reference.group_id for reference in references}
    if splits is None and len(scenes) == 1 and all(reference.split is None for reference in references):
        # One scene and no wish: it trains. Its hash might as well have put all of it into validation.
        return {"train": list(references)}, options.seed or 0
    seed = options.seed
    if seed is None:
        free = [] if isinstance(splits, FrameRanges) else [r for r in references if splits or r.split is None]
        seed = balanced_seed(free, splits or DEFAULT, class_ids) if free else 0
    for reference in references:
        by_split.setdefault(_split(reference, splits, seed), []).append(reference)
    for name in splits.names if splits else ():
        if name not in by_split:
            raise UsageError(f"the split {name!r} would be empty", _remedy(references, splits))
    return by_split, seed


def _split(reference: Reference, splits: Splits | None, seed: int) -> str:
    if isinstance(splits, FrameRanges):
        if reference.split is None:
            raise UsageError("--splits by frame numbers", "only sequences of frames (mot, virat) have them")
        return reference.split
    if splits is None and reference.split is not None:
        return reference.split
    return split_of_group(reference.group_id, splits or DEFAULT, seed)


def _remedy(references: Sequence[Reference], splits: Splits | None) -> str:
    scenes = Counter(reference.group_id for reference in references)
    if isinstance(splits, Fractions) and len(scenes) < 2 * len(splits.names):
        return (
            f"a scene is never divided, and scenes are few here ({len(scenes)}): "
            "add some, try another --seed, or cut a sequence by time: --splits train=1-150,validation=151-200"
        )
    return "give it a larger share, a range that holds frames, or another --seed"
