"""The plan: every reference once, in the split and shard that its scene and id decide."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflow.errors import UsageError
from dataflow.findings import Code
from dataflow.shards import LARGEST_SHARD_BYTES, ShardKey, place_in_shard, shard_of
from dataflow.splits import Fractions, Splits, parse_splits, split_of_group
from tfds_builders.planning import Plan, PlanOptions, plan_shards
from tfds_builders.sources.source import Reference
from tfds_builders.stratify import MOST_IMAGES

HALVES = parse_splits("train=0.5,validation=0.5")


def reference(name: str, scene: str | None = None, split: str | None = None, num_bytes: int = 1) -> Reference:
    return Reference(name, name if scene is None else scene, num_bytes, None, f"{name}.jpg", split)


def no_classes(references: Sequence[Reference]) -> list[list[int]]:
    return [[] for _ in references]


def plan_of(
    references: Sequence[Reference], splits: Splits | None = None, seed: int | None = 0, **options: Any
) -> Plan:
    return plan_shards(references, PlanOptions(splits, seed, **options), no_classes)


def planned(plan: Plan) -> list[tuple[ShardKey, Reference]]:
    return [(key, ref) for key, references in plan.inputs.items() for ref in references]


def splits_of(plan: Plan) -> dict[str, str]:
    return {ref.image_id: key.split for key, ref in planned(plan)}


@given(
    names=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), max_size=30),
    scenes=st.integers(1, 12),
)
def test_nothing_is_lost_and_no_scene_is_divided(names: list[str], scenes: int) -> None:
    references = [reference(name, f"scene {sum(name.encode()) % scenes}") for name in names]
    plan = plan_of(references, seed=None)
    assert Counter([ref.image_id for _, ref in planned(plan)] + list(plan.quarantined)) == Counter(names)
    assert len({ref.image_id for _, ref in planned(plan)}) == len(planned(plan))
    by_scene: dict[str, set[str]] = {}
    for key, ref in planned(plan):
        by_scene.setdefault(ref.group_id, set()).add(key.split)
    assert all(len(splits) == 1 for splits in by_scene.values())


def test_ids_taken_twice_keep_the_first() -> None:
    same = [Reference("a", "a", 1, number, f"{number}.jpg") for number in range(3)]
    plan = plan_of([*same, reference("b")])
    assert [ref.payload for _, ref in planned(plan) if ref.image_id == "a"] == [0]
    assert plan.quarantined == ("a", "a")
    assert [(finding.code, finding.severity, finding.file) for finding in plan.findings] == [
        (Code.DUPLICATE_ID, "error", "1.jpg"),
        (Code.DUPLICATE_ID, "error", "2.jpg"),
    ]
    assert "is taken by 0.jpg" in plan.findings[0].value


def test_the_wish_of_the_user_decides_then_the_source_then_the_hash() -> None:
    references = [reference(f"{i}", split="test" if i % 2 else "train") for i in range(40)]
    assert isinstance(HALVES, Fractions)
    asked = splits_of(plan_of(references, HALVES, 5))
    assert asked == {f"{i}": split_of_group(f"{i}", HALVES, 5) for i in range(40)}
    of_source = splits_of(plan_of(references, None, 5))
    assert of_source == {f"{i}": "test" if i % 2 else "train" for i in range(40)}
    by_hash = splits_of(plan_of([reference(f"{i}") for i in range(40)], None, 5))
    assert set(by_hash.values()) == {"train", "validation"}


def test_one_scene_trains() -> None:
    for seed in range(6):
        plan = plan_of([reference("a", "walk"), reference("b", "walk")], None, seed)
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
        plan_of(references, splits)
    assert caught.value.remedy


def test_frame_ranges_need_frames() -> None:
    with pytest.raises(UsageError, match="only sequences of frames"):
        plan_of([reference("a")], parse_splits("train=1-5"))


def test_shards_follow_bytes_and_ids() -> None:
    size = LARGEST_SHARD_BYTES // 10
    references = [reference(f"{i}", num_bytes=size) for i in range(45)]
    plan = plan_of(references, parse_splits("train=1"))
    assert list(plan.inputs) == [ShardKey("train", index, 8) for index in range(8)], "4.5 times the largest: 8"
    assert all(key.index == shard_of(ref.image_id, 8) for key, ref in planned(plan))
    for references in plan.inputs.values():
        assert references == sorted(references, key=lambda ref: place_in_shard(ref.image_id))
    assert plan_of(references[::-1], parse_splits("train=1"), shards=3) == plan_of(
        references, parse_splits("train=1"), shards=3
    ), "the order of the source does not matter"
    assert [key.of for key in plan_of(references, parse_splits("train=1"), shards=3).inputs] == [3, 3, 3]


def test_what_belongs_together_goes_to_one_shard() -> None:
    size = LARGEST_SHARD_BYTES // 100
    references = [replace(reference(f"{i}", num_bytes=size), keep_with=f"block {i // 32}") for i in range(640)]
    plan = plan_of(references, parse_splits("train=1"))
    assert [key.of for key in plan.inputs] == [8] * 8
    assert all(key.index == shard_of(ref.keep_with, 8) for key, ref in planned(plan))
    for members in plan.inputs.values():
        assert members == sorted(members, key=lambda ref: place_in_shard(ref.image_id)), "their places are their own"
    # What comes later stays out of shards where none of its block is.
    late = replace(references[0], image_id="late")
    grown = plan_of([*references, late], parse_splits("train=1"))
    assert {key for key in plan.inputs if plan.inputs[key] != grown.inputs[key]} == {
        ShardKey("train", shard_of("block 0", 8), 8)
    }


def test_few_references_are_spread() -> None:
    references = [replace(reference(f"{i}"), keep_with="block") for i in range(128)]
    assert all(members for members in plan_of(references, parse_splits("train=1"), shards=8).inputs.values())
    enough = plan_of(references, parse_splits("train=1"), shards=2)
    assert sorted(map(len, enough.inputs.values())) == [0, 128], "64 a shard: the block stays whole"


def test_no_references_no_shards() -> None:
    assert plan_of([]) == Plan({}, (), (), 0)


def test_scenes_by_folder() -> None:
    references = [reference(f"walk {i % 7}/{i}") for i in range(70)]
    plan = plan_of(references, seed=None, scenes="folder")
    assert {ref.group_id for _, ref in planned(plan)} == {f"walk {i}" for i in range(7)}
    by_scene = {(ref.group_id, key.split) for key, ref in planned(plan)}
    assert len(by_scene) == 7, "no folder is divided"
    assert plan_of([reference("loose")], scenes="folder").inputs, "an image in no folder is its own scene"


def test_scenes_by_expression() -> None:
    references = [reference(f"cam{i % 3}_frame{i}") for i in range(9)]
    named = plan_of(references, scenes="(cam[0-9])_")
    assert {ref.group_id for _, ref in planned(named)} == {"cam0", "cam1", "cam2"}
    whole = plan_of(references, scenes="cam[0-9]")
    assert {ref.group_id for _, ref in planned(whole)} == {"cam0", "cam1", "cam2"}
    with pytest.raises(UsageError, match="matches nothing in the image id 'cam0_frame0'"):
        plan_of(references, scenes="camera")
    with pytest.raises(UsageError, match=r"--scenes \(cam: "):
        plan_of(references, scenes="(cam")


def test_images_added_move_none() -> None:
    references = [reference(f"{i}") for i in range(300)]
    before, after = splits_of(plan_of(references[:200])), splits_of(plan_of(references))
    assert before == {name: split for name, split in after.items() if name in before}


class TestBalance:
    """The seed that nobody gave is the first that balances classes."""

    def references(self, n: int = 40) -> list[Reference]:
        return [reference(f"{i}") for i in range(n)]

    def rare(self, references: Sequence[Reference]) -> list[list[int]]:
        """Class 0 in every image, class 1 in three."""
        return [[0, 1] if ref.image_id in ("3", "14", "25") else [0] for ref in references]

    def test_every_split_has_every_class_that_it_can(self) -> None:
        plan = plan_shards(self.references(), PlanOptions(), self.rare)
        where = splits_of(plan)
        assert {where[name] for name in ("3", "14", "25")} == {"train", "validation"}
        shares = Counter(where.values())
        assert abs(shares["train"] / 40 - 0.8) <= 0.05
        for seed in range(plan.seed):
            other = splits_of(plan_shards(self.references(), PlanOptions(seed=seed), self.rare))
            alike = {other[name] for name in ("3", "14", "25")} == {"train", "validation"}
            assert not (alike and abs(Counter(other.values())["train"] / 40 - 0.8) <= 0.05), "it is the first"

    def test_a_seed_that_is_given_is_kept(self) -> None:
        for seed in (0, 7):
            assert plan_shards(self.references(), PlanOptions(seed=seed), self.rare).seed == seed

    def test_the_best_where_none_is_right(self) -> None:
        """Two scenes cannot hold 80/20, but both splits get one."""
        plan = plan_shards(self.references(2), PlanOptions(), lambda references: [[0]] * len(references))
        assert set(splits_of(plan).values()) == {"train", "validation"}

    def test_splits_of_the_source_are_not_looked_at(self) -> None:
        def never(_: Sequence[Reference]) -> list[list[int]]:
            raise AssertionError

        given = [reference(f"{i}", split="train" if i % 3 else "test") for i in range(30)]
        assert plan_shards(given, PlanOptions(), never).seed == 0
        many = [reference(f"{i}") for i in range(MOST_IMAGES + 1)]
        assert plan_shards(many, PlanOptions(), never).seed == 0, "with many images a hash is even by itself"
