"""Looking at annotations: which boxes are kept, cut or refused, and how boxes on stored pixels are turned."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflow.boxes import Size
from dataflow.findings import Code
from dataflow.images import turn_upright
from dataflow.records import Change, Objects
from dataflow.shards import Sight
from tests.factories import photograph, write
from tfds_builders.sources.classes import named_classes, numbered_classes
from tfds_builders.sources.inspection import Corners, Declared, Inspection, RawObject
from tfds_builders.sources.photo import Photo
from tfds_builders.sources.source import Checks, Reference

SIZE = (48, 64)
FILE = "labels/a.txt"
ODD = range(5, 9)
"""Orientations that change height and width."""


def photo(stored: Size = SIZE, orientation: int = 1) -> Photo:
    size = (stored[1], stored[0]) if orientation >= 5 else stored
    return Photo(b"", size, stored, orientation, Sight(1))


def thing(*box: float, line: int | str = 1, **more: Any) -> RawObject:
    x0, y0, x1, y1 = box
    return RawObject((x0, y0, x1, y1), more.pop("category_id", 0), line, **more)


def looked(
    *raw: RawObject, repair: bool = False, by_design: bool = False, of: Photo | None = None, **more: Any
) -> tuple[Objects, Inspection]:
    look = Inspection("a", Checks(repair), by_design)
    with np.errstate(all="ignore"):
        return look.objects(raw, of or photo(), FILE, **more), look


def codes(look: Inspection) -> list[tuple[Code, str, bool]]:
    return [(finding.code, finding.severity, finding.repaired) for finding in look.findings]


class TestBorders:
    @pytest.mark.parametrize("side", range(4))
    @pytest.mark.parametrize(
        ("beyond", "code"),
        [
            (-1.0, None),
            (0.0, None),
            (0.0099, None),
            (0.0101, Code.BOX_CLIPPED),
            (0.5, Code.BOX_CLIPPED),
            (1.0, Code.BOX_CLIPPED),
            (1.001, Code.BOX_OUTSIDE),
            (20.0, Code.BOX_OUTSIDE),
        ],
    )
    def test_each_side(self, side: int, beyond: float, code: Code | None) -> None:
        """Up to a hundredth of a pixel is rounding, up to one is what tools do; more is a mistake."""
        box = [20.0, 10.0, 40.0, 30.0]
        border = (0, 0, SIZE[1], SIZE[0])[side]
        box[side] = border + beyond * (1 if side >= 2 else -1)
        inside = list(box)
        if beyond > 0:
            inside[side] = border
        objects, look = looked(thing(*box))
        severity = "error" if code == Code.BOX_OUTSIDE else "info"
        assert codes(look) == ([(code, severity, False)] if code else [])
        assert objects.boxes.tolist() == [inside] and look.refused == (code == Code.BOX_OUTSIDE)
        objects, look = looked(thing(*box), repair=True)
        assert codes(look) == ([(code, severity, severity == "error")] if code else []) and not look.refused
        assert objects.boxes.tolist() == [inside]

    def test_a_finding_shows_the_box_as_it_was(self) -> None:
        _, look = looked(thing(-5, 4, 20, 30, line="/annotations/3/bbox"))
        [finding] = look.findings
        assert finding.box == (-5, 4, 20, 30) and finding.line == "/annotations/3/bbox"
        assert (finding.file, finding.image_id) == (FILE, "a")
        assert "leaves the image of 64x48 px by 5.00 px" in finding.value

    @pytest.mark.parametrize("repair", [False, True])
    def test_tracks_are_cut_and_those_gone_are_left_out(self, repair: bool) -> None:
        gone, cut = thing(-50, 4, -10, 30), thing(-5, 4, 20, 30)
        objects, look = looked(gone, cut, repair=repair, by_design=True)
        assert codes(look) == [(Code.BOX_OUTSIDE, "info", False), (Code.BOX_CLIPPED, "info", False)]
        assert objects.boxes.tolist() == [[0, 4, 20, 30]] and not look.refused

    @given(
        box=st.tuples(*[st.floats(-200, 200, width=32) for _ in range(4)]),
        repair=st.booleans(),
        by_design=st.booleans(),
    )
    def test_what_is_kept_lies_within(self, box: Corners, repair: bool, by_design: bool) -> None:
        """Against the definition: the cut box has sides, or the object is left out; and errors say what repairs."""
        objects, look = looked(thing(*box), repair=repair, by_design=by_design, relative=True)
        x0, y0, x1, y1 = box
        cut = max(x0, 0), max(y0, 0), min(x1, 64), min(y1, 48)
        is_left = min(x1 - x0, y1 - y0) >= 0.01 and min(cut[2] - cut[0], cut[3] - cut[1]) >= 0.01
        assert len(objects) == is_left
        if is_left:
            np.testing.assert_allclose(objects.boxes, [cut], atol=1e-5)
        errors = [code for code, severity, _ in codes(look) if severity == "error"]
        beyond = max(-x0, -y0, x1 - 64, y1 - 48)
        if min(x1 - x0, y1 - y0) < 0.01:
            assert errors == [Code.BOX_EMPTY]
        elif by_design:
            assert not errors
        else:
            assert errors == ([Code.BOX_OUTSIDE] if beyond > 1 or not is_left else [])
        assert look.refused == (bool(errors) and not repair)


class TestShapes:
    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("place", range(4))
    def test_not_finite(self, number: float, place: int) -> None:
        box = [20.0, 10.0, 40.0, 30.0]
        box[place] = number
        objects, look = looked(thing(*box), thing(1, 2, 30, 40, line=2))
        assert codes(look) == [(Code.BOX_NOT_FINITE, "error", False)] and look.refused
        assert look.findings[0].box is None and objects.boxes.tolist() == [[1, 2, 30, 40]]

    @pytest.mark.parametrize(
        ("box", "is_absurd"),
        [
            ((10, 10, 12, 12), False),  # 4 px2
            ((10, 10, 11.99, 12), True),
            ((0, 10, 60, 11.3), False),  # 46 times as long as wide
            ((0, 10, 60, 11.1), True),
            ((10, -30, 12, 12), False),
            ((63, 10, 90, 11), True),  # what is left of it
        ],
    )
    def test_absurd(self, box: Corners, is_absurd: bool) -> None:
        objects, look = looked(thing(*box), by_design=True)
        assert ((Code.BOX_ABSURD, "warning", False) in codes(look)) == is_absurd
        assert len(objects) == 1 and not look.refused

    def test_twice(self) -> None:
        same = [thing(1, 2, 30, 40, line=line) for line in (1, 2, 3)]
        objects, look = looked(*same)
        assert codes(look) == [(Code.OBJECT_TWICE, "warning", False)] * 2 and len(objects) == 3
        assert [finding.line for finding in look.findings] == [2, 3] and not look.refused
        objects, look = looked(*same, repair=True)
        assert codes(look) == [(Code.OBJECT_TWICE, "warning", True)] * 2 and len(objects) == 1

    @pytest.mark.parametrize(
        "other",
        [
            {"category_id": 1},
            {"track_id": 7},
            {"is_crowd": True},
            {"change": Change.MOVED},
        ],
    )
    def test_the_same_box_of_something_else(self, other: dict[str, Any]) -> None:
        objects, look = looked(thing(1, 2, 30, 40), thing(1, 2, 30, 40, **other), repair=True)
        assert not look.findings and len(objects) == 2

    def test_fields_are_kept(self) -> None:
        first = thing(1, 2, 30, 40, area=5.0, is_crowd=True, track_id=9, is_truncated=True, segmentation="[[1,2]]")
        objects, _ = looked(first, thing(1, 2, 31, 40))
        assert objects.areas.tolist() == [5, 30 * 38] and objects.is_crowd.tolist() == [True, False]
        assert objects.is_truncated.tolist() == [True, False] and objects.segmentations == ("[[1,2]]", "")
        assert objects.track_ids is not None and objects.track_ids.tolist() == [9, -1] and objects.changes is None
        objects, _ = looked(thing(1, 2, 30, 40), thing(1, 2, 31, 40, change=Change.VANISHED))
        assert objects.changes is not None and objects.changes.tolist() == [Change.NONE, Change.VANISHED]
        assert objects.track_ids is None


class TestSizes:
    def test_another_size(self) -> None:
        _, look = looked(thing(1, 2, 30, 40), declared=Declared((49, 64), "/size"))
        assert codes(look) == [(Code.SIZE_MISMATCH, "error", False)] and look.findings[0].line == "/size"
        assert "64x49 px, the image is 64x48 px" in look.findings[0].value
        _, look = looked(thing(1, 2, 30, 40), repair=True, declared=Declared((49, 64)))
        assert look.refused, "nobody knows where the boxes belong"

    def test_shares_for_pixels(self) -> None:
        shares = thing(0.1, 0.2, 0.5, 0.6, line=3), thing(0, 0, 1, 1, line=4)
        for repair in (False, True):
            objects, look = looked(*shares, repair=repair)
            assert codes(look) == [(Code.BOX_UNITS, "error", False)] and look.findings[0].line == 3
            assert look.refused and len(objects) == 0

    @pytest.mark.parametrize(
        "raw",
        [
            [thing(0, 0, 1, 1)],  # The first pixel.
            [thing(0.1, 0.2, 0.5, 0.6), thing(5, 5, 20, 20)],
            [thing(0.1, 0.2, 0.5, 1.5)],
        ],
    )
    def test_small_pixels_are_no_shares(self, raw: Sequence[RawObject]) -> None:
        _, look = looked(*raw)
        assert Code.BOX_UNITS not in [code for code, _, _ in codes(look)]

    def test_no_objects_is_no_finding(self) -> None:
        for of in (photo(), photo(SIZE, 6)):
            objects, look = looked(of=of, declared=Declared(SIZE))
            assert len(objects) == 0 and not look.findings


def turned(box: Corners, stored: Size, orientation: int) -> list[int]:
    """A box of whole pixels, turned as the pixels under it are."""
    x0, y0, x1, y1 = map(int, box)
    mask = np.zeros(stored, np.uint8)
    mask[y0:y1, x0:x1] = 1
    rows, columns = np.nonzero(turn_upright(mask, orientation))
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


whole_boxes = st.tuples(st.integers(0, 60), st.integers(0, 44), st.integers(3, 30), st.integers(3, 30)).map(
    lambda b: (b[0], b[1], min(b[0] + b[2], 64), min(b[1] + b[3], 48))
)


class TestTurned:
    @pytest.mark.parametrize("orientation", ODD)
    @given(box=whole_boxes)
    def test_declared_as_stored(self, orientation: int, box: Corners) -> None:
        of, declared = photo(SIZE, orientation), Declared(SIZE, "/size")
        _, look = looked(thing(*box), of=of, declared=declared)
        assert codes(look)[0] == (Code.BOX_TURNED, "error", False) and look.findings[0].line == "/size"
        objects, look = looked(thing(*box), of=of, declared=declared, repair=True)
        assert codes(look)[0] == (Code.BOX_TURNED, "error", True) and not look.refused
        assert objects.boxes.tolist() == [turned(box, SIZE, orientation)]

    @pytest.mark.parametrize("orientation", ODD)
    @given(boxes=st.lists(whole_boxes, min_size=1, max_size=4, unique=True))
    def test_no_size_declared(self, orientation: int, boxes: list[Corners]) -> None:
        """Upright the image is 48 wide and 64 high: boxes tell where one of them reaches beyond 49."""
        of, raw = photo(SIZE, orientation), [thing(*box, line=line) for line, box in enumerate(boxes, 1)]
        objects, look = looked(*raw, of=of, repair=True)
        is_turned = any(x1 > 49 for _, _, x1, _ in boxes)
        assert (codes(look)[:1] == [(Code.BOX_TURNED, "error", True)]) == is_turned
        expected = [
            turned(box, SIZE, orientation) if is_turned else [*box[:2], min(box[2], 48), box[3]] for box in boxes
        ]
        if all(x0 < 48 for x0, _, _, _ in expected):
            assert objects.boxes.tolist() == expected

    @pytest.mark.parametrize("orientation", range(1, 5))
    def test_images_that_keep_their_sides_cannot_tell(self, orientation: int) -> None:
        objects, look = looked(thing(50, 4, 60, 14), of=photo(SIZE, orientation), repair=True, declared=Declared(SIZE))
        assert not look.findings and objects.boxes.tolist() == [[50, 4, 60, 14]]

    @pytest.mark.parametrize("orientation", ODD)
    def test_no_false_alarm(self, orientation: int) -> None:
        of = photo(SIZE, orientation)  # Upright 64 high, 48 wide.
        upright = thing(4, 50, 14, 60)
        for declared in (None, Declared((64, 48))):
            objects, look = looked(upright, of=of, declared=declared)
            assert not look.findings and objects.boxes.tolist() == [[4, 50, 14, 60]]
        _, look = looked(thing(50, 50, 60, 60), of=of)
        assert [code for code, _, _ in codes(look)] == [Code.BOX_OUTSIDE], "it fits neither way"
        _, look = looked(thing(50, 4, 60, 14), of=of, relative=True)
        assert [code for code, _, _ in codes(look)] == [Code.BOX_OUTSIDE], "shares fit every size"
        square = photo((64, 64), orientation)
        _, look = looked(upright, of=square, declared=Declared((64, 64)))
        assert not look.findings

    @pytest.mark.parametrize("orientation", ODD)
    def test_polygons_turn_with_their_boxes(self, orientation: int) -> None:
        polygon = [50.0, 4.0, 60.0, 4.0, 60.0, 14.0]
        item = thing(50, 4, 60, 14, segmentation=json.dumps([polygon]))
        objects, _ = looked(item, of=photo(SIZE, orientation), repair=True)
        [[*numbers]] = json.loads(objects.segmentations[0])
        xs, ys = numbers[::2], numbers[1::2]
        assert [min(xs), min(ys), max(xs), max(ys)] == objects.boxes[0].tolist()
        x, y = np.array(xs), np.array(ys)
        assert abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2 == pytest.approx(50)

    def test_run_lengths_are_dropped(self) -> None:
        mask = json.dumps({"size": list(SIZE), "counts": [10, 5, 48 * 64 - 15]})
        objects, _ = looked(thing(50, 4, 60, 14, segmentation=mask), of=photo(SIZE, 6), repair=True)
        assert objects.segmentations == ("",)


class TestClassIds:
    def test_unknown(self) -> None:
        look = Inspection("a", Checks())
        classes = numbered_classes([(3, "cat"), (4, "cat"), (7, "dog")], "a.json")
        assert look.class_id(classes, 7, "7", FILE, 1) == 1 and not look.findings
        assert look.class_id(classes, 8, "8", FILE, 2) is None and look.class_id(classes, None, "'x'", FILE, 3) is None
        assert look.class_id(classes, 4, "4", FILE, 4) == 0
        assert [(f.code, f.line) for f in look.findings] == [
            (Code.CLASS_UNKNOWN, 2),
            (Code.CLASS_UNKNOWN, 3),
            (Code.CLASS_NAMED_TWICE, 4),
        ]
        assert look.unknown_classes == [8] and look.refused

    def test_an_image_kept_out_tells_of_the_classes_it_knows(self) -> None:
        """Else ids would look shifted where images of the lowest class happen to be kept out."""
        classes = numbered_classes([(3, "cat"), (7, "dog")], "a.json")
        reference = Reference("a", "a", 1, None)
        for repair in (False, True):
            look = Inspection("a", Checks(repair))
            assert look.class_id(classes, 8, "8", FILE, 2) is None
            objects = look.objects([thing(1, 2, 30, 40)], photo(), FILE)
            outcome = look.outcome(reference, photo(), objects, provenance="a:1")
            assert outcome.unknown_classes == ((8,) if repair else (8, 3))
        look = Inspection("a", Checks())
        look.objects([thing(-9, 2, 30, 40)], photo(), FILE)
        assert look.made(reference, None).unknown_classes == (), "nothing is unknown"

    def test_names(self) -> None:
        look = Inspection("a", Checks(repair=True))
        assert look.class_id(named_classes(["cat"]), None, "'dog'", FILE, 1) is None
        assert look.findings[0].repaired and look.unknown_classes == []


class TestFiles:
    def test_annotations(self, tmp_path: Path) -> None:
        write(tmp_path / "in" / "a.txt", "text")
        write(tmp_path / "secret.txt", "secret")
        (tmp_path / "in" / "folder.txt").mkdir()
        (tmp_path / "in" / "out.txt").symlink_to("../secret.txt")
        expected = {
            "a.txt": None,
            "gone.txt": Code.LABEL_MISSING,
            "folder.txt": Code.LABEL_MALFORMED,
            "out.txt": Code.IMAGE_OUTSIDE_ROOT,
            "../secret.txt": Code.IMAGE_OUTSIDE_ROOT,
            "\0": Code.LABEL_MALFORMED,
            "x" * 5000: Code.LABEL_MALFORMED,
        }
        for file, code in expected.items():
            look = Inspection("a", Checks(repair=True))
            data = look.read_annotation(tmp_path / "in", file, "add it")
            assert data == (b"text" if code is None else None)
            assert [finding.code for finding in look.findings] == ([code] if code else [])
            assert look.refused == (code not in (None, Code.LABEL_MISSING)), "only what is missing can be repaired"

    def test_images(self, tmp_path: Path) -> None:
        write(tmp_path / "a.png", photograph(orientation=6))
        look = Inspection("a", Checks())
        read = look.read_image(tmp_path, "a.png")
        assert read is not None and read.is_turned
        assert codes(look) == [(Code.IMAGE_TYPE, "warning", False), (Code.EXIF_ORIENTATION, "info", False)]
        assert look.read_image(tmp_path, "b.png") is None and look.refused
