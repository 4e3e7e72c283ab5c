"""LabelMe: what is read, and what is found."""

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.errors import UsageError
from dataflow.findings import Code, Policy
from tests.factories import assert_balanced, assert_none_lost, load, photograph, write
from tfds_builders.formats.labelme import holds_labelme, open_labelme

JPEG = photograph()  # 64 wide, 48 high
RECTANGLE = {"label": "cat", "points": [[10, 12], [30, 40]], "shape_type": "rectangle", "group_id": None, "flags": {}}


def annotation(*shapes: Any, image: str = "a.jpg", size: tuple[int, int] = (48, 64), **more: Any) -> str:
    height, width = size
    content = {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": image, "imageData": None}
    return json.dumps({**content, "imageHeight": height, "imageWidth": width, **more})


def shape(kind: str, *points: Sequence[float], **more: Any) -> dict[str, Any]:
    return {**RECTANGLE, "shape_type": kind, "points": [list(point) for point in points], **more}


def one_image(root: Path, *shapes: Any, **more: Any) -> Path:
    write(root / "a.jpg", JPEG)
    write(root / "a.json", annotation(*shapes, **more))
    return root


class TestLayouts:
    def test_beside_the_image(self, tmp_path: Path) -> None:
        loaded = load(open_labelme(one_image(tmp_path, RECTANGLE)))
        assert not loaded.findings and loaded.boxes("a").tolist() == [[10, 12, 30, 40]]
        assert loaded.example("a")["provenance"] == "a.json#/shapes"
        assert loaded.example("a")["image/filename"] == "a.jpg"

    @pytest.mark.parametrize("shown", ["../images/é/a.jpg", "..\\images\\é\\a.jpg", "../images/./b/../é/a.jpg"])
    def test_in_folders_of_their_own(self, shown: str, tmp_path: Path) -> None:
        write(tmp_path / "images" / "é" / "a.jpg", JPEG)
        write(tmp_path / "annotations" / "b.json", annotation(RECTANGLE, image=shown))
        loaded = load(open_labelme(tmp_path))
        assert not loaded.findings and list(loaded.outcomes) == ["é/a"], "ids start below images/"

    def test_ids_start_at_the_source_where_images_are_elsewhere_too(self, tmp_path: Path) -> None:
        one_image(tmp_path, RECTANGLE)
        write(tmp_path / "images" / "b.jpg", JPEG)
        write(tmp_path / "images" / "b.json", annotation(image="b.jpg"))
        assert sorted(load(open_labelme(tmp_path)).outcomes) == ["a", "images/b"]

    @pytest.mark.parametrize("shown", ["C:\\Users\\me\\a.jpg", "/home/me/a.jpg", "old/a.jpg"])
    def test_moved_together(self, shown: str, tmp_path: Path) -> None:
        loaded = load(open_labelme(one_image(tmp_path, RECTANGLE, image=shown)))
        assert not loaded.findings and len(loaded.boxes("a")) == 1

    @pytest.mark.parametrize("shown", ["old.jpg", "", None, 7, "\0", "x" * 5000, "\ud800"])
    def test_renamed_together(self, shown: Any, tmp_path: Path) -> None:
        loaded = load(open_labelme(one_image(tmp_path, RECTANGLE, image=shown)))
        assert loaded.places() == [(Code.IMAGE_MISSING, "a.json", "/imagePath")]
        assert loaded.findings[0].severity == "warning" and len(loaded.boxes("a")) == 1

    def test_the_image_it_names_counts_not_its_own_name(self, tmp_path: Path) -> None:
        one_image(tmp_path, RECTANGLE, image="b.jpg")
        write(tmp_path / "b.jpg", photograph(seed=1))
        loaded = load(open_labelme(tmp_path))
        assert loaded.places() == [(Code.LABEL_MISSING, "a.jpg", None)]
        assert loaded.quarantined == ["a"] and len(loaded.boxes("b")) == 1

    def test_other_json_files_are_none_of_its_business(self, tmp_path: Path) -> None:
        one_image(tmp_path, RECTANGLE)
        write(tmp_path / "export.json", '{"format": "labelme"}')
        write(tmp_path / "list.json", "[]")
        assert not load(open_labelme(tmp_path)).findings

    def test_a_name_that_is_no_utf8(self, tmp_path: Path) -> None:
        name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
        write(tmp_path / name, JPEG)
        write(tmp_path / Path(name).with_suffix(".json"), annotation(RECTANGLE, image=name))
        loaded = load(open_labelme(tmp_path))
        assert not loaded.findings and list(loaded.outcomes) == ["caf\\xe9"]

    def test_changes_change_the_stamp(self, tmp_path: Path) -> None:
        source = open_labelme(one_image(tmp_path, RECTANGLE))
        [before] = source.scan().references
        write(tmp_path / "a.json", annotation(RECTANGLE, RECTANGLE))
        [after] = source.scan().references
        assert before.stamp != after.stamp

    def test_where_its_image_is(self, tmp_path: Path) -> None:
        one_image(tmp_path, {**RECTANGLE, "label": "dog"}, RECTANGLE, {**RECTANGLE, "label": 3}, shape("point", (1, 2)))
        write(tmp_path / "b.jpg", JPEG)
        write(tmp_path / "b.json", "{")
        source = open_labelme(tmp_path)
        first, _ = source.scan().references
        assert source.image_path(first) == tmp_path / "a.jpg"

    def test_classes(self, tmp_path: Path) -> None:
        one_image(tmp_path, {**RECTANGLE, "label": " dog "}, RECTANGLE, {**RECTANGLE, "label": "two\nlines"}, 7)
        assert open_labelme(tmp_path).categories.names == ("cat", "dog")
        assert open_labelme(tmp_path, ("dog", "cat")).categories.names == ("dog", "cat")

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({}, "holds no image"),
            ({"a.jpg": JPEG}, "holds no JSON file of LabelMe"),
            ({"a.jpg": JPEG, "a.json": '{"images": []}'}, "holds no JSON file of LabelMe"),
            ({"a.jpg": JPEG, "a.json": annotation()}, "name no class"),
            ({"a.json": annotation(RECTANGLE)}, "holds no image"),
        ],
    )
    def test_what_is_no_source(self, files: dict[str, str | bytes], message: str, tmp_path: Path) -> None:
        for name, content in files.items():
            write(tmp_path / name, content)
        with pytest.raises(UsageError, match=message):
            open_labelme(tmp_path)
        with pytest.raises(UsageError, match="is no directory"):
            open_labelme(tmp_path / "nowhere")
        if message != "name no class":
            with pytest.raises(UsageError, match=message):
                open_labelme(tmp_path, ("cat",))

    def test_recognised_by_its_keys(self, tmp_path: Path) -> None:
        write(tmp_path / "annotations" / "instances.json", '{"images": [], "annotations": [], "categories": []}')
        assert not holds_labelme(tmp_path)
        assert holds_labelme(one_image(tmp_path, RECTANGLE))


