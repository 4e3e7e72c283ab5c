"""Classes of a source: numbers and names to contiguous ids."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflow.findings import Code
from dataflow.records import RecordError
from tfds_builders.sources.classes import named_classes, numbered_classes


def test_names_alone() -> None:
    classes = named_classes(["dog", "cat", "犬"])
    assert classes.categories.names == ("dog", "cat", "犬"), "in their own order"
    assert classes.categories.source_ids == (0, 1, 2) and dict(classes.ids) == {0: 0, 1: 1, 2: 2}
    assert not classes.twice and not classes.findings


def test_numbers_need_be_neither_dense_nor_sorted() -> None:
    classes = numbered_classes([(23, "bird"), (3, "cat"), (13, "dog")], "a.json")
    assert classes.categories.names == ("cat", "dog", "bird") and classes.categories.source_ids == (3, 13, 23)
    assert dict(classes.ids) == {3: 0, 13: 1, 23: 2} and not classes.findings


def test_a_name_twice_is_one_class_and_a_finding() -> None:
    classes = numbered_classes([(1, "cat"), (2, "dog"), (5, "cat"), (7, "bird")], "a.json", "/categories")
    assert classes.categories.names == ("cat", "dog", "bird") and classes.categories.source_ids == (1, 2, 7)
    assert dict(classes.ids) == {1: 0, 2: 1, 5: 0, 7: 2} and classes.twice == (5,)
    [finding] = classes.findings
    assert (finding.code, finding.severity) == (Code.CLASS_NAMED_TWICE, "warning")
    assert (finding.file, finding.line, finding.value) == ("a.json", "/categories", "classes 1 and 5 are both 'cat'")


@pytest.mark.parametrize("entries", [[], [(0, "")], [(0, "two\nlines")]])
def test_what_are_no_classes(entries: Sequence[tuple[int, str]]) -> None:
    with pytest.raises(RecordError):
        numbered_classes(entries, "a.json")


@given(entries=st.dictionaries(st.integers(-5, 99), st.sampled_from("abcdefgh"), min_size=1))
def test_every_number_means_the_class_of_its_name(entries: dict[int, str]) -> None:
    classes = numbered_classes(list(entries.items()), "a.json")
    ids = dict(classes.ids)
    assert ids.keys() == entries.keys()
    assert all(classes.categories.names[ids[number]] == name for number, name in entries.items())
    assert sorted(classes.categories.names) == sorted(set(entries.values()))
    assert len(classes.twice) == len(classes.findings) == len(entries) - len(set(entries.values()))
    first = {name: min(number for number in entries if entries[number] == name) for name in entries.values()}
    assert classes.categories.source_ids == tuple(first[name] for name in classes.categories.names)
    assert set(classes.twice) == entries.keys() - set(first.values())
