"""Masks of COCO annotations against pycocotools, and what is wrong with them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as reference

from dataflow.findings import Code
from tests.factories import Loaded, Picture, Thing, coco_json, load, write_coco
from tfds_builders.formats.coco import open_coco
from tfds_builders.sources.masks import decode_counts, segmentation_area

SIZE = (48, 64)
BOX = (24.0, 12.0, 40.0, 36.0)
TRIANGLE = [24.0, 12.0, 40.0, 12.0, 24.0, 36.0]
masks = hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70), elements=st.integers(0, 1)
)


def counted(mask: npt.NDArray[np.uint8]) -> list[int]:
    """Run lengths of a mask (H, W) down its columns, background first."""
    edges = np.flatnonzero(np.diff(mask.flatten(order="F"), prepend=0))
    runs: list[int] = np.diff(edges, prepend=0, append=mask.size).tolist()
    return runs


@given(mask=masks)
def test_run_lengths(mask: npt.NDArray[np.uint8]) -> None:
    """As pycocotools compresses and counts them, and uncompressed."""
    encoded = reference.encode(np.asfortranarray(mask))
    text = encoded["counts"].decode()
    size = (mask.shape[0], mask.shape[1])
    assert list(decode_counts(text)) == counted(mask)
    for counts in (text, counted(mask)):
        area = segmentation_area(json.dumps({"size": list(size), "counts": counts}), size)
        assert area == mask.sum() == reference.area(encoded)


def test_long_runs() -> None:
    """Numbers of several characters, and differences below zero."""
    mask = np.zeros((3000, 2000), np.uint8)
    mask[5:2900, 3:1900] = 1
    mask[100:103, 50:60] = 0
    text = reference.encode(np.asfortranarray(mask))["counts"].decode()
    assert segmentation_area(json.dumps({"size": [3000, 2000], "counts": text}), (3000, 2000)) == mask.sum()


@settings(max_examples=200)
@given(
    centre=st.tuples(st.floats(20, 44), st.floats(20, 28)),
    radii=st.lists(st.floats(5, 18), min_size=3, max_size=20),
    clockwise=st.booleans(),
)
def test_polygons(centre: tuple[float, float], radii: list[float], clockwise: bool) -> None:
    """A star about a centre: pycocotools counts pixels, which differs by half a pixel along the outline at most."""
    angles = [2 * math.pi * i / len(radii) for i in range(len(radii))]
    points = [(centre[0] + r * math.cos(a), centre[1] + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]
    flat = [number for point in (points if clockwise else points[::-1]) for number in point]
    [encoded] = reference.frPyObjects([flat], *SIZE)
    outline = sum(math.dist(points[i - 1], points[i]) for i in range(len(points)))
    assert abs(segmentation_area(json.dumps([flat]), SIZE) - float(reference.area(encoded))) <= 0.5 * outline + 1


def test_parts_add_up() -> None:
    other = [0, 0, 10, 0, 10, 10, 0, 10]
    assert segmentation_area(json.dumps([TRIANGLE, other]), SIZE) == 16 * 24 / 2 + 100


def load_mask(root: Path, segmentation: Any, repair: bool = False, **fields: Any) -> Loaded:
    """A source of one image and one object with a mask."""
    pictures = [Picture("a", things=(Thing(0, BOX),))]
    content = coco_json(pictures)
    del content["annotations"][0]["area"]
    content["annotations"][0] |= {"segmentation": segmentation, **fields}
    return load(open_coco(write_coco(root, pictures, content=content)), repair)


class TestSources:
    @pytest.mark.parametrize("nothing", [None, []])
    def test_no_mask(self, nothing: Any, tmp_path: Path) -> None:
        loaded = load_mask(tmp_path, nothing)
        assert not loaded.findings and loaded.column("a", "segmentation") == [""]
        assert loaded.column("a", "area") == [384.0]

    def test_polygons_are_kept_as_they_are(self, tmp_path: Path) -> None:
        loaded = load_mask(tmp_path, [TRIANGLE, [1, 2, 3.5, 4, 5.123456, 9]])
        assert not loaded.findings
        assert loaded.column("a", "segmentation") == ["[[24.0,12.0,40.0,12.0,24.0,36.0],[1,2,3.5,4,5.123456,9]]"]

    def test_area_is_that_of_the_mask(self, tmp_path: Path) -> None:
        assert load_mask(tmp_path / "1", [TRIANGLE]).column("a", "area") == [192.0]
        given_area = load_mask(tmp_path / "2", [TRIANGLE], area=200)
        assert given_area.column("a", "area") == [200.0], "unless the file says another"

    @pytest.mark.parametrize("is_text", [True, False])
    def test_run_lengths_of_a_crowd(self, is_text: bool, tmp_path: Path) -> None:
        mask = np.zeros(SIZE, np.uint8)
        mask[12:36, 24:40] = 1
        mask[20:22, 30:34] = 0
        encoded = reference.encode(np.asfortranarray(mask))
        counts = encoded["counts"].decode() if is_text else counted(mask)
        loaded = load_mask(tmp_path, {"size": list(SIZE), "counts": counts}, iscrowd=1)
        assert not loaded.findings and loaded.column("a", "is_crowd") == [True]
        assert loaded.column("a", "area") == [384.0 - 8]
        kept = json.loads(loaded.column("a", "segmentation")[0])
        assert kept == {"size": list(SIZE), "counts": counts}

    @pytest.mark.parametrize(
        "segmentation",
        [
            TRIANGLE,
            [TRIANGLE[:4]],
            [TRIANGLE[:5]],
            [[*TRIANGLE, 3]],
            [TRIANGLE, []],
            [[*TRIANGLE[:5], None]],
            [[*TRIANGLE[:5], "1"]],
            [[*TRIANGLE[:5], True]],
            [[*TRIANGLE[:5], float("nan")]],
            [[*TRIANGLE[:5], 10**400]],
            [[0, 0, 1e11, 0, 1e11, 1e11]],
            "[[1,2,3,4,5,6]]",
            7,
            {},
            {"counts": [10]},
            {"size": [48, 64]},
            {"size": [48, 64], "counts": None},
            {"size": [48, 64], "counts": [48 * 64 - 1]},
            {"size": [48, 64], "counts": [48 * 64 + 1, -1]},
            {"size": [48, 64], "counts": [48 * 64.0]},
            {"size": [64, 48], "counts": [48 * 64]},
            {"size": [48, 64, 1], "counts": [48 * 64]},
            {"size": 48, "counts": [48]},
            {"size": [48, 64], "counts": "P"},
            {"size": [48, 64], "counts": "ä"},
            {"size": [48, 64], "counts": "o" * 1000},
            {"size": [48, 64], "counts": "P\0"},
        ],
    )
    def test_what_is_wrong_with_a_mask(self, segmentation: Any, tmp_path: Path) -> None:
        loaded = load_mask(tmp_path, segmentation)
        assert loaded.places() == [(Code.LABEL_MALFORMED, "instances.json", "/annotations/0/segmentation")]
        assert loaded.quarantined == ["a"] and len(loaded.findings[0].value) <= 200
        assert loaded.findings[0].box == BOX
        repaired = load(open_coco(tmp_path), repair=True)
        assert repaired.column("a", "segmentation") == [""] and repaired.column("a", "area") == [384.0]
        assert repaired.boxes("a").tolist() == [list(BOX)]

    def test_backslashes_in_run_lengths(self, tmp_path: Path) -> None:
        """Compressed run lengths hold any character from 0 to o: JSON within JSON within JSON must keep them."""
        mask = np.zeros(SIZE, np.uint8)
        mask[:1, 1] = mask[2, 4] = 1
        text = reference.encode(np.asfortranarray(mask))["counts"].decode()
        assert "\\" in text
        loaded = load_mask(tmp_path, {"size": list(SIZE), "counts": text})
        assert not loaded.findings and loaded.column("a", "area") == [2.0]
        assert json.loads(loaded.column("a", "segmentation")[0])["counts"] == text
