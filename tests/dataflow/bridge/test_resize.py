import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import get_image_size_for_max_height_width

from dataflow.bridge.resize import FixedSize, KeepSize, LongestEdge, Resize, ResizePolicy
from dataflow.errors import UsageError

side = st.one_of(st.integers(1, 12), st.integers(1, 5000))
edges = st.tuples(st.integers(1, 2000), st.integers(1, 4000)).map(sorted)
policies: st.SearchStrategy[Resize] = st.one_of(
    edges.map(lambda edge: ResizePolicy(*edge)),
    st.builds(FixedSize, side, side),
    st.builds(LongestEdge, side),
    st.just(KeepSize()),
)


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


@given(st.tuples(side, side), side)
@example((77, 50), 640)
@example((1, 2000), 640)
@example((480, 640), 640)
@example((1333, 800), 1333)
def test_longest_edges_are_those_of_hugging_face(size: tuple[int, int], edge: int) -> None:
    expected = get_image_size_for_max_height_width(size, edge, edge)
    assert LongestEdge(edge).target_size(size) == tuple(max(length, 1) for length in expected)


def test_the_longer_side_becomes_the_longest_edge() -> None:
    policy = LongestEdge(640)
    assert policy.target_size((480, 640)) == (480, 640)
    assert policy.target_size((1280, 100)) == (640, 50)
    assert policy.target_size((30, 40)) == (480, 640)
    assert policy.target_size((50, 77)) == (415, 639)  # 77 * (640 / 77) is below 640 in floating point.


@given(st.tuples(side, side), st.tuples(side, side))
def test_a_fixed_size_is_that_and_an_image_may_stay_as_it_is(size: tuple[int, int], to: tuple[int, int]) -> None:
    assert FixedSize(*to).target_size(size) == to
    assert KeepSize().target_size(size) == size


@given(policies, st.tuples(side, side))
@example(LongestEdge(1), (5000, 3))
@example(ResizePolicy(480, 640), (2000, 1))
def test_no_side_is_ever_lost(policy: Resize, size: tuple[int, int]) -> None:
    assert min(policy.target_size(size)) >= 1


@given(st.one_of(edges.map(lambda edge: ResizePolicy(*edge)), st.builds(LongestEdge, side)), st.tuples(side, side))
@example(ResizePolicy(480, 640), (100, 641))
@example(ResizePolicy(400, 4900), (10, 5000))
def test_the_shape_is_kept_within_a_pixel(policy: ResizePolicy | LongestEdge, size: tuple[int, int]) -> None:
    scale = policy.longest_edge / max(size)
    if isinstance(policy, ResizePolicy):
        scale = min(scale, policy.shortest_edge / min(size))
    resized = policy.target_size(size)
    for length, got in zip(size, resized, strict=True):
        assert resized == size or abs(got - length * scale) <= 1 + 1e-9


@given(policies, st.tuples(side, side))
def test_what_has_its_size_keeps_it(policy: Resize, size: tuple[int, int]) -> None:
    resized = policy.target_size(size)
    has_its_size = {
        ResizePolicy: lambda: min(resized) == policy.shortest_edge,  # type: ignore[union-attr]
        LongestEdge: lambda: max(resized) == policy.longest_edge,  # type: ignore[union-attr]
    }.get(type(policy), lambda: True)
    if has_its_size():
        assert policy.target_size(resized) == resized


@pytest.mark.parametrize("sides", [(0, 10), (10, -1)])
def test_impossible_fixed_sizes_are_refused(sides: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=rf"fixed size of {sides[0]} x {sides[1]} px"):
        FixedSize(*sides)
    with pytest.raises(UsageError, match=f"longest edge of {min(sides)} px"):
        LongestEdge(min(sides))
