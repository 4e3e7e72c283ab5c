"""What only the whole of a source tells, from the results of its shards."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflow.findings import Code, Finding
from dataflow.records import Categories
from dataflow.shards import ShardKey, ShardResult
from tfds_builders.sources.source import Reference
from tfds_builders.whole_source import whole_source_findings

CATS = Categories(("cat", "dog"))
LOOK = 0x0123456789ABCDEF_FEDCBA9876543210


@dataclass(frozen=True)
class Seen:
    """An image as workers report it."""

    image_id: str
    split: str = "train"
    scene: str = ""
    content: int = 0
    look: int = 0
    classes: Sequence[int] = ()


def found(
    *images: Seen,
    categories: Categories = CATS,
    unknown: Mapping[int, int] | None = None,
    ignored: int = 0,
    by_user: bool = False,
) -> list[Finding]:
    """The findings about images, two shards a split; `unknown` class numbers were met in the first shard."""
    inputs: dict[ShardKey, list[Reference]] = {}
    shards: dict[ShardKey, list[Seen]] = defaultdict(list)
    for number, image in enumerate(images):
        shards[ShardKey(image.split, number % 2, 2)].append(image)
    results = []
    for key, members in sorted(shards.items(), key=lambda item: (item[0].split, item[0].index)):
        inputs[key] = [
            Reference(seen.image_id, seen.scene or seen.image_id, 1, None, f"{seen.image_id}.jpg") for seen in members
        ]
        objects = Counter(str(category) for seen in members for category in seen.classes)
        first = not results
        results.append(
            ShardResult(
                key.split,
                key.index,
                key.of,
                "",
                count=len(members),
                num_bytes=1,
                digest="",
                quarantined=(),
                findings=(),
                contents="".join(f"{seen.content:016x}" for seen in members),
                looks="".join(f"{seen.look:032x}" for seen in members),
                objects=dict(objects),
                ignored=ignored if first else 0,
                unknown_classes={str(n): count for n, count in (unknown or {}).items()} if first else {},
            )
        )
    return list(whole_source_findings(inputs, results, categories, by_user))


def codes(findings: Sequence[Finding]) -> list[Code]:
    return [finding.code for finding in findings]


BOTH = {"classes": (0, 1)}


def both(image_id: str, **more: Any) -> Seen:
    """An image with every class, so that classes give no findings."""
    return Seen(image_id, classes=(0, 1), **more)


class TestContent:
    def test_every_copy_names_the_first(self) -> None:
        images = [both(name, content=7, scene=name) for name in ("b", "c", "a")] + [both("d", content=8)]
        findings = found(*images)
        assert [(f.image_id, f.file, f.severity) for f in findings] == [
            ("b", "b.jpg", "warning"),
            ("c", "c.jpg", "warning"),
        ]
        assert all("the same bytes as a.jpg (train)" in finding.value for finding in findings)
        assert all(finding.remedy == "delete one of them" for finding in findings)

    def test_across_splits_it_is_a_leak(self) -> None:
        findings = found(both("a", content=7), both("b", content=7, split="test"), both("c", content=7))
        assert codes(findings) == [Code.DUPLICATE_CONTENT] * 2
        across, same = findings
        assert across.image_id == "b" and across.value == "the same bytes as a.jpg (train), in b.jpg (test)"
        assert "--scenes" in across.remedy and same.image_id == "c" and "--scenes" not in same.remedy

    def test_images_that_could_not_be_read_are_no_copies(self) -> None:
        assert not found(both("a"), both("b"), both("c", content=1))
        assert not found(both("a"), both("b"))

    @given(contents=st.lists(st.integers(0, 8), max_size=40))
    def test_as_many_as_there_are_copies(self, contents: list[int]) -> None:
        images = [both(f"{number:03d}", content=content) for number, content in enumerate(contents)]
        counts = Counter(content for content in contents if content)
        findings = found(*images) if images else []
        assert codes(findings) == [Code.DUPLICATE_CONTENT] * sum(count - 1 for count in counts.values())
        assert len({finding.image_id for finding in findings}) == len(findings)

    def test_the_highest_bits_count(self) -> None:
        assert codes(found(both("a", content=2**64 - 1), both("b", content=2**64 - 1))) == [Code.DUPLICATE_CONTENT]
        assert not found(both("a", content=2**64 - 1), both("b", content=2**63 - 1))


class TestLooks:
    @pytest.mark.parametrize("bits", [0, 1, 7, 8, 12])
    def test_across_splits(self, bits: int) -> None:
        other = LOOK ^ sum(1 << (11 * place) for place in range(bits))
        findings = found(both("b", content=1, look=LOOK), both("a", content=2, look=other, split="test"))
        assert codes(findings) == [Code.NEAR_DUPLICATE] * (bits <= 7)
        for finding in findings:
            assert (finding.image_id, finding.severity, finding.file) == ("b", "warning", "b.jpg")
            assert finding.value == f"looks like a.jpg (test) ({bits} of 128 bits differ), in b.jpg (train)"

    def test_not_within_a_split_nor_a_scene_nor_without_looks(self) -> None:
        """Neighbouring frames look alike; where they are on both sides, that is a leak of the scene."""
        first = both("a", content=1, look=LOOK, scene="walk")
        assert not found(first, both("b", content=2, look=LOOK))
        assert codes(found(first, both("b", content=2, look=LOOK, scene="walk", split="test"))) == [Code.SPLIT_LEAK]
        assert not found(both("a", content=1), both("b", content=2, split="test"))
        copies = found(first, both("b", content=1, look=LOOK, split="test"))
        assert codes(copies) == [Code.DUPLICATE_CONTENT], "which says more"

    def test_thousands_are_summed_up(self) -> None:
        count = 20_000
        images = [
            both(f"{number:05d}", content=number + 1, look=LOOK, split="test" if number % 5 == 0 else "train")
            for number in range(count)
        ]
        findings = found(*images)
        assert codes(findings) == [Code.NEAR_DUPLICATE] * 1001
        assert findings[-1].image_id is None and "pairs or more across splits look alike" in findings[-1].value
        assert len({finding.value for finding in findings}) == 1001

    def test_few_with_many_look_alikes_each(self) -> None:
        images = [both(f"{n:02d}", content=n + 1, look=LOOK, split=("train", "test")[n % 2]) for n in range(40)]
        *pairs, summary = found(*images)
        assert {finding.image_id for finding in pairs} > {f"{n:02d}" for n in range(30, 40)}
        assert summary.value == f"{len(pairs)} pairs or more across splits look alike"


class TestScenes:
    def test_a_scene_in_two_splits(self) -> None:
        images = both("a", scene="s"), both("b", scene="s", split="test"), both("c", scene="s"), both("d", scene="t")
        [finding] = found(*images)
        assert (finding.code, finding.severity, finding.file) == (Code.SPLIT_LEAK, "warning", "b.jpg")
        assert finding.value == "the scene 's' has 1 in test, 2 in train"
        [finding] = found(*images, by_user=True)
        assert finding.severity == "info", "who cuts a sequence by time knows that"


class TestClasses:
    def test_unused(self) -> None:
        [finding] = found(Seen("a", classes=(1,)))
        assert (finding.code, finding.severity) == (Code.CLASS_UNUSED, "info") and "cat" in finding.value
        many = Categories(tuple(f"class {number:02d}" for number in range(30)))
        [finding] = found(Seen("a", classes=(29,)), categories=many)
        assert "29 of 30" in finding.value and "class 00" in finding.value and "and 17 more" in finding.value

    def test_a_split_without_a_class(self) -> None:
        images = [Seen("a", classes=(0, 1)), Seen("b", classes=(1,)), Seen("c", split="test", classes=(0,))]
        [finding] = found(*images)
        assert finding.code == Code.SPLIT_UNBALANCED and "in test: dog" in finding.value
        assert not found(images[0], images[2]), "a class of one object cannot be in both"

    def test_regions_to_ignore(self) -> None:
        [finding] = found(both("a"), ignored=1)
        assert (finding.code, finding.severity) == (Code.IGNORE_REGION, "info")
        assert finding.value == "1 of 2 objects are regions to ignore"

    @pytest.mark.parametrize(
        ("numbers", "used", "unknown", "shifted"),
        [
            ((0, 1, 2), (1, 2), (3,), "lower"),  # YOLO counted from 1.
            ((0, 1, 2), (), (3,), "lower"),
            ((0, 1, 2), (0, 1, 2), (3,), None),  # One class too many.
            ((0, 1, 2), (1, 2), (4,), None),
            ((0, 1, 2), (1, 2), (), None),
            ((1, 2, 3), (1, 2), (0,), "higher"),  # COCO counted from 0.
            ((1, 2, 3), (1, 2, 3), (0,), None),
            ((1, 2, 3), (1,), (0, 4), None),
            ((3, 13, 23), (), (4, 14), "lower"),
            ((3, 13, 23), (), (2, 12, 22), "higher"),
            ((3, 13, 23), (3,), (4,), None),  # 3 names no class one lower.
            ((1, 2, 4, 5), (2, 5), (3, 6), "lower"),
        ],
    )
    def test_shifted_numbers(
        self, numbers: tuple[int, ...], used: tuple[int, ...], unknown: tuple[int, ...], shifted: str | None
    ) -> None:
        categories = Categories(tuple(f"class {number}" for number in numbers), numbers)
        image = Seen("a", classes=tuple(numbers.index(number) for number in used))
        findings = found(image, categories=categories, unknown=dict.fromkeys(unknown, 1))
        about = [finding for finding in findings if finding.code == Code.CLASS_IDS_SHIFTED]
        assert len(about) == (shifted is not None)
        if shifted:
            assert f"would if numbers were one {shifted}" in about[0].value and about[0].severity == "warning"

    @given(
        numbers=st.sets(st.integers(0, 12), min_size=1),
        used=st.sets(st.integers(0, 12)),
        unknown=st.sets(st.integers(-2, 14)),
    )
    def test_no_false_alarm(self, numbers: set[int], used: set[int], unknown: set[int]) -> None:
        """A shift is told where it explains every number that occurs, and something is unexplained without."""
        ordered = tuple(sorted(numbers))
        used &= numbers
        categories = Categories(tuple(f"class {number}" for number in ordered), ordered)
        image = Seen("a", classes=tuple(ordered.index(number) for number in used))
        about = found(image, categories=categories, unknown=dict.fromkeys(unknown, 1))
        occurring = used | unknown
        explains = any({number - shift for number in occurring} <= numbers for shift in (1, -1))
        assert (Code.CLASS_IDS_SHIFTED in codes(about)) == (bool(unknown - numbers) and explains)


def test_an_empty_source_gives_none() -> None:
    assert not [f for f in found() if f.code != Code.CLASS_UNUSED]


def test_a_source_of_pairs_is_not_compared() -> None:
    """Pairs have no looks; their classes and scenes are looked at all the same."""
    findings = found(Seen("a", scene="s", classes=(0,)), Seen("b", scene="s", split="test", classes=(0,)))
    assert codes(findings) == [Code.CLASS_UNUSED, Code.SPLIT_LEAK]


def test_findings_do_not_depend_on_the_order_of_shards() -> None:
    rng = np.random.default_rng(0)
    images = [
        both(f"{n:02d}", content=int(rng.integers(1, 30)), look=LOOK ^ int(rng.integers(4)), split=("a", "b")[n % 2])
        for n in range(8)
    ]
    assert sorted(map(str, found(*images))) == sorted(map(str, found(*images[2:], *images[:2])))
