import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers.image_transforms import get_size_with_aspect_ratio

from dataflow.errors import UsageError
from dataflow.resize import ResizePolicy

side = st.one_of(st.integers(1, 12), st.integers(1, 5000))
edges = st.tuples(st.integers(1, 2000), st.integers(1, 4000)).map(sorted)


@given(st.tuples(side, side), edges)
@example((1, 1), [480, 640])
@example((1, 2000), [480, 640])
@example((427, 640), [480, 640])
@example((480, 640), [480, 640])
@example((1333, 800), [800, 1333])
@example((6000, 4000), [800, 1333])
def test_sizes_are_those_of_hugging_face(size: tuple[int, int], edge: list[int]) -> None:
    expected = get_size_with_aspect_ratio(size, *edge)
    assert ResizePolicy(*edge).target_size(size) == tuple(max(length, 1) for length in expected)


def test_the_longest_edge_limits_the_shortest() -> None:
    policy = ResizePolicy(shortest_edge=480, longest_edge=640)
    assert policy.target_size((480, 640)) == (480, 640)
    assert policy.target_size((300, 300)) == (480, 480)
    assert policy.target_size((1000, 2000)) == (320, 640)
    assert policy.target_size((2000, 1000)) == (640, 320)


@given(st.tuples(side, side), edges)
@example((100, 641), [480, 640])
def test_no_side_is_lost_or_longer_than_allowed(size: tuple[int, int], edge: list[int]) -> None:
    height, width = ResizePolicy(*edge).target_size(size)
    assert min(height, width) >= 1
    # Only an image that is left as it is may be longer: Hugging Face does so where the shorter side rounds to itself.
    assert max(height, width) <= edge[1] or (height, width) == size


@pytest.mark.parametrize("edge", [(0, 10), (-1, 10), (20, 10)])
def test_impossible_policies_are_refused(edge: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="shortest edge"):
        ResizePolicy(*edge)
