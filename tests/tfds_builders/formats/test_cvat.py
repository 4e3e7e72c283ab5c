"""CVAT: what is read."""

import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from dataflow.errors import UsageError
from dataflow.findings import Code
from tests.factories import load, photograph, write
from tests.tfds_builders.cvat_documents import (
    BOX,
    CAT,
    JPEG,
    XML,
    document,
    element,
    image,
    one_image,
    track,
    video,
)
from tfds_builders.formats.cvat import open_cvat
from tfds_builders.formats.cvat_xml import nodes


class TestLayouts:
    def test_an_export_with_its_images(self, tmp_path: Path) -> None:
        source = open_cvat(one_image(tmp_path, CAT))
        assert source.categories.names == ("cat", "dog"), "in the order of the labels"
        loaded = load(source)
        assert not loaded.findings and loaded.boxes("a").tolist() == [[10, 12, 30, 40]]
        example = loaded.example("a")
        assert example["provenance"] == "annotations.xml:3" and example["image/filename"] == "images/a.jpg"
        assert example["image/source_id"] == "0"

    def test_the_file_itself_and_images_right_beside_it(self, tmp_path: Path) -> None:
        write(tmp_path / "a.jpg", JPEG)
        write(tmp_path / "job_7.xml", document(image(CAT), owner="job"))
        loaded = load(open_cvat(tmp_path / "job_7.xml"))
        assert not loaded.findings and list(loaded.outcomes) == ["a"]

    @pytest.mark.parametrize(
        ("subset", "split"),
        [
            ("Train", "train"),
            ("validation", "validation"),
            ("Val", "validation"),
            ("Test", "test"),
            ("night_2", "night_2"),
            ("default", None),
            ("", None),
            ("no name of a split", None),
        ],
    )
    def test_subsets(self, subset: str, split: str | None, tmp_path: Path) -> None:
        one_image(tmp_path, CAT, more=f'subset="{subset}"')
        [reference] = open_cvat(tmp_path).scan().references
        assert reference.split == split

    def test_projects_have_a_folder_for_each_subset(self, tmp_path: Path) -> None:
        for folder, seed in (("Train", 0), ("Test", 1)):
            write(tmp_path / "images" / folder / "é.jpg", photograph(seed=seed))
        images = [image(CAT, name="é.jpg", more=f'subset="{folder}"') for folder in ("Train", "Test")]
        write(tmp_path / XML, document(*images, owner="project"))
        source = open_cvat(tmp_path)
        assert sorted(load(source).outcomes) == ["Test/é", "Train/é"] and not source.scan().findings
        assert {r.image_id: r.split for r in source.scan().references} == {"Test/é": "test", "Train/é": "train"}

    @pytest.mark.parametrize("name", ["scene/a.jpg", "images/scene/a.jpg"])
    def test_ids_are_paths_below_the_images(self, name: str, tmp_path: Path) -> None:
        write(tmp_path / "images" / "scene" / "a.jpg", JPEG)
        write(tmp_path / XML, document(image(CAT, name=name)))
        assert list(load(open_cvat(tmp_path)).outcomes) == ["scene/a"]

    def test_classes(self, tmp_path: Path) -> None:
        one_image(tmp_path, CAT, element("box", 'xtl="1" ytl="1" xbr="9" ybr="9"', label=" ant "))
        assert open_cvat(tmp_path, ("x", "cat")).categories.names == ("x", "cat")
        text = (tmp_path / XML).read_text()
        write(tmp_path / XML, text.replace("<name>dog</name>", "<name>dog</name><parent>cat</parent>"))
        assert open_cvat(tmp_path).categories.names == ("cat",), "a joint of a skeleton is no class"
        write(tmp_path / XML, text.replace("<label>", "<other>").replace("</label>", "</other>"))
        assert open_cvat(tmp_path).categories.names == ("ant", "cat"), "those that occur"

    def test_where_its_image_is(self, tmp_path: Path) -> None:
        one_image(tmp_path, element("box", BOX, label="dog"), CAT, element("box", BOX, label="cow"))
        write(tmp_path / "images" / "b.jpg", JPEG)
        source = open_cvat(tmp_path)
        first, _ = source.scan().references
        assert source.image_path(first) == tmp_path / "images" / "a.jpg"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, r"holds no annotations\.xml"),
            ("", "annotations.xml:1: not XML"),
            ("<annotations>\n<image", "annotations.xml:2: not XML"),
            ("<annotation/>", "no CVAT file: its root is <annotation>"),
            ("<annotations/>", "lists no <image>"),
            (document(image(), labels=()), "names no class"),
            (document(image(CAT), labels=("two\nlines",)), "the class name 'two"),
            ('<?xml version="1.0" encoding="klingon"?><annotations/>', "annotations.xml"),
            ('<?xml version="1.0" encoding="utf-7"?><annotations/>', "annotations.xml"),
            (b"\xff\xfe", "annotations.xml"),
        ],
    )
    def test_what_is_no_source(self, content: str | bytes | None, message: str, tmp_path: Path) -> None:
        write(tmp_path / "images" / "a.jpg", JPEG)
        if content is not None:
            write(tmp_path / XML, content)
        with pytest.raises(UsageError, match=message) as caught:
            open_cvat(tmp_path)
        assert caught.value.remedy

    def test_without_images(self, tmp_path: Path) -> None:
        write(tmp_path / XML, document(image(CAT)))
        with pytest.raises(UsageError, match="holds no image"):
            open_cvat(tmp_path)

    @pytest.mark.parametrize(
        "entities",
        [
            '<!ENTITY a0 "boom">' + "".join(f'<!ENTITY a{i + 1} "&a{i};&a{i};&a{i};&a{i};">' for i in range(20)),
            '<!ENTITY a20 SYSTEM "file:///etc/passwd">',
            "",
        ],
    )
    def test_document_types_are_refused(self, entities: str, tmp_path: Path) -> None:
        one_image(tmp_path)
        doctype = f'<?xml version="1.0"?>\n<!DOCTYPE annotations [{entities}]>\n'
        text = f'{doctype}<annotations><image name="&a20;"/></annotations>'
        write(tmp_path / XML, text)
        with pytest.raises(UsageError, match=r"annotations\.xml:2: a document type"):
            open_cvat(tmp_path)

    @pytest.mark.parametrize("what", [XML, "images"])
    def test_links_out_of_the_source(self, what: str, tmp_path: Path) -> None:
        outside = one_image(tmp_path / "outside", CAT)
        root = one_image(tmp_path / "source", CAT)
        (root / what).rename(root / "old")
        (root / what).symlink_to(outside / what)
        with pytest.raises(UsageError, match="is a link out of"):
            open_cvat(root)

    def test_memory_does_not_grow_with_the_file(self, tmp_path: Path) -> None:
        """Elements are taken a chunk at a time."""
        peaks = {}
        for count in (300, 1_500):
            path = tmp_path / f"{count}.xml"
            images = (image(*[CAT] * 20, name=f"{number}.jpg") for number in range(count))
            path.write_text(f"<annotations>{''.join(images)}</annotations>")
            tracemalloc.start()
            assert sum(1 for _ in nodes(path)) == count
            peaks[count] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peaks[1_500] < 1.2 * peaks[300] < path.stat().st_size


