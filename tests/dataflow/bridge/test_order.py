import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflow.bridge.order import MAX_LANES, ReadPlan, Share, sequential_plan, shuffled_plan, times_visited

shards = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(lambda counts: sum(counts) > 0)


def lane_indices(plan: ReadPlan, counts: Sequence[int]) -> list[list[int]]:
    """Split indices of each lane."""
    offsets = np.cumsum([0, *counts])
    return [[int(offsets[run.shard]) + run.first + i for run in lane for i in range(run.length)] for lane in plan.lanes]


def read_order(plan: ReadPlan, counts: Sequence[int]) -> list[int]:
    """Split indices in the order of reading: one of each lane in turn."""
    lanes = [iter(lane) for lane in lane_indices(plan, counts)]
    order: list[int] = []
    while lanes:
        lanes = [lane for lane in lanes if (new := list(itertools.islice(lane, 1))) and not order.extend(new)]
    return order


@given(shards, st.integers(1, 7), st.integers(0, 3), st.integers(1, 50))
def test_every_epoch_is_the_whole_split_shared_by_the_ranks(
    counts: list[int], world_size: int, epoch: int, window: int
) -> None:
    plans = [
        shuffled_plan(counts, Share(rank, world_size), seed=3, epoch=epoch, window=window) for rank in range(world_size)
    ]
    assert sorted(np.concatenate([plan.visits for plan in plans])) == list(range(sum(counts)))
    sizes = [len(plan.visits) for plan in plans]
    assert sizes == [Share(rank, world_size).size(sum(counts)) for rank in range(world_size)]
    assert max(sizes) - min(sizes) <= 1
    for plan in plans:
        assert len(plan.lanes) <= MAX_LANES
        assert sorted(i for lane in lane_indices(plan, counts) for i in lane) == sorted(plan.visits)


@given(shards, st.integers(1, 5), st.integers(1, 50), st.data())
def test_going_on_from_anywhere_visits_what_was_left(
    counts: list[int], world_size: int, window: int, data: st.DataObject
) -> None:
    share = Share(data.draw(st.integers(0, world_size - 1)), world_size)
    whole = shuffled_plan(counts, share, seed=1, epoch=2, window=window)
    start = data.draw(st.integers(0, max(0, len(whole.visits) - 1)))
    rest = shuffled_plan(counts, share, seed=1, epoch=2, window=window, start=start)
    assert rest.visits[rest.skip :].tolist() == whole.visits[start:].tolist()
    assert rest.skip < max(window, MAX_LANES)
    assert sorted(i for lane in lane_indices(rest, counts) for i in lane) == sorted(rest.visits)


@given(shards, st.integers(1, 50), st.integers(0, 5))
def test_reading_never_runs_further_ahead_than_a_window(counts: list[int], window: int, epoch: int) -> None:
    plan = shuffled_plan(counts, Share(), seed=0, epoch=epoch, window=window)
    arrival = {index: position for position, index in enumerate(read_order(plan, counts))}
    ahead = [arrival[int(index)] - position for position, index in enumerate(plan.visits)]
    assert max(ahead) < max(window, MAX_LANES)


@given(shards, st.integers(1, 7), st.data())
def test_sequential_plans_are_the_split_in_order(counts: list[int], world_size: int, data: st.DataObject) -> None:
    plans = [sequential_plan(counts, Share(rank, world_size)) for rank in range(world_size)]
    assert [i for plan in plans for i in plan.visits] == list(range(sum(counts)))
    assert [i for plan in plans for lane in lane_indices(plan, counts) for i in lane] == list(range(sum(counts)))
    start = data.draw(st.integers(0, sum(counts)))
    rest = sequential_plan(counts, Share(), start)
    assert rest.visits.tolist() == list(range(start, sum(counts)))
    assert lane_indices(rest, counts) == [rest.visits.tolist()]


def test_seed_epoch_and_world_size_each_change_the_order() -> None:
    counts = [50, 50]

    def order(seed: int = 0, epoch: int = 0, world_size: int = 1) -> list[int]:
        return shuffled_plan(counts, Share(0, world_size), seed=seed, epoch=epoch, window=1000).visits.tolist()

    orders = [order(), order(seed=1), order(epoch=1), order(world_size=2)]
    assert len({tuple(visits) for visits in orders}) == 4
    assert order() == order()
    assert order() != list(range(100))


def test_ranks_get_other_examples_in_every_epoch() -> None:
    parts = [
        frozenset(shuffled_plan([10] * 10, Share(0, 2), seed=0, epoch=epoch, window=8).visits.tolist())
        for epoch in range(10)
    ]
    assert len(set(parts)) > 5


@pytest.mark.parametrize("counts", [[1000], [50] * 20])
def test_a_window_mixes_all_that_it_holds(counts: list[int]) -> None:
    n, epochs = 1000, 40
    places = np.arange(n)
    orders = [shuffled_plan(counts, Share(), seed=0, epoch=i, window=n).visits for i in range(epochs)]
    # Of uniform shuffles the mean way of an example is n / 3; correlations have mean 0 and deviation 1 / sqrt(n).
    assert np.mean([abs(order - places).mean() for order in orders]) == pytest.approx(n / 3, rel=0.02)
    with_place = [np.corrcoef(order, places)[0, 1] for order in orders]
    with_next = [np.corrcoef(a, b)[0, 1] for a, b in itertools.pairwise(orders)]
    for correlations in (with_place, with_next):
        assert abs(np.mean(correlations)) < 5 / np.sqrt(n * len(correlations))
        assert np.std(correlations) < 2 / np.sqrt(n)


def test_the_order_is_the_same_for_ever() -> None:
    # A change here makes every run that is resumed see other batches than it would have seen.
    plan = shuffled_plan([3, 4, 5], Share(), seed=0, epoch=0, window=6)
    assert plan.visits.tolist() == [5, 9, 1, 8, 4, 0, 2, 11, 6, 3, 7, 10]


def test_visits_are_counted() -> None:
    plans = [shuffled_plan([3, 4], Share(rank, 2), seed=0, epoch=0, window=4).visits for rank in range(2)]
    assert times_visited(plans, 7).tolist() == [1] * 7
    assert times_visited([*plans, plans[0][:1]], 7)[plans[0][0]] == 2
    assert times_visited(plans[:1], 7).tolist() == [int(i in plans[0]) for i in range(7)]
    assert times_visited([], 2).tolist() == [0, 0]