class TestShapes:
    @pytest.mark.parametrize(
        ("drawn", "box"),
        [
            (shape("rectangle", (30, 40), (10, 12)), [10, 12, 30, 40]),
            (shape("rectangle", (30, 12), (10, 12), (10, 40), (30, 40)), [10, 12, 30, 40]),
            (shape("circle", (20, 20), (23, 24)), [15, 15, 25, 25]),
            (shape("polygon", (10, 12), (30, 12), (20, 40.5)), [10, 12, 30, 40.5]),
            (shape("rotation", (20, 10), (30, 20), (20, 30), (10, 20)), [10, 10, 30, 30]),
            (shape("mask", (10, 12), (29, 39), mask="..."), [10, 12, 30, 40]),
        ],
    )
    def test_boxes(self, drawn: Any, box: list[float], tmp_path: Path) -> None:
        loaded = load(open_labelme(one_image(tmp_path, drawn)))
        assert np.abs(loaded.boxes("a") - box).max() < 1e-4 and not loaded.quarantined

    def test_polygons_are_kept(self, tmp_path: Path) -> None:
        points = [(10, 12), (30, 12), (20, 40.5)]
        drawn = shape("polygon", *points)
        del drawn["shape_type"]  # As the first versions wrote it.
        loaded = load(open_labelme(one_image(tmp_path, drawn)))
        [segmentation] = loaded.column("a", "segmentation")
        assert json.loads(segmentation) == [[10, 12, 30, 12, 20, 40.5]]
        assert loaded.column("a", "area") == [pytest.approx(20 * 28.5 / 2)]

    def test_the_area_of_a_circle(self, tmp_path: Path) -> None:
        loaded = load(open_labelme(one_image(tmp_path, shape("circle", (20, 20), (30, 20)))))
        assert loaded.column("a", "area") == [pytest.approx(math.pi * 100)]
        assert loaded.column("a", "segmentation") == [""]

    def test_flags(self, tmp_path: Path) -> None:
        flags = ({}, {"iscrowd": True}, {"difficult": True, "truncated": True}, {"iscrowd": False}, None)
        shapes = [shape("rectangle", (1, 1), (20 + i, 20), flags=each) for i, each in enumerate(flags)]
        loaded = load(open_labelme(one_image(tmp_path, *shapes)))
        assert loaded.column("a", "is_crowd") == [False, True, True, False, False]
        assert loaded.column("a", "is_truncated") == [False, False, True, False, False]

    def test_a_group_is_no_track(self, tmp_path: Path) -> None:
        loaded = load(open_labelme(one_image(tmp_path, {**RECTANGLE, "group_id": 3})))
        assert loaded.column("a", "id") == [-1]

    def test_upright_as_labelme_shows_it(self, tmp_path: Path) -> None:
        write(tmp_path / "a.jpg", photograph(48, 64, orientation=6))
        write(tmp_path / "a.json", annotation(shape("rectangle", (1, 1), (40, 60)), size=(64, 48)))
        loaded = load(open_labelme(tmp_path))
        assert loaded.boxes("a").tolist() == [[1, 1, 40, 60]] and loaded.example("a")["image/height"] == 64

    def test_background(self, tmp_path: Path) -> None:
        loaded = load(open_labelme(one_image(tmp_path), ("cat",)))
        assert loaded.places() == [(Code.LABEL_EMPTY, "a.json", None)] and len(loaded.boxes("a")) == 0