class TestShapes:
    @pytest.mark.parametrize(
        ("tag", "attributes", "box", "area"),
        [
            ("box", BOX, [10, 12, 30, 40], 560),
            ("box", f'{BOX} rotation="0.0"', [10, 12, 30, 40], 560),
            ("box", 'xtl="20" ytl="10" xbr="40" ybr="20" rotation="90"', [25, 5, 35, 25], 200),
            ("box", 'xtl="20" ytl="10" xbr="40" ybr="20" rotation="30"', None, 200),
            ("polygon", 'points="10,12;30,12;20,40.5"', [10, 12, 30, 40.5], 285),
            ("ellipse", 'cx="20" cy="20" rx="10" ry="5"', [10, 15, 30, 25], math.pi * 50),
            ("ellipse", 'cx="20" cy="20" rx="10" ry="5" rotation="90"', [15, 10, 25, 30], math.pi * 50),
            ("mask", 'rle="1, 3, 2" left="5" top="6" width="3" height="2"', [5, 6, 8, 8], 3),
        ],
    )
    def test_boxes_and_areas(self, tag: str, attributes: str, box: list[float], area: float, tmp_path: Path) -> None:
        loaded = load(open_cvat(one_image(tmp_path, element(tag, attributes))))
        assert not loaded.quarantined
        assert loaded.column("a", "area") == [pytest.approx(area, rel=1e-4)]
        if box is not None:
            assert np.abs(loaded.boxes("a") - box).max() < 1e-3

    def test_a_turned_box_turns_clockwise(self, tmp_path: Path) -> None:
        turned = element("box", 'xtl="20" ytl="10" xbr="40" ybr="20" rotation="30"')
        loaded = load(open_cvat(one_image(tmp_path, turned)))
        [polygon] = json.loads(loaded.column("a", "segmentation")[0])
        cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
        # The upper right corner goes down, where y is larger.
        assert polygon[2:4] == pytest.approx([30 + 10 * cos + 5 * sin, 15 + 10 * sin - 5 * cos])

    def test_polygons_and_masks_are_kept(self, tmp_path: Path) -> None:
        mask = element("mask", 'rle="1, 3, 2" left="5" top="6" width="3" height="2"')
        loaded = load(open_cvat(one_image(tmp_path, element("polygon", 'points="10,12;30,12;20,40.5"'), mask)))
        polygon, runs = map(json.loads, loaded.column("a", "segmentation"))
        assert polygon == [[10, 12, 30, 12, 20, 40.5]]
        assert runs["size"] == [48, 64]
        pixels = (np.repeat(np.arange(len(runs["counts"])) % 2, runs["counts"])).reshape(64, 48).T
        assert np.argwhere(pixels).tolist() == [[6, 6], [6, 7], [7, 5]]

    def test_the_same_pixels_as_pycocotools(self, tmp_path: Path) -> None:
        mask = element("mask", 'rle="1, 3, 2" left="5" top="6" width="3" height="2"')
        loaded = load(open_cvat(one_image(tmp_path, mask)))
        runs = json.loads(loaded.column("a", "segmentation")[0])
        pixels = coco_mask.decode(coco_mask.frPyObjects(runs, *runs["size"]))
        assert np.argwhere(pixels).tolist() == [[6, 6], [6, 7], [7, 5]]

    def test_attributes(self, tmp_path: Path) -> None:
        marks = [
            {},
            {"is_crowd": "true"},
            {"difficult": "True", "truncated": "1"},
            {"is_crowd": "false", "truncated": "false", "colour": "true"},
            {"track_id": "7"},
            {"track_id": "seven"},
            {"track_id": "-1"},
        ]
        shapes = [
            element(
                "box",
                f'xtl="1" ytl="1" xbr="{20 + i}" ybr="20"',
                "".join(f'<attribute name="{name}">{text}</attribute>' for name, text in each.items()),
            )
            for i, each in enumerate(marks)
        ]
        loaded = load(open_cvat(one_image(tmp_path, *shapes)))
        assert not loaded.findings
        assert loaded.column("a", "is_crowd") == [False, True, True, False, False, False, False]
        assert loaded.column("a", "is_truncated") == [False, False, True, False, False, False, False]
        assert loaded.column("a", "id") == [-1, -1, -1, -1, 7, -1, -1]

    def test_upright_as_cvat_shows_it(self, tmp_path: Path) -> None:
        one_image(tmp_path, element("box", 'xtl="1" ytl="1" xbr="40" ybr="60"'), size=(64, 48))
        write(tmp_path / "images" / "a.jpg", photograph(48, 64, orientation=6))
        assert load(open_cvat(tmp_path)).boxes("a").tolist() == [[1, 1, 40, 60]]

    def test_background_and_image_level_tags(self, tmp_path: Path) -> None:
        loaded = load(open_cvat(one_image(tmp_path, '<tag label="sunny" source="manual"></tag>')))
        assert not loaded.findings and len(loaded.boxes("a")) == 0


