"""Matching objects without track ids: drawn scenes whose truth is known, properties of any scene, and real tracks."""

import csv
import itertools
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dataflow.boxes import clip_boxes, mot_to_xyxy
from dataflow.errors import MissingExtraError, UsageError
from dataflow.images import RgbImage, decode_rgb
from dataflow.pairs.image_diff import SizeMismatchError
from dataflow.records import Change, Objects, no_objects
from tfds_builders.sources.assignment import GATE, _cheapest, assign_tracks, match_objects, needs_pixels
from tfds_builders.sources.moved import moved_objects

PETS = Path(__file__).parents[3].parent / "shared" / "data" / "pets09_s2l1"
COLOURS = [(220, 30, 30), (30, 160, 40), (30, 60, 220), (240, 220, 40), (230, 230, 235), (15, 15, 20), (190, 60, 200)]
GREYS = [(level, level, level) for level in (5, 45, 85, 165, 205, 250)]
SIZE = (120, 160)
Shape = tuple[int, int, int, int, tuple[int, int, int]]
"""x, y, width, height px, and the colour."""
Pairs = set[tuple[int, int]]


def scene(*shapes: Shape, seed: int = 0) -> tuple[Objects, RgbImage]:
    """Ellipses in boxes a pixel wider than they are, over a noisy slope; `seed` is the noise of the moment."""
    rng = np.random.default_rng(seed)
    canvas = np.add.outer(np.linspace(90, 130, SIZE[0]), np.linspace(0, 20, SIZE[1]))[..., None].repeat(3, axis=2)
    for x, y, width, height, colour in shapes:
        ellipse = (x + width / 2, y + height / 2), (width, height), 0
        cv2.ellipse(canvas, ellipse, colour, thickness=-1)
    noisy = np.clip(canvas + rng.normal(0, 3, canvas.shape), 0, 255).astype(np.uint8)
    edges = [(x - 1, y - 1, x + width + 1, y + height + 1) for x, y, width, height, _ in shapes]
    return objects(clip_boxes(edges, SIZE)), noisy


def objects(boxes: npt.ArrayLike, classes: list[int] | None = None, tracks: list[int] | None = None) -> Objects:
    rows = np.asarray(boxes, np.float32).reshape(-1, 4)
    ids = np.zeros(len(rows), np.int64) if classes is None else np.array(classes, np.int64)
    return Objects(rows, ids, track_ids=None if tracks is None else np.array(tracks, np.int64))


def pairs(before: tuple[Objects, RgbImage], after: tuple[Objects, RgbImage]) -> Pairs:
    found = match_objects(before[0], after[0], before[1], after[1])
    assert list(found.before) == sorted(found.before)
    assert ((found.confidence >= 0) & (found.confidence <= 1)).all()
    return set(zip(found.before.tolist(), found.after.tolist(), strict=True))


def same_track(before: Objects, after: Objects) -> Pairs:
    assert before.track_ids is not None and after.track_ids is not None
    i, j = np.nonzero(before.track_ids[:, None] == after.track_ids[None])
    return set(zip(i.tolist(), j.tolist(), strict=True))


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Shape], list[Shape], Pairs]:
    """Things of different colours in the cells of a grid, before and after, and which are the same.

    Cells are few, so that one thing often stands where another one stood.
    """
    palette = draw(st.permutations(draw(st.sampled_from([COLOURS, GREYS]))))
    count = draw(st.integers(0, len(palette)))
    cells = [(x, y) for x in (2, 42, 82, 122) for y in (2, 62)]
    homes, goals = draw(st.permutations(cells)), draw(st.permutations(cells))
    before: list[Shape] = []
    after: list[Shape] = []
    truth: Pairs = set()
    taken: set[tuple[int, int]] = set()
    for colour, home, goal in zip(palette[:count], homes, goals, strict=False):
        width, height = draw(st.integers(16, 34)), draw(st.integers(24, 52))
        fate = draw(st.sampled_from(["moves", "stands", "appears", "vanishes"]))
        if fate != "appears":
            before.append((*home, width, height, colour))
        place = home if fate == "stands" else goal
        if fate != "vanishes" and place not in taken:
            taken.add(place)
            after.append((*place, width, height, colour))
            if fate != "appears":
                truth.add((len(before) - 1, len(after) - 1))
    return before, after, truth


