"""Batches by shape: nothing is lost, little is padded, and groups keep to their epoch."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dataflow.bridge.grouping import group_by_shape, group_of, padded_share
from dataflow.bridge.resize import FixedSize, KeepSize, LongestEdge, Resize, ResizePolicy

SIZES = st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=1, max_size=90)
PHOTOGRAPHS = Path(__file__).parents[3].parent / "shared" / "data" / "coco128" / "images" / "train2017"


@given(sizes=SIZES, batch_size=st.integers(1, 12))
def test_every_image_comes_once_in_full_batches(sizes: list[tuple[int, int]], batch_size: int) -> None:
    batches = group_by_shape(sizes, batch_size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(sizes)))
    assert all(len(batch) == batch_size for batch in batches[:-1]) and 1 <= len(batches[-1]) <= batch_size
    assert all((np.diff(batch) > 0).all() for batch in batches), "inside of a batch images keep their order"
    firsts = [batch[0] for batch in batches if len(batch) == batch_size]
    assert firsts == sorted(firsts)


@given(n=st.integers(1, 60), batch_size=st.integers(1, 9))
def test_images_of_one_shape_stay_where_they_are(n: int, batch_size: int) -> None:
    batches = group_by_shape([(30, 40)] * n, batch_size)
    assert np.concatenate(batches).tolist() == list(range(n))


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"needs the COCO photographs in {PHOTOGRAPHS}")
@pytest.mark.parametrize(
    ("policy", "most"),
    [(ResizePolicy(480, 640), 1.05), (ResizePolicy(800, 1333), 1.05), (LongestEdge(640), 1.05), (KeepSize(), 1.07)],
    ids=str,
)
def test_photographs_are_padded_by_a_twentieth(policy: Resize, most: float) -> None:
    sizes = [policy.target_size(Image.open(path).size[::-1]) for path in sorted(PHOTOGRAPHS.glob("*.jpg"))]
    in_order = [np.arange(i, i + 8) for i in range(0, len(sizes), 8)]
    assert padded_share(sizes, in_order) > 1.3
    assert padded_share(sizes, group_by_shape(sizes, 8)) <= most


def test_of_one_size_nothing_is_padded() -> None:
    sizes = [FixedSize(30, 50).target_size((h, 90)) for h in range(1, 40)]
    assert padded_share(sizes, group_by_shape(sizes, 4)) == 1


@given(group=st.integers(1, 9), batch_size=st.integers(1, 9), epoch=st.integers(1, 60))
def test_groups_follow_one_another_and_keep_to_their_epoch(group: int, batch_size: int, epoch: int) -> None:
    step = 0
    while step < 40:
        start, stop = group_of(step, group, batch_size, epoch)
        assert start == step < stop <= step + group
        assert all(group_of(inside, group, batch_size, epoch) == (start, stop) for inside in range(start, stop))
        if stop - start > 1:
            assert start * batch_size // epoch == (stop * batch_size - 1) // epoch, "a group crosses the border"
        step = stop