class TestVideos:
    def test_tracks(self, tmp_path: Path) -> None:
        loaded = load(open_cvat(video(tmp_path, track(0, 0, 1, 2, outside=2), track(5, 1, label="dog"))))
        assert not loaded.findings
        assert [loaded.column(f"frame_00000{n}", "id") for n in range(3)] == [[0], [0, 5], []]
        assert loaded.column("frame_000001", "label") == [0, 1]
        assert loaded.boxes("frame_000000").tolist() == [[10, 12, 30, 40]]
        assert len({outcome.example["scene"] for outcome in loaded.outcomes.values() if outcome.example}) == 1
        assert loaded.example("frame_000000")["provenance"] == "annotations.xml:4"

    def test_every_nth_frame(self, tmp_path: Path) -> None:
        loaded = load(open_cvat(video(tmp_path, track(0, 0, 1, 2, 3), frames=(0, 2), name="{}.jpg")))
        assert loaded.places() == [(Code.LABEL_WITHOUT_IMAGE, XML, 5)]
        assert loaded.findings[0].severity == "info" and "2 boxes of 2 frames" in loaded.findings[0].value
        assert sorted(loaded.outcomes) == ["0", "2"]

    def test_what_is_no_frame(self, tmp_path: Path) -> None:
        video(tmp_path, track(0, 0, 1, 2))
        write(tmp_path / "images" / "cover.jpg", JPEG)
        loaded = load(open_cvat(tmp_path))
        assert loaded.places() == [(Code.LABEL_MISSING, XML, None)] and loaded.quarantined == ["cover"]

    def test_boxes_of_no_frame(self, tmp_path: Path) -> None:
        loaded = load(open_cvat(video(tmp_path, track(0, 0, 1).replace('frame="1"', 'frame="one"'))))
        assert loaded.places() == [(Code.LABEL_MALFORMED, XML, 5)]

    def test_another_size(self, tmp_path: Path) -> None:
        video(tmp_path, track(0, 0))
        write(tmp_path / "images" / "frame_000000.jpg", photograph(100, 64))
        loaded = load(open_cvat(tmp_path))
        assert loaded.places() == [(Code.SIZE_MISMATCH, XML, None)] and loaded.quarantined == ["frame_000000"]

    @pytest.mark.parametrize(
        ("name", "message"),
        [("still.{:d}x.jpg", "none of its frames is an image"), ("{}/frame_7.jpg", "are frame 7")],
    )
    def test_frames_that_are_none(self, name: str, message: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=message) as caught:
            open_cvat(video(tmp_path, track(0, 0, 1), name=name))
        assert "CVAT for images 1.1" in caught.value.remedy