@settings(deadline=None)
@given(history=histories())
def test_things_of_different_colours_are_found_again(history: tuple[list[Shape], list[Shape], Pairs]) -> None:
    before, after, truth = history
    assert pairs(scene(*before, seed=1), scene(*after, seed=2)) == truth


RED, BLUE = COLOURS[0], COLOURS[2]


def test_what_stands_still_is_not_swapped_with_a_look_alike_that_passes_by() -> None:
    stands: Shape = (60, 40, 24, 48, RED)
    for start, end in ((30, 90), (38, 86), (5, 87), (87, 5)):
        before = scene(stands, (start, 42, 24, 48, RED), seed=1)
        after = scene((end, 42, 24, 48, RED), stands, seed=2)
        assert pairs(before, after) == {(0, 1), (1, 0)}


def test_what_stands_still_keeps_its_place_though_its_box_was_drawn_anew() -> None:
    """The passer-by has the very box that the standing one had, as annotators draw no box the same twice."""
    before = scene((60, 40, 24, 48, RED), (10, 40, 24, 48, RED), seed=1)
    after = scene((60, 40, 24, 48, RED), (100, 40, 24, 48, RED), seed=2)
    tight = objects([(59, 39, 85, 89), (8, 36, 38, 92)])
    loose = objects([(56, 36, 86, 92), (99, 39, 125, 89)])
    assert pairs((tight, before[1]), (loose, after[1])) == {(0, 0), (1, 1)}


def test_look_alikes_go_the_short_way() -> None:
    """Flat colours, so that nothing but the way tells them apart; the rows are in the order of the long ways."""
    boxes = objects([(10, 10, 30, 50), (40, 75, 60, 115)]), objects([(15, 72, 35, 112), (45, 12, 65, 52)])
    frames = []
    for frame in boxes:
        pixels = np.full((*SIZE, 3), 120, np.uint8)
        for x0, y0, x1, y1 in frame.boxes.astype(int).tolist():
            pixels[y0:y1, x0:x1] = RED
        frames.append((frame, pixels))
    assert pairs(frames[0], frames[1]) == {(0, 1), (1, 0)}


def test_large_and_small_are_told_apart() -> None:
    """Flat colours again; both places show the same red in both frames, and the boxes overlap there."""
    pixels = np.full((*SIZE, 3), 120, np.uint8)
    pixels[20:60, 10:150] = RED
    small, large = (20, 25, 40, 40), (100, 25, 140, 55)
    before, after = objects([small, large]), objects([(20, 25, 60, 55), (100, 25, 120, 40)])
    assert pairs((before, pixels), (after, pixels)) == {(0, 1), (1, 0)}


def test_the_halves_of_a_thing_are_told_apart() -> None:
    """Red above blue is not blue above red."""

    def flags(x: int, upper: tuple[int, int, int], lower: tuple[int, int, int]) -> tuple[Objects, RgbImage]:
        _, pixels = scene(seed=x)
        pixels[20:40, x : x + 30], pixels[40:60, x : x + 30] = upper, lower
        return objects([(x, 20, x + 30, 60)]), pixels

    assert pairs(flags(10, RED, BLUE), flags(80, BLUE, RED)) == set()
    assert pairs(flags(10, RED, BLUE), flags(80, RED, BLUE)) == {(0, 0)}


def test_things_that_changed_places_have_both_moved() -> None:
    before = scene((10, 20, 30, 50, RED), (80, 20, 30, 50, BLUE), seed=1)
    after = scene((10, 20, 30, 50, BLUE), (80, 20, 30, 50, RED), seed=2)
    assert pairs(before, after) == {(0, 1), (1, 0)}
    found = moved_objects(*assign_tracks(before[0], after[0], before[1], after[1]), "after", 0.5)
    assert found.changes is not None and found.changes.tolist() == [Change.MOVED, Change.MOVED]


def test_another_thing_at_the_same_place_is_another_thing() -> None:
    before, after = scene((10, 20, 30, 50, RED), seed=1), scene((10, 20, 30, 50, BLUE), seed=2)
    assert pairs(before, after) == set()
    found = moved_objects(*assign_tracks(before[0], after[0], before[1], after[1]), "both", 0.5)
    assert found.changes is not None and found.changes.tolist() == [Change.VANISHED, Change.APPEARED]


