"""What only the whole of a source tells: duplicates, leaks between splits, classes that nobody uses."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataflow.findings import Code, Finding, Severity
from dataflow.records import Categories
from dataflow.shards import ShardKey, ShardResult
from tfds_builders.look_alikes import Hashes, look_alikes
from tfds_builders.sources.source import Reference

_LISTED = 12
_PER_FINDING = 1000


@dataclass(frozen=True)
class _Seen:
    """All images in one order: where they are, and what they look like."""

    references: Sequence[Reference]
    splits: npt.NDArray[np.int64]
    scenes: npt.NDArray[np.int64]
    contents: Hashes
    """(N,) hash of the bytes, 0 for an image that could not be read."""
    looks: Hashes
    """(N, 2) hash of the looks, 0 for one that was not decoded or is flat."""
    split_names: tuple[str, ...]

    def file(self, index: int) -> str:
        """The image file, and its split, for a message."""
        reference = self.references[index]
        return f"{reference.file or reference.image_id} ({self.split_names[self.splits[index]]})"


def whole_source_findings(
    inputs: Mapping[ShardKey, Sequence[Reference]],
    results: Sequence[ShardResult],
    categories: Categories,
    split_by_user: bool,
) -> Iterator[Finding]:
    """Findings about a source as a whole, from what each shard reported.

    `split_by_user`: the splits were asked for by frame numbers, so that a scene in two of them is no surprise.
    """
    yield from _class_findings(results, categories)
    yield from _scene_findings(inputs, split_by_user)
    if any(result.contents.strip("0") for result in results):
        seen = _seen(inputs, results)
        yield from _same_content(seen)
        yield from _near_duplicates(seen)


def _class_findings(results: Sequence[ShardResult], categories: Categories) -> Iterator[Finding]:
    objects: Counter[int] = Counter()
    in_split: dict[str, Counter[int]] = defaultdict(Counter)
    unknown: Counter[int] = Counter()
    for result in results:
        counts = Counter({int(key): count for key, count in result.objects.items()})
        objects += counts
        in_split[result.split] += counts
        unknown += Counter({int(key): count for key, count in result.unknown_classes.items()})
    yield from _shifted(objects, unknown, categories)
    unused = [name for index, name in enumerate(categories.names) if not objects[index]]
    if unused:
        value = f"{len(unused)} of {len(categories)} classes occur in no prepared image: {_some(unused)}"
        yield Finding(Code.CLASS_UNUSED, "info", "", value, "nothing to do, or drop the classes")
    for split, counts in sorted(in_split.items()):
        # A class with a single object cannot be in two splits.
        absent = [n for i, n in enumerate(categories.names) if objects[i] >= len(in_split) and not counts[i]]
        if absent and len(in_split) > 1:
            value = f"{len(absent)} of {len(categories)} classes have no object in {split}: {_some(absent)}"
            yield Finding(Code.SPLIT_UNBALANCED, "info", "", value, "add images of them, or split in another way")
    ignored = sum(result.ignored for result in results)
    if ignored:
        value = f"{ignored} of {objects.total()} objects are regions to ignore"
        yield Finding(Code.IGNORE_REGION, "info", "", value, "nothing to do: neither targets nor counted as errors")


def _shifted(objects: Counter[int], unknown: Counter[int], categories: Categories) -> Iterator[Finding]:
    """Whether all class numbers that occur would name classes if they were one lower, or one higher.

    `unknown` has the numbers of images that were kept out for an unknown class, and so known ones, too.
    """
    known = set(categories.source_ids)
    used = {categories.source_ids[index] for index in objects} | set(unknown)
    strange = sorted(set(unknown) - known)
    for shift, way in ((1, "higher"), (-1, "lower")):
        if strange and used <= {number + shift for number in known}:
            value = f"class numbers {_some(list(map(str, strange)))} name no class; all would if numbers were one "
            value += f"{'lower' if shift > 0 else 'higher'}: they look counted from one {way}"
            yield Finding(Code.CLASS_IDS_SHIFTED, "warning", "", value, "count classes from 0, as their names do")
            return


def _scene_findings(inputs: Mapping[ShardKey, Sequence[Reference]], split_by_user: bool) -> Iterator[Finding]:
    in_splits: dict[str, Counter[str]] = defaultdict(Counter)
    first: dict[str, str] = {}
    for key, references in inputs.items():
        for reference in references:
            in_splits[reference.group_id][key.split] += 1
            first.setdefault(reference.group_id, reference.file)
    for scene, splits in sorted(in_splits.items()):
        if len(splits) > 1:
            where = ", ".join(f"{count} in {split}" for split, count in sorted(splits.items()))
            remedy = "judge by other scenes as well" if split_by_user else "keep a scene in one split, or pass --splits"
            severity: Severity = "info" if split_by_user else "warning"
            yield Finding(Code.SPLIT_LEAK, severity, first[scene], f"the scene {scene!r} has {where}", remedy)


def _seen(inputs: Mapping[ShardKey, Sequence[Reference]], results: Sequence[ShardResult]) -> _Seen:
    references: list[Reference] = []
    splits: list[int] = []
    names = tuple(sorted({key.split for key in inputs}))
    contents, looks = [], []
    for result in results:
        of_shard = inputs[ShardKey(result.split, result.index, result.of)]
        references += of_shard
        splits += [names.index(result.split)] * len(of_shard)
        contents.append(np.frombuffer(bytes.fromhex(result.contents), ">u8"))
        looks.append(np.frombuffer(bytes.fromhex(result.looks), ">u8").reshape(-1, 2))
    scenes: dict[str, int] = {}
    return _Seen(
        references,
        np.array(splits, np.int64),
        np.array([scenes.setdefault(reference.group_id, len(scenes)) for reference in references], np.int64),
        np.concatenate(contents).astype(np.uint64),
        np.concatenate(looks).astype(np.uint64),
        names,
    )


def _same_content(seen: _Seen) -> Iterator[Finding]:
    """Every image whose bytes are those of one before it."""
    order = np.argsort(seen.contents, kind="stable")
    values = seen.contents[order]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    stops = np.r_[starts[1:], len(values)]
    is_group = (stops - starts > 1) & (values[starts] != 0)
    for start, stop in zip(starts[is_group], stops[is_group], strict=True):
        group = sorted(order[start:stop].tolist(), key=lambda index: seen.references[index].image_id)
        for index in group[1:]:
            across = seen.splits[index] != seen.splits[group[0]]
            value = f"the same bytes as {seen.file(group[0])}" + (f", in {seen.file(index)}" if across else "")
            remedy = "give both one scene (--scenes), or delete one" if across else "delete one of them"
            yield _about(seen, index, Code.DUPLICATE_CONTENT, value, remedy)


def _near_duplicates(seen: _Seen) -> Iterator[Finding]:
    """Pictures of different scenes, in different splits, that look alike: what was learnt by heart looks like skill."""
    alike = look_alikes(seen.looks, seen.splits, seen.scenes, seen.contents)
    pairs = _by_id(seen, alike.pairs)
    for a, b in pairs[:_PER_FINDING].tolist():
        bits = int(np.bitwise_count(seen.looks[a] ^ seen.looks[b]).sum())
        value = f"looks like {seen.file(a)} ({bits} of 128 bits differ), in {seen.file(b)}"
        yield _about(seen, b, Code.NEAR_DUPLICATE, value, "give both one scene (--scenes), or delete one")
    if len(pairs) > _PER_FINDING or (len(pairs) and not alike.are_all):
        value = f"{len(pairs)} pairs{'' if alike.are_all else ' or more'} across splits look alike"
        yield Finding(Code.NEAR_DUPLICATE, "warning", "", value, "group images by scene: --scenes")


def _by_id(seen: _Seen, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Pairs (P, 2) of images sorted by their ids, the lower id of each first."""
    images = np.unique(pairs).tolist()
    rank = np.zeros(len(seen.references), np.int64)
    rank[sorted(images, key=lambda index: seen.references[index].image_id)] = np.arange(len(images))
    pairs = np.where((rank[pairs[:, 0]] < rank[pairs[:, 1]])[:, None], pairs, pairs[:, ::-1])
    return pairs[np.lexsort((rank[pairs[:, 1]], rank[pairs[:, 0]]))]


def _about(seen: _Seen, index: int, code: Code, value: str, remedy: str) -> Finding:
    reference = seen.references[index]
    return Finding(code, "warning", reference.file, value, remedy, image_id=reference.image_id)


def _some(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