BROKEN: list[tuple[Any, Code, str]] = [
    ({**RECTANGLE, "label": "dog"}, Code.CLASS_UNKNOWN, "/shapes/1/label"),
    ({**RECTANGLE, "label": None}, Code.LABEL_MALFORMED, "/shapes/1"),
    ("a shape", Code.LABEL_MALFORMED, "/shapes/1"),
    ({**RECTANGLE, "points": None}, Code.LABEL_MALFORMED, "/shapes/1"),
    ({**RECTANGLE, "points": []}, Code.LABEL_MALFORMED, "/shapes/1"),
    ({**RECTANGLE, "points": [[1, 2], [3]]}, Code.LABEL_MALFORMED, "/shapes/1"),
    ({**RECTANGLE, "points": [[1, 2], [3, "4"]]}, Code.LABEL_MALFORMED, "/shapes/1"),
    ({**RECTANGLE, "points": [[1, 2], [3, True]]}, Code.LABEL_MALFORMED, "/shapes/1"),
    (shape("rectangle", (1, 2)), Code.LABEL_MALFORMED, "/shapes/1"),
    (shape("circle", (1, 2), (3, 4), (5, 6)), Code.LABEL_MALFORMED, "/shapes/1"),
    (shape("polygon", (1, 2), (3, 4)), Code.LABEL_MALFORMED, "/shapes/1"),
    (shape("point", (1, 2)), Code.LABEL_MALFORMED, "/shapes/1"),
    (shape("line", (1, 2), (30, 40)), Code.LABEL_MALFORMED, "/shapes/1"),
    (shape("linestrip", (1, 2), (30, 40), (3, 4)), Code.LABEL_MALFORMED, "/shapes/1"),
    (shape("rectangle", (1, 2), (30, 2)), Code.BOX_EMPTY, "/shapes/1"),
    (shape("circle", (20, 20), (20, 20)), Code.BOX_EMPTY, "/shapes/1"),
    (shape("rectangle", (1, 2), (70, 40)), Code.BOX_OUTSIDE, "/shapes/1"),
    (shape("rectangle", (1, 2), (math.nan, 40)), Code.BOX_NOT_FINITE, "/shapes/1"),
    (shape("polygon", (1, 2), (30, 40), (-math.inf, 3)), Code.BOX_NOT_FINITE, "/shapes/1"),
    (shape("rectangle", (1, 2), (10**400, 40)), Code.BOX_NOT_FINITE, "/shapes/1"),
]