def test_the_background_is_left_out() -> None:
    """Small things in wide boxes that share their background: colour of the whole box would take any for any."""
    before, after = scene((30, 40, 6, 10, RED), seed=1), scene((100, 70, 6, 10, BLUE), seed=2)
    wide = [replace(frame[0], boxes=frame[0].boxes + np.float32([-9, -9, 9, 9])) for frame in (before, after)]
    assert pairs((wide[0], before[1]), (wide[1], after[1])) == set()
    again = scene((100, 70, 6, 10, RED), seed=2)
    assert pairs((wide[0], before[1]), (wide[1], again[1])) == {(0, 0)}


def test_other_class_other_thing() -> None:
    frame = scene((10, 20, 30, 50, RED))
    other = replace(frame[0], category_ids=np.array([1])), frame[1]
    assert pairs(frame, other) == set()
    assert pairs(frame, frame) == {(0, 0)}


def test_regions_to_ignore_are_kept_and_matched_with_nothing() -> None:
    frame, pixels = scene((10, 20, 30, 50, RED), (80, 20, 30, 50, BLUE))
    crowd = replace(frame, is_crowd=np.array([True, False]))
    for before, after in ((crowd, frame), (frame, crowd), (crowd, crowd)):
        first, second = assign_tracks(before, after, pixels, pixels)
        assert same_track(first, second) == {(1, 1)}
        assert (first.is_crowd == before.is_crowd).all() and (second.is_crowd == after.is_crowd).all()
        assert len(moved_objects(first, second, "both", 0.5)) == 2, "the region, and what is in its place without one"


def test_track_ids_decide() -> None:
    before, after = scene((10, 20, 30, 50, RED), (80, 20, 30, 50, BLUE)), scene((10, 20, 30, 50, RED))
    tracked = replace(before[0], track_ids=np.array([7, 3])), replace(after[0], track_ids=np.array([3]))
    assert not needs_pixels(*tracked)
    first, second = assign_tracks(*tracked)
    assert first.track_ids is not None and first.track_ids.tolist() == [7, 3]
    assert second.track_ids is not None and second.track_ids.tolist() == [3]


def test_track_ids_of_one_frame_say_nothing() -> None:
    before, after = scene((10, 20, 30, 50, RED), (80, 20, 30, 50, BLUE)), scene((50, 20, 30, 50, BLUE))
    tracked = replace(before[0], track_ids=np.array([0, 5]))
    assert same_track(*assign_tracks(tracked, after[0], before[1], after[1])) == {(1, 0)}
    assert same_track(*assign_tracks(after[0], tracked, after[1], before[1])) == {(0, 1)}


def test_objects_without_a_track_among_tracked_ones() -> None:
    before = scene((10, 20, 30, 50, RED), (80, 20, 30, 50, BLUE), (120, 60, 30, 50, RED))
    after = scene((10, 20, 30, 50, RED), (50, 60, 30, 50, BLUE), (120, 60, 30, 50, RED))
    first = replace(before[0], track_ids=np.array([4, -1, -1]))
    second = replace(after[0], track_ids=np.array([-1, -1, 4]))
    first, second = assign_tracks(first, second, before[1], after[1])
    assert same_track(first, second) == {(0, 2), (1, 1), (2, 0)}, "4 decides, however unlikely it looks"
    assert first.track_ids is not None and (first.track_ids >= 0).all()


def test_empty_frames() -> None:
    full, pixels = scene((10, 20, 30, 50, RED), (80, 20, 30, 50, BLUE))
    for before, after in ((no_objects(), full), (full, no_objects()), (no_objects(), no_objects())):
        assert not needs_pixels(before, after)
        assert pairs((before, pixels), (after, pixels)) == set()
        first, second = assign_tracks(before, after)
        assert first.track_ids is not None and second.track_ids is not None
        assert len({*first.track_ids.tolist(), *second.track_ids.tolist()}) == len(before) + len(after)


def test_confidence_tells_the_clear_from_the_doubtful() -> None:
    clear = scene((10, 20, 30, 50, RED), (80, 20, 30, 50, BLUE)), scene((20, 30, 30, 50, RED), (85, 22, 30, 50, BLUE))
    # Two alike go to two places, each as far from one as from the other.
    alike = scene((60, 5, 20, 30, RED), (60, 85, 20, 30, RED)), scene((20, 45, 20, 30, RED), (100, 45, 20, 30, RED))
    sure, unsure = (match_objects(a[0], b[0], a[1], b[1]).confidence for a, b in (clear, alike))
    assert len(sure) == len(unsure) == 2
    assert sure.min() > 0.5 and unsure.max() < 0.1


