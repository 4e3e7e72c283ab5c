"""YOLO labels beyond plain boxes: segments, pixels where shares are expected, and the classes that lines name."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflow.findings import Code
from tests.factories import load, write
from tests.tfds_builders.formats.test_yolo import BOX, LINE, OTHER, dataset, load_one
from tfds_builders.formats.yolo import in_pixels, open_yolo
from tfds_builders.sources.inspection import Inspection, RawObject
from tfds_builders.sources.masks import enclosed_area
from tfds_builders.sources.source import Checks, Reference


def segment(*points: tuple[float, float]) -> str:
    """A line of class 0 and points in px of an image of 64 x 48."""
    return "0 " + " ".join(f"{x / 64:.9f} {y / 48:.9f}" for x, y in points) + "\n"


class TestSegments:
    def test_polygons_are_kept_with_their_area(self, tmp_path: Path) -> None:
        points = [(10.0, 10.0), (30.0, 10.0), (30.0, 40.0)]
        loaded = load_one(tmp_path, segment(*points) + LINE)
        assert not loaded.findings
        np.testing.assert_allclose(loaded.boxes("a"), [[10, 10, 30, 40], BOX], atol=1e-4)
        mask, none = loaded.column("a", "segmentation")
        assert none == ""
        np.testing.assert_allclose(json.loads(mask), [np.ravel(points)], atol=1e-3)
        np.testing.assert_allclose(loaded.column("a", "area"), [300, 16 * 24], rtol=1e-5)

    def test_an_oriented_box_is_a_polygon_of_four_points(self, tmp_path: Path) -> None:
        loaded = load_one(tmp_path, segment((32, 4), (52, 24), (32, 44), (12, 24)))
        np.testing.assert_allclose(loaded.boxes("a"), [[12, 4, 52, 44]], atol=1e-4)
        np.testing.assert_allclose(loaded.column("a", "area"), [800], rtol=1e-5)

    def test_a_polygon_without_area_has_that_of_its_box(self, tmp_path: Path) -> None:
        loaded = load_one(tmp_path, segment((10, 10), (20, 20), (30, 30)))
        np.testing.assert_allclose(loaded.column("a", "area"), [400], rtol=1e-5)

    @given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 48)), min_size=3, max_size=12, unique=True))
    def test_any_polygon(self, points: list[tuple[int, int]]) -> None:
        """The area is the cross products' sum, one triangle after another; OpenCV agrees."""
        expected = cv2.contourArea(np.array(points, np.float32))
        assert enclosed_area(np.array(points, np.float64).reshape(-1).tolist()) == pytest.approx(expected, abs=1e-3)
        (x0, y0), (x1, y1) = np.min(points, axis=0), np.max(points, axis=0)
        (item,) = _objects(segment(*points).encode())
        np.testing.assert_allclose(item.box, [x0, y0, x1, y1], atol=1e-4)
        np.testing.assert_allclose(json.loads(item.segmentation), [np.ravel(points)], atol=1e-3)
        assert item.area == (pytest.approx(expected, abs=0.05) if expected > 1 else item.area)


def _objects(data: bytes) -> list[RawObject]:
    with TemporaryDirectory() as folder:
        source = open_yolo(dataset(Path(folder), {"a": data}))
        look = Inspection("a", Checks())
        return in_pixels(look, "labels/a.txt", source.parse(look, "labels/a.txt", data), (48, 64))


class TestPixelsWhereSharesAreExpected:
    @pytest.mark.parametrize("repair", [False, True])
    def test_one_finding_for_a_file(self, repair: bool, tmp_path: Path) -> None:
        loaded = load_one(tmp_path, f"{LINE}0 32 24 16 20\n0 20 20 10 10\n0 2 2 4 4\n", repair)
        assert loaded.places() == [(Code.BOX_UNITS, "labels/a.txt", 2)]
        assert "32 24 16 20" in loaded.findings[0].value
        assert loaded.quarantined == ["a"], "whether 32 24 is a centre or a corner cannot be known"

    @pytest.mark.parametrize("line", ["0 0 0 64 48", "0 10 10 11 11", "0 10 10 20 10 20 20", "0 64 48 1 1"])
    def test_pixels(self, line: str, tmp_path: Path) -> None:
        assert load_one(tmp_path, line).places() == [(Code.BOX_UNITS, "labels/a.txt", 1)]

    @pytest.mark.parametrize("line", ["0 0.5 0.5 1.6 0.5", "0 70 24 10 10", "0 1.2 1.3 0.5 0.5", "0 -20 24 10 10"])
    def test_what_does_not_look_like_pixels_is_outside(self, line: str, tmp_path: Path) -> None:
        assert load_one(tmp_path, line).places() == [(Code.BOX_OUTSIDE, "labels/a.txt", 1)]


class TestClasses:
    def test_a_name_twice_is_one_class(self, tmp_path: Path) -> None:
        root = dataset(tmp_path, {"a": "0 0.5 0.5 0.25 0.5\n", "b": "2 0.5 0.5 0.25 0.5\n"}, names="cat\ndog\n\ncat\n")
        source = open_yolo(root)
        assert source.categories.names == ("cat", "dog")
        loaded = load(source)
        assert loaded.places() == [
            (Code.CLASS_NAMED_TWICE, "classes.txt", 4),
            (Code.CLASS_NAMED_TWICE, "labels/b.txt", 1),
        ]
        assert loaded.quarantined == ["b"]
        repaired = load(source, repair=True)
        assert repaired.column("a", "label") == repaired.column("b", "label") == [0]

    def test_unknown_numbers_are_told(self, tmp_path: Path) -> None:
        loaded = load_one(tmp_path, "2 0.5 0.5 0.25 0.5\n1e99 0.5 0.5 0.2 0.5\n7 0.5 0.5 0.3 0.5\n")
        assert list(loaded.outcomes["a"].unknown_classes) == [2, 7]

    def test_where_its_image_is(self, tmp_path: Path) -> None:
        root = dataset(tmp_path, {"a": "1 0.5 0.5 0.25 0.5\n0 0 0 9 9\nx\n5 0 0 1 1\n1 0.2 0.2 0.1 0.1\n", "b": None})
        source = open_yolo(root)
        a, _ = source.scan().references
        assert source.image_path(a) == root / "images" / "a.jpg"


def test_what_an_example_depends_on_is_in_its_stamp(tmp_path: Path) -> None:
    root = dataset(tmp_path, {"a": LINE, "b": LINE})
    before = {reference.image_id: reference for reference in open_yolo(root).scan().references}
    write(root / "labels" / "a.txt", LINE + OTHER)
    (root / "labels" / "b.txt").touch()
    after = {reference.image_id: reference for reference in open_yolo(root).scan().references}
    assert before["a"].stamp != after["a"].stamp
    assert Reference.from_line(after["a"].to_line()) == after["a"]
