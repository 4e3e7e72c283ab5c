import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflow.bridge.padding import TO_LARGEST, PadToLargest, PadToSize
from dataflow.errors import UsageError

side = st.integers(1, 3000)
sizes = st.lists(st.tuples(side, side), min_size=1, max_size=8)


@given(sizes)
def test_by_default_the_canvas_is_as_large_as_the_batch_needs(batch: list[tuple[int, int]]) -> None:
    assert PadToLargest() == TO_LARGEST
    assert TO_LARGEST.canvas_size(batch) == tuple(max(lengths) for lengths in zip(*batch, strict=True))


@given(sizes, st.integers(1, 100))
def test_a_multiple_is_the_next_one(batch: list[tuple[int, int]], multiple: int) -> None:
    canvas = PadToLargest(multiple_of=multiple).canvas_size(batch)
    for length, needed in zip(canvas, TO_LARGEST.canvas_size(batch), strict=True):
        assert length % multiple == 0
        assert needed <= length < needed + multiple


@given(sizes, st.tuples(side, side))
def test_a_fixed_canvas_knows_nothing_of_the_batch(batch: list[tuple[int, int]], size: tuple[int, int]) -> None:
    assert PadToSize(*size).canvas_size(batch) == size


def test_impossible_canvases_are_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 0 px"):
        PadToLargest(0)
    with pytest.raises(UsageError, match="padding to 640 x 0 px"):
        PadToSize(640, 0)