def any_objects() -> st.SearchStrategy[Objects]:
    """Up to 6 boxes of any size from a pixel's fraction up, borders included, of two classes, some to ignore."""
    side = st.integers(0, 24)
    corner = st.tuples(side, side, st.sampled_from([0.25, 1, 3, 8]), st.sampled_from([0.25, 1, 5, 8]))
    row = st.tuples(corner, st.integers(0, 1), st.integers(0, 4).map(lambda value: value == 0))

    def build(rows: list[tuple[tuple[float, ...], int, bool]]) -> Objects:
        boxes = [(x, y, x + width, y + height) for (x, y, width, height), _, _ in rows]
        return replace(objects(boxes, [row[1] for row in rows]), is_crowd=np.array([row[2] for row in rows], np.bool_))

    # Objects that share box and class are the same to anyone: which of them matched is no one's business.
    return st.lists(row, max_size=6, unique_by=lambda row: (row[0], row[1])).map(build)


def any_pixels() -> st.SearchStrategy[RgbImage]:
    """Few colours in large patches (so that ties happen), noise, or one grey."""
    patches = hnp.arrays(np.uint8, (4, 4, 3), elements=st.sampled_from([0, 90, 255]))
    noise = st.integers(0, 99).map(lambda seed: np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8))
    grey = st.integers(0, 255).map(lambda level: np.full((32, 32, 3), level, np.uint8))
    return st.one_of(patches.map(lambda small: small.repeat(8, axis=0).repeat(8, axis=1)), noise, grey)


@settings(max_examples=150, deadline=None)
@given(before=any_objects(), after=any_objects(), first=any_pixels(), second=any_pixels(), data=st.data())
def test_any_scene(before: Objects, after: Objects, first: RgbImage, second: RgbImage, data: st.DataObject) -> None:
    there, back = pairs((before, first), (after, second)), pairs((after, second), (before, first))
    assert back == {(j, i) for i, j in there}, "backwards in time"
    assert len({i for i, _ in there}) == len({j for _, j in there}) == len(there)
    assert all(before.category_ids[i] == after.category_ids[j] for i, j in there)
    assert not any(before.is_crowd[i] or after.is_crowd[j] for i, j in there)
    order = data.draw(st.permutations(range(len(after))))
    shuffled = Objects(after.boxes[order], after.category_ids[order], is_crowd=after.is_crowd[order])
    assert {(i, order[j]) for i, j in pairs((before, first), (shuffled, second))} == there
    tracked = assign_tracks(before, after, first, second)
    assert same_track(*tracked) == there
    for objects_, original in zip(tracked, (before, after), strict=True):
        assert objects_.track_ids is not None and len(set(objects_.track_ids.tolist())) == len(original)
        np.testing.assert_array_equal(objects_.boxes, original.boxes)
    forth = moved_objects(*tracked, "both", 0.5).changes
    reverse = moved_objects(*assign_tracks(after, before, second, first), "both", 0.5).changes
    assert forth is not None and reverse is not None
    swap = {Change.APPEARED: Change.VANISHED, Change.VANISHED: Change.APPEARED}
    assert sorted(forth.tolist()) == sorted(swap.get(Change(change), change) for change in reverse.tolist())


@settings(deadline=None)
@given(
    first=st.sets(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=6),
    second=st.sets(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=6),
    data=st.data(),
)
def test_ties_fall_alike_whatever_comes_first(
    first: set[tuple[int, int]], second: set[tuple[int, int]], data: st.DataObject
) -> None:
    """Equal boxes on grids that lie between each other, in one grey: many assignments are equally good."""
    pixels = np.full((32, 32, 3), 99, np.uint8)
    places = sorted(first), sorted((x + 0.5, y + 0.5) for x, y in second)
    before, after = (objects([(x * 8, y * 8, x * 8 + 4, y * 8 + 4) for x, y in corners]) for corners in places)
    there = pairs((before, pixels), (after, pixels))
    assert {(j, i) for i, j in pairs((after, pixels), (before, pixels))} == there
    order = data.draw(st.permutations(range(len(after))))
    assert {(i, order[j]) for i, j in pairs((before, pixels), (objects(after.boxes[order]), pixels))} == there


@settings(deadline=None)
@given(before=any_objects(), pixels=any_pixels())
def test_nothing_happened(before: Objects, pixels: RgbImage) -> None:
    expected = {(i, i) for i in np.flatnonzero(~before.is_crowd).tolist()}
    assert pairs((before, pixels), (before, pixels)) == expected


