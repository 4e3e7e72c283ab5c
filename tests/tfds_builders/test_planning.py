"""The plan: every reference once, in the split and shard that its scene and id decide."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflow.errors import UsageError
from dataflow.findings import Code
from dataflow.shards import TARGET_SHARD_BYTES, ShardKey, shard_of
from dataflow.splits import Fractions, Splits, parse_splits, split_of_group
from tfds_builders.planning import Plan, plan_shards
from tfds_builders.source import Reference

HALVES = parse_splits("train=0.5,validation=0.5")


def reference(name: str, scene: str | None = None, split: str | None = None, num_bytes: int = 1) -> Reference:
    return Reference(name, name if scene is None else scene, num_bytes, None, f"{name}.jpg", split)


def splits_of(plan: Plan) -> dict[str, str]:
    return {ref.image_id: key.split for key, ref in plan.inputs}


@given(
    names=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), max_size=30),
    scenes=st.integers(1, 12),
)
def test_nothing_is_lost_and_no_scene_is_divided(names: list[str], scenes: int) -> None:
    references = [reference(name, f"scene {sum(name.encode()) % scenes}") for name in names]
    plan = plan_shards(references, None, seed=0)
    assert Counter([ref.image_id for _, ref in plan.inputs] + list(plan.quarantined)) == Counter(names)
    assert len({ref.image_id for _, ref in plan.inputs}) == len(plan.inputs)
    assert {key for key, _ in plan.inputs} <= set(plan.shards)
    by_scene: dict[str, set[str]] = {}
    for key, ref in plan.inputs:
        by_scene.setdefault(ref.group_id, set()).add(key.split)
    assert all(len(splits) == 1 for splits in by_scene.values())


def test_ids_taken_twice_keep_the_first() -> None:
    same = [Reference("a", "a", 1, number, f"{number}.jpg") for number in range(3)]
    plan = plan_shards([*same, reference("b")], None, seed=0)
    assert [ref.payload for _, ref in plan.inputs if ref.image_id == "a"] == [0]
    assert plan.quarantined == ("a", "a")
    assert [(finding.code, finding.severity, finding.file) for finding in plan.findings] == [
        (Code.DUPLICATE_ID, "error", "1.jpg"),
        (Code.DUPLICATE_ID, "error", "2.jpg"),
    ]
    assert "is taken by 0.jpg" in plan.findings[0].value


def test_the_wish_of_the_user_decides_then_the_source_then_the_hash() -> None:
    references = [reference(f"{i}", split="test" if i % 2 else "train") for i in range(40)]
    assert isinstance(HALVES, Fractions)
    asked = splits_of(plan_shards(references, HALVES, seed=5))
    assert asked == {f"{i}": split_of_group(f"{i}", HALVES, 5) for i in range(40)}
    of_source = splits_of(plan_shards(references, None, seed=5))
    assert of_source == {f"{i}": "test" if i % 2 else "train" for i in range(40)}
    by_hash = splits_of(plan_shards([reference(f"{i}") for i in range(40)], None, seed=5))
    assert set(by_hash.values()) == {"train", "validation"}


def test_one_scene_trains() -> None:
    for seed in range(6):
        plan = plan_shards([reference("a", "walk"), reference("b", "walk")], None, seed)
        assert set(splits_of(plan).values()) == {"train"}


@pytest.mark.parametrize(
    ("references", "splits"),
    [
        ([], HALVES),
        ([reference("a")], HALVES),
        ([reference(f"{i}", "walk") for i in range(9)], HALVES),
        ([reference("a", split="train")], parse_splits("train=1-5,validation=6-9")),
    ],
)
def test_splits_that_would_be_empty(references: list[Reference], splits: Splits) -> None:
    with pytest.raises(UsageError, match="would be empty") as caught:
        plan_shards(references, splits, seed=0)
    assert caught.value.remedy


def test_frame_ranges_need_frames() -> None:
    with pytest.raises(UsageError, match="only sequences of frames"):
        plan_shards([reference("a")], parse_splits("train=1-5"), seed=0)


def test_shards_follow_bytes_and_ids() -> None:
    size = TARGET_SHARD_BYTES // 10
    references = [reference(f"{i}", num_bytes=size) for i in range(45)]
    plan = plan_shards(references, parse_splits("train=1"), seed=0)
    assert plan.shards == tuple(ShardKey("train", index, 5) for index in range(5))
    assert all(key.index == shard_of(ref.image_id, 5) for key, ref in plan.inputs)


def test_no_references_no_shards() -> None:
    assert plan_shards([], None, seed=0) == Plan((), (), (), ())
