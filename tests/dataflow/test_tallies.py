"""What is counted of images, against plain loops; and that the order and the cut into shards change nothing."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.records import FramePair, ImageRecord, Objects, no_objects
from dataflow.tallies import GRID, Tally, parse_tally, quarter_octaves


@st.composite
def images(draw: st.DrawFn) -> ImageRecord:
    height, width = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    n = draw(st.integers(0, 6))
    boxes = []
    for _ in range(n):
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        boxes.append([x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))])
    columns = st.lists(st.booleans(), min_size=n, max_size=n)
    objects = Objects(
        boxes=boxes,
        category_ids=draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)),
        is_crowd=draw(columns),
        is_truncated=draw(columns),
        track_ids=draw(st.none() | st.lists(st.integers(0, 5), min_size=n, max_size=n, unique=True)),
    )
    name = draw(st.text("abc", min_size=1, max_size=2))
    return ImageRecord(name, b"x", height, width, objects, draw(st.sampled_from("uvw")), "tests")


def of(records: list[ImageRecord]) -> Tally:
    tally = Tally()
    tally.add(records)
    return tally


@given(st.lists(images(), max_size=5))
def test_against_plain_loops(records: list[ImageRecord]) -> None:
    tally = of(records)
    found = [(record, place) for record in records for place in range(len(record.objects))]
    real = [(record, place) for record, place in found if not record.objects.is_crowd[place]]
    assert tally.images == len(records)
    assert (tally.objects, tally.ignored) == (len(real), len(found) - len(real))
    assert tally.empty == sum(all(record.objects.is_crowd) for record in records)
    assert tally.truncated == sum(bool(record.objects.is_truncated[place]) for record, place in real)
    labels = Counter(str(record.objects.category_ids[place]) for record, place in real)
    assert tally.class_objects == labels
    areas = [float(record.objects.areas[place]) for record, place in real]
    small, large = sum(area < 1024 for area in areas), sum(area >= 9216 for area in areas)
    by_size = Counter(name.split()[1] for name in tally.class_sizes.elements())
    assert (by_size["small"], by_size["large"], by_size.total()) == (small, large, len(real))
    per_class = Counter(name.split()[0] for name in tally.class_sizes.elements())
    assert per_class == labels
    shown = [{int(r.objects.category_ids[p]) for r, p in real if r is record} for record in records]
    for a in range(4):
        assert tally.class_images[str(a)] == sum(a in one for one in shown)
        for b in range(a + 1, 4):
            assert tally.class_pairs[f"{a} {b}"] == sum({a, b} <= one for one in shown)
    assert tally.objects_in_image == Counter(str(sum(r is record for r, _ in real)) for record in records)
    assert tally.image_sizes == Counter(f"{record.width} x {record.height}" for record in records)
    assert len(tally.scenes) == len({record.group_id for record in records})
    tracks = {(r.group_id, int(r.objects.track_ids[p])) for r, p in real if r.objects.track_ids is not None}
    assert len(tally.tracks) == len(tracks)


@given(st.lists(images(), max_size=4))
def test_boxes_touch_the_cells_that_they_overlap(records: list[ImageRecord]) -> None:
    expected = np.zeros((GRID, GRID), int)
    for record in records:
        for box, crowd in zip(record.objects.boxes.tolist(), record.objects.is_crowd, strict=True):
            for row in range(GRID):
                for column in range(GRID):
                    # In whole numbers: a cell is from column * width to (column + 1) * width, by GRID.
                    across = box[0] * GRID < (column + 1) * record.width and box[2] * GRID > column * record.width
                    down = box[1] * GRID < (row + 1) * record.height and box[3] * GRID > row * record.height
                    expected[row, column] += across and down and not crowd
    assert (of(records).heat == expected).all()


@given(st.lists(images(), max_size=6), st.data())
@settings(max_examples=40)
def test_shards_add_up_in_any_order(records: list[ImageRecord], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(records)))
    parts = [of(records[:cut]), of(records[cut:])]
    merged = Tally()
    for part in data.draw(st.permutations(parts)):
        merged.merge(parse_tally(json.loads(json.dumps(part.to_json()))))
    assert merged.to_json() == of(records).to_json()


@given(st.floats(1e-3, 1e6))
def test_bins(value: float) -> None:
    (k,) = quarter_octaves([value])
    assert 2 ** (k / 4) <= value * (1 + 1e-12) and value < 2 ** ((k + 1) / 4) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("track_ids", "expected"),
    [([1, 1, 2, 3], {"distance": 1}), ([1, 2, 3, 4], {}), ([-1, -1, 2, 3], {})],
)
def test_displacement_is_known_of_both_places_of_a_track(track_ids: list[int], expected: dict[str, int]) -> None:
    """The first object moved by (30, 40) px, if it is one; the third appeared, the last moved and shows one place."""
    objects = Objects(
        boxes=[[0, 0, 10, 10], [30, 40, 40, 50], [0, 0, 5, 5], [50, 50, 60, 60]],
        category_ids=[0, 0, 0, 0],
        track_ids=track_ids,
        changes=[1, 1, 2, 1],
        in_before=[True, False, False, False],
    )
    frame = ImageRecord("a", b"x", 100, 100, no_objects(), "scene", "tests")
    tally = Tally()
    tally.add([FramePair("pair", frame, frame, objects, alignment_score=0.72)])
    assert tally.changes == {"moved, before": 1, "moved": 2, "appeared": 1}
    assert tally.displacements == ({str(math.floor(4 * math.log2(50))): 1} if expected else {})
    assert tally.displaced_mpx == (50_000 if expected else 0)
    assert tally.scores == {"14": 1}


def test_what_does_not_move_has_no_bin() -> None:
    objects = Objects(
        boxes=[[0, 0, 10, 10]] * 2, category_ids=[0, 0], track_ids=[1, 1], changes=[1, 1], in_before=[True, False]
    )
    frame = ImageRecord("a", b"x", 100, 100, no_objects(), "scene", "tests")
    tally = Tally()
    tally.add([FramePair("pair", frame, frame, objects)])
    assert (tally.displacements, tally.displaced_mpx) == ({"none": 1}, 0)