@given(
    costs=hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=4).flatmap(
        lambda shape: hnp.arrays(
            np.float64, shape, elements=st.one_of(st.floats(-0.4, 1.5), st.just(float("inf")), st.just(GATE))
        )
    )
)
def test_cheapest_against_all_assignments(costs: npt.NDArray[np.float64]) -> None:
    n, m = costs.shape
    best = 0.0
    for k in range(1, min(n, m) + 1):
        for rows in itertools.combinations(range(n), k):
            for columns in itertools.permutations(range(m), k):
                best = min(best, float((costs[list(rows), list(columns)] - GATE).sum()))
    i, j = _cheapest(costs)
    assert len(set(i.tolist())) == len(set(j.tolist())) == len(i)
    assert (costs[i, j] < GATE).all()
    assert (costs[i, j] - GATE).sum() == pytest.approx(best)


def test_mistakes_of_the_caller() -> None:
    frame, pixels = scene((10, 20, 30, 50, RED))
    with pytest.raises(UsageError, match="give both decoded images"):
        assign_tracks(frame, frame, pixels)
    with pytest.raises(SizeMismatchError, match="160x120 px and 150x120 px"):
        assign_tracks(frame, frame, pixels, pixels[:, :150])


def test_scipy_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    frame, pixels = scene((10, 20, 30, 50, RED))
    with pytest.raises(MissingExtraError, match=r"scipy.*prepare"):
        match_objects(frame, frame, pixels, pixels)


def pets_frames(numbers: set[int]) -> dict[int, tuple[Objects, RgbImage]]:
    """Frames with their true tracks, read here independently of the MOT reader."""
    rows: dict[int, list[list[float]]] = {}
    with (PETS / "gt" / "gt.txt").open() as file:
        for row in csv.reader(file):
            rows.setdefault(int(row[0]), []).append([float(field) for field in row[:7]])
    frames = {}
    for number in sorted(numbers):
        boxes = clip_boxes(mot_to_xyxy([row[2:6] for row in rows[number]]), (576, 768))
        frame = replace(
            objects(boxes, tracks=[int(row[1]) for row in rows[number]]),
            is_crowd=np.array([row[6] == 0 for row in rows[number]]),
        )
        frames[number] = frame, decode_rgb((PETS / "img1" / f"{number:06d}.jpg").read_bytes())
    return frames


def changes_of(before: Objects, after: Objects) -> list[int]:
    """The class of change of every object of both frames, in order."""
    found = moved_objects(before, after, "both", 0.5)
    assert found.track_ids is not None and found.changes is not None
    assert before.track_ids is not None and after.track_ids is not None
    by_track = dict(zip(found.track_ids.tolist(), found.changes.tolist(), strict=True))
    return [by_track.get(track, Change.NONE) for track in [*before.track_ids.tolist(), *after.track_ids.tolist()]]


@pytest.mark.skipif(not PETS.is_dir(), reason="needs shared/data/pets09_s2l1 beside the checkout")
@pytest.mark.parametrize(("gap", "least_found", "least_changes"), [(10, 0.95, 0.97), (40, 0.8, 0.88)])
def test_people_are_found_again_as_their_tracks_say(gap: int, least_found: float, least_changes: float) -> None:
    """Pairs that begin at an even frame; measured: 0.98 and 0.87 found, 0.99 and 0.94 of changes right."""
    starts = range(2, 201 - gap, 2)
    frames = pets_frames({*starts, *(start + gap for start in starts)})
    true = found = right = objects_seen = changes_right = 0
    for start in starts:
        (before, first), (after, second) = frames[start], frames[start + gap]
        stripped = replace(before, track_ids=None), replace(after, track_ids=None)
        tracked = assign_tracks(*stripped, first, second)
        truth = {(i, j) for i, j in same_track(before, after) if not (before.is_crowd[i] or after.is_crowd[j])}
        mine = same_track(*tracked)
        true, found, right = true + len(truth), found + len(mine), right + len(truth & mine)
        seen = ~np.concatenate([before.is_crowd, after.is_crowd])
        agree = np.array(changes_of(before, after)) == changes_of(*tracked)
        objects_seen, changes_right = objects_seen + seen.sum(), changes_right + agree[seen].sum()
    assert true > 400
    assert right / true > least_found and right / found > least_found
    assert changes_right / objects_seen > least_changes