class TestFindings:
    @pytest.mark.parametrize(("drawn", "code", "pointer"), BROKEN)
    def test_objects(self, drawn: Any, code: Code, pointer: str, tmp_path: Path) -> None:
        source = open_labelme(one_image(tmp_path, RECTANGLE, drawn), ("cat",))
        loaded = load(source)
        assert loaded.places() == [(code, "a.json", pointer)] and loaded.quarantined == ["a"]
        repaired = load(source, repair=True)
        assert repaired.places() == [(code, "a.json", pointer)] and repaired.findings[0].repaired
        assert repaired.boxes("a")[0].tolist() == [10, 12, 30, 40]
        assert len(repaired.boxes("a")) == 1 + (code is Code.BOX_OUTSIDE)

    def test_an_object_twice(self, tmp_path: Path) -> None:
        loaded = load(open_labelme(one_image(tmp_path, RECTANGLE, RECTANGLE)))
        assert loaded.places() == [(Code.OBJECT_TWICE, "a.json", "/shapes/1")]

    def test_boxes_as_shares(self, tmp_path: Path) -> None:
        loaded = load(open_labelme(one_image(tmp_path, shape("rectangle", (0.1, 0.1), (0.5, 0.5)))))
        assert loaded.places() == [(Code.BOX_UNITS, "a.json", "/shapes/0")]

    def test_another_size(self, tmp_path: Path) -> None:
        loaded = load(open_labelme(one_image(tmp_path, RECTANGLE, size=(480, 640))))
        assert loaded.places() == [(Code.SIZE_MISMATCH, "a.json", "/imageHeight")] and loaded.quarantined == ["a"]

    def test_drawn_on_the_pixels_as_stored(self, tmp_path: Path) -> None:
        write(tmp_path / "a.jpg", photograph(48, 64, orientation=6))
        write(tmp_path / "a.json", annotation(shape("polygon", (0, 0), (10, 0), (10, 5))))
        source = open_labelme(tmp_path)
        assert (Code.BOX_TURNED, "a.json", "/imageHeight") in load(source).places()
        repaired = load(source, repair=True)
        assert repaired.boxes("a").tolist() == [[43, 0, 48, 10]]
        assert json.loads(repaired.column("a", "segmentation")[0]) == [[48, 0, 48, 10, 43, 10]]

    def test_missing_labels(self, tmp_path: Path) -> None:
        one_image(tmp_path, RECTANGLE)
        write(tmp_path / "b.jpg", photograph(seed=1))
        source = open_labelme(tmp_path)
        loaded = load(source)
        assert loaded.places() == [(Code.LABEL_MISSING, "b.jpg", None)] and loaded.quarantined == ["b"]
        assert len(load(source, repair=True).boxes("b")) == 0

    @pytest.mark.parametrize(
        ("content", "line"),
        [
            (b"", 1),
            (b"\xff\xfe\xff", None),
            (b'{"shapes": [],\n "imagePath"', 2),
            (b"[" * 100_000, None),
            (b"[]", "/shapes"),
            (b'{"shapes": {}, "imagePath": "a.jpg"}', "/shapes"),
            (b'{"imagePath": "a.jpg"}', "/shapes"),
            (b'{"flags": {}}', "/shapes"),
            (b'{"shapes": [], "imagePath": "a.jpg", "n": ' + b"9" * 5000 + b"}", None),
        ],
    )
    def test_files_that_are_none(self, content: bytes, line: int | str | None, tmp_path: Path) -> None:
        one_image(tmp_path)
        write(tmp_path / "a.json", content)
        write(tmp_path / "b.jpg", photograph(seed=1))
        write(tmp_path / "b.json", annotation(RECTANGLE, image="b.jpg"))
        source = open_labelme(tmp_path)
        for repair in (False, True):
            loaded = load(source, repair)
            assert loaded.places() == [(Code.LABEL_MALFORMED, "a.json", line)] and loaded.quarantined == ["a"]

    def test_labels_without_image(self, tmp_path: Path) -> None:
        one_image(tmp_path, RECTANGLE)
        write(tmp_path / "gone.json", annotation(RECTANGLE, image="gone.jpg"))
        write(tmp_path / "embedded.json", annotation(RECTANGLE, image="embedded.jpg", imageData="AAAA"))
        write(tmp_path / "broken.json", '{"shapes": [')
        loaded = load(open_labelme(tmp_path))
        assert loaded.places() == [
            (Code.LABEL_MALFORMED, "broken.json", 1),
            (Code.IMAGE_MISSING, "embedded.json", "/imageData"),
            (Code.LABEL_WITHOUT_IMAGE, "gone.json", "/imagePath"),
        ]
        assert list(loaded.outcomes) == ["a"]

    def test_an_image_annotated_twice(self, tmp_path: Path) -> None:
        one_image(tmp_path, RECTANGLE)
        write(tmp_path / "b.json", annotation(RECTANGLE, image="a.jpg"))
        for repair in (False, True):
            loaded = load(open_labelme(tmp_path), repair)
            assert loaded.places() == [(Code.LISTED_TWICE, "b.json", "/imagePath")] and loaded.quarantined == ["a"]

    @pytest.mark.parametrize("shown", ["../secret.jpg", "..\\secret.jpg", "OUTSIDE/secret.jpg"])
    def test_paths_out_of_the_source(self, shown: str, tmp_path: Path) -> None:
        write(tmp_path / "secret.jpg", JPEG)
        root = one_image(tmp_path / "source", RECTANGLE)
        write(root / "b.json", annotation(RECTANGLE, image=shown.replace("OUTSIDE", str(tmp_path))))
        loaded = load(open_labelme(root), repair=True)
        assert loaded.places() == [(Code.IMAGE_OUTSIDE_ROOT, "b.json", "/imagePath")]
        assert list(loaded.outcomes) == ["a"]

    def test_links_out_of_the_source(self, tmp_path: Path) -> None:
        write(tmp_path / "secret.jpg", JPEG)
        write(tmp_path / "secret.json", '{"shapes": [], "imagePath": "password"}')
        root = one_image(tmp_path / "source", RECTANGLE)
        write(root / "c.jpg", photograph(seed=2))
        for name, target in (("b.jpg", "secret.jpg"), ("c.json", "secret.json"), ("d.json", "secret.json")):
            (root / name).symlink_to(tmp_path / target)
        loaded = load(open_labelme(root), repair=True)
        assert sorted(loaded.places()) == [
            (Code.IMAGE_OUTSIDE_ROOT, "b.jpg", None),
            (Code.IMAGE_OUTSIDE_ROOT, "c.json", None),
            (Code.IMAGE_OUTSIDE_ROOT, "d.json", None),
        ]
        assert not any("password" in finding.value for finding in loaded.findings)
        assert loaded.quarantined == ["b", "c"]

    def test_images_that_cannot_be_read(self, tmp_path: Path) -> None:
        one_image(tmp_path, RECTANGLE)
        write(tmp_path / "a.jpg", b"")
        loaded = load(open_labelme(tmp_path))
        assert loaded.places() == [(Code.IMAGE_EMPTY, "a.jpg", None)] and loaded.quarantined == ["a"]


class TestPolicies:
    @pytest.mark.parametrize(("policy", "prepared"), [("quarantine", 1), ("repair", 4), ("fail", 0)])
    def test_no_image_is_lost(self, policy: Policy, prepared: int, tmp_path: Path) -> None:
        root = tmp_path / "source"
        one_image(root, RECTANGLE)
        broken = [annotation(shape("point", (1, 2)), image="b.jpg"), annotation(image="c.jpg", size=(4, 4)), "{", None]
        broken.append(annotation(shape("rectangle", (1, 1), (90, 40)), image="f.jpg"))
        for number, content in enumerate(broken):
            write(root / f"{'bcdef'[number]}.jpg", photograph(seed=number + 1))
            if content is not None:
                write(root / f"{'bcdef'[number]}.json", content)
        assert_none_lost(open_labelme(root, ("cat",)), root, tmp_path / "out", policy, prepared=prepared, total=6)


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.just("a.jpg")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["label", "points", "flags"]), inner, max_size=3)
    ),
    max_leaves=6,
)
places = st.sampled_from(
    [
        *[("shapes", 0, key) for key in ("label", "points", "shape_type", "flags")],
        *[("shapes", 0, "points", 0), ("shapes", 0, "points", 1, 1), ("shapes", 0), ("shapes",)],
        *[(key,) for key in ("imagePath", "imageHeight", "imageWidth", "imageData")],
    ]
)


class TestGarbage:
    @settings(max_examples=150)
    @given(changes=st.lists(st.tuples(places, values), min_size=1, max_size=3), repair=st.booleans())
    def test_values(self, changes: list[tuple[tuple[Any, ...], Any]], repair: bool) -> None:
        content: Any = json.loads(annotation(RECTANGLE))
        for path, value in changes:
            place = content
            try:
                for key in path[:-1]:
                    place = place[key]
                place[path[-1]] = value
            except (IndexError, KeyError, TypeError):
                continue  # An earlier change took the place away.
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write(root / "a.jpg", JPEG)
            write(root / "a.json", json.dumps(content))
            assert_balanced(load(open_labelme(root, ("cat",)), repair), 1)

    @given(data=st.binary(max_size=60), keep=st.integers(0, 400))
    def test_bytes_and_stumps(self, data: bytes, keep: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for name, content in (("a", data), ("b", annotation(RECTANGLE, image="b.jpg").encode()[:keep])):
                write(root / f"{name}.jpg", photograph(seed=ord(name)))
                write(root / f"{name}.json", content)
            for names in ((), ("cat",)):
                try:
                    source = open_labelme(root, names)
                except UsageError as error:
                    assert error.remedy
                else:
                    assert_balanced(load(source), 2)
