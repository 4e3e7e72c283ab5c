"""CVAT: what is found, and what becomes of garbage."""

import tempfile
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.errors import UsageError
from dataflow.findings import Code, Policy
from tests.factories import assert_balanced, assert_none_lost, load, photograph, write
from tests.tfds_builders.cvat_documents import BOX, CAT, FIRST, JPEG, XML, document, element, image, one_image
from tfds_builders.formats.cvat import open_cvat

BROKEN: list[tuple[str, Code]] = [
    (element("box", BOX, label="cow"), Code.CLASS_UNKNOWN),
    (f"<box {BOX}></box>", Code.CLASS_UNKNOWN),
    (element("box", 'xtl="1" ytl="2" xbr="30"'), Code.LABEL_MALFORMED),
    (element("box", 'xtl="1" ytl="2" xbr="30" ybr="forty"'), Code.LABEL_MALFORMED),
    (element("box", f'{BOX} rotation="inf"'), Code.LABEL_MALFORMED),
    (element("polygon", 'points="1,2;30,40"'), Code.LABEL_MALFORMED),
    (element("polygon", 'points="1,2;30;3,4"'), Code.LABEL_MALFORMED),
    (element("polygon", ""), Code.LABEL_MALFORMED),
    (element("polyline", 'points="1,2;30,40;5,5"'), Code.LABEL_MALFORMED),
    (element("points", 'points="1,2"'), Code.LABEL_MALFORMED),
    (element("cuboid", BOX), Code.LABEL_MALFORMED),
    (element("skeleton", "", element("points", 'points="1,2"')), Code.LABEL_MALFORMED),
    (element("ellipse", 'cx="20" cy="20" rx="10"'), Code.LABEL_MALFORMED),
    (element("ellipse", 'cx="20" cy="20" rx="10" ry="5" rotation="nan"'), Code.LABEL_MALFORMED),
    (element("mask", 'rle="1, 3" left="5" top="6" width="3" height="2"'), Code.LABEL_MALFORMED),
    (element("mask", 'rle="9, -3" left="5" top="6" width="3" height="2"'), Code.LABEL_MALFORMED),
    (element("mask", 'rle="" left="5" top="6" width="3" height="2"'), Code.LABEL_MALFORMED),
    (element("mask", 'rle="6" left="5.5" top="6" width="3" height="2"'), Code.LABEL_MALFORMED),
    (element("mask", 'rle="6" left="60" top="6" width="30" height="2"'), Code.BOX_OUTSIDE),
    (element("mask", 'rle="6" left="1" top="1" width="99999999" height="99999999"'), Code.BOX_OUTSIDE),
    (element("box", 'xtl="1" ytl="2" xbr="1" ybr="40"'), Code.BOX_EMPTY),
    (element("box", 'xtl="30" ytl="2" xbr="1" ybr="40"'), Code.BOX_EMPTY),
    (element("box", 'xtl="1" ytl="2" xbr="nan" ybr="40"'), Code.BOX_NOT_FINITE),
    (element("polygon", 'points="1,2;30,40;5,inf"'), Code.BOX_NOT_FINITE),
    (element("box", 'xtl="1" ytl="2" xbr="70" ybr="40"'), Code.BOX_OUTSIDE),
]


class TestFindings:
    @pytest.mark.parametrize(("shape", "code"), BROKEN)
    def test_objects(self, shape: str, code: Code, tmp_path: Path) -> None:
        source = open_cvat(one_image(tmp_path, CAT, shape))
        loaded = load(source)
        assert loaded.places() == [(code, XML, FIRST + 1)] and loaded.quarantined == ["a"]
        repaired = load(source, repair=True)
        assert repaired.places() == [(code, XML, FIRST + 1)] and repaired.findings[0].repaired
        assert len(repaired.boxes("a")) == 1 + (code is Code.BOX_OUTSIDE)

    def test_an_object_twice(self, tmp_path: Path) -> None:
        assert load(open_cvat(one_image(tmp_path, CAT, CAT))).places() == [(Code.OBJECT_TWICE, XML, FIRST + 1)]

    def test_boxes_as_shares(self, tmp_path: Path) -> None:
        loaded = load(open_cvat(one_image(tmp_path, element("box", 'xtl="0.1" ytl="0.1" xbr="0.5" ybr="0.5"'))))
        assert loaded.places() == [(Code.BOX_UNITS, XML, FIRST)]

    def test_another_size(self, tmp_path: Path) -> None:
        loaded = load(open_cvat(one_image(tmp_path, CAT, size=(480, 640))))
        assert loaded.places() == [(Code.SIZE_MISMATCH, XML, FIRST - 1)] and loaded.quarantined == ["a"]

    @pytest.mark.parametrize("size", ['width="0" height="0"', 'width="x" height="48"', 'width="٣" height="48"', ""])
    def test_no_size(self, size: str, tmp_path: Path) -> None:
        one_image(tmp_path, CAT)
        text = (tmp_path / XML).read_text()
        write(tmp_path / XML, text.replace('width="64" height="48"', size))
        assert not load(open_cvat(tmp_path)).findings

    def test_images_and_labels_that_are_missing(self, tmp_path: Path) -> None:
        one_image(tmp_path, CAT)
        write(tmp_path / "images" / "b.jpg", photograph(seed=1))
        text = document(image(CAT), image(CAT, name="gone.jpg"), '<image id="3"/>', '<image name="/"/>')
        write(tmp_path / XML, text)
        source = open_cvat(tmp_path)
        loaded = load(source)
        assert sorted(loaded.places(), key=str) == sorted(
            [
                (Code.LABEL_MALFORMED, XML, 9),
                (Code.LABEL_MALFORMED, XML, 10),
                (Code.LABEL_MISSING, XML, None),
                (Code.IMAGE_MISSING, "images/gone.jpg", None),
            ],
            key=str,
        )
        assert loaded.quarantined == ["b", "gone"]
        assert len(load(source, repair=True).boxes("b")) == 0

    def test_an_image_listed_twice(self, tmp_path: Path) -> None:
        one_image(tmp_path, CAT)
        write(tmp_path / XML, document(image(CAT), image(CAT, name="./a.jpg")))
        for repair in (False, True):
            loaded = load(open_cvat(tmp_path), repair)
            assert loaded.places() == [(Code.LISTED_TWICE, XML, 6)]
            assert loaded.quarantined == ["annotations.xml:6"] and len(loaded.boxes("a")) == 1

    @pytest.mark.parametrize("name", ["../../secret.jpg", "OUTSIDE/secret.jpg", "link.jpg"])
    def test_paths_out_of_the_source(self, name: str, tmp_path: Path) -> None:
        write(tmp_path / "secret.jpg", JPEG)
        root = one_image(tmp_path / "source", CAT)
        if name == "link.jpg":
            (root / "images" / name).symlink_to(tmp_path / "secret.jpg")
        shown = name.replace("OUTSIDE", str(tmp_path))
        write(root / XML, document(image(CAT), image(CAT, name=shown)))
        loaded = load(open_cvat(root), repair=True)
        assert [code for code, _, _ in loaded.places()] == [Code.IMAGE_OUTSIDE_ROOT]
        assert len(loaded.quarantined) == 1 and len(loaded.boxes("a")) == 1

    def test_a_name_too_long_for_a_file(self, tmp_path: Path) -> None:
        one_image(tmp_path, CAT)
        write(tmp_path / XML, document(image(CAT), image(CAT, name="x" * 5000 + ".jpg")))
        assert [code for code, _, _ in load(open_cvat(tmp_path)).places()] == [Code.IMAGE_UNREADABLE]


class TestPolicies:
    @pytest.mark.parametrize(("policy", "prepared"), [("quarantine", 1), ("repair", 4), ("fail", 0)])
    def test_no_image_is_lost(self, policy: Policy, prepared: int, tmp_path: Path) -> None:
        root = tmp_path / "source"
        one_image(root, CAT)
        broken = [image(shape, name=f"{i}.jpg") for i, (shape, _) in enumerate((BROKEN[0], BROKEN[-1]))]
        broken += [image(CAT, name="2.jpg", size=(4, 4)), image(CAT, name="gone.jpg"), image(CAT, name="a.jpg")]
        for number in range(4):
            write(root / "images" / f"{number}.jpg", photograph(seed=number + 1))
        write(root / XML, document(image(CAT), *broken))
        assert_none_lost(open_cvat(root), root, tmp_path / "out", policy, prepared=prepared, total=7)


numbers = st.one_of(
    st.integers(-3, 70).map(str),
    st.floats().map(str),
    st.sampled_from(["", "1_0", "½", "9" * 400, "1,2;3,4;5,6", "1,2", "0, 6", "٣", "x\ny", "a.jpg", "../a.jpg"]),
)
plain = ("name", "width", "height", "subset", "id", "frame", "outside", "label", "rotation", "points", "rle")
keys = st.sampled_from([*plain, "xtl", "ytl", "xbr", "ybr", "cx", "cy", "rx", "ry", "left", "top"])
around = ("meta", "task", "labels", "label", "image", "track", "attribute")
tags = st.sampled_from([*around, "box", "polygon", "ellipse", "mask", "points", "tag"])
trees = st.recursive(
    st.builds(lambda text: text.replace("\n", " "), numbers),
    lambda inner: st.builds(
        lambda tag, attributes, parts: (
            f"<{tag} " + " ".join(f"{k}={quoteattr(v)}" for k, v in attributes.items()) + f">{''.join(parts)}</{tag}>"
        ),
        tags,
        st.dictionaries(keys, numbers, max_size=6),
        st.lists(inner, max_size=3),
    ),
    max_leaves=10,
)


class TestGarbage:
    @settings(max_examples=150)
    @given(elements=st.lists(trees, max_size=4), shapes=st.lists(trees, max_size=3), repair=st.booleans())
    def test_trees(self, elements: list[str], shapes: list[str], repair: bool) -> None:
        with tempfile.TemporaryDirectory() as folder:
            root = one_image(Path(folder))
            write(root / XML, document(image(*shapes), *elements))
            try:
                source = open_cvat(root)
            except UsageError as error:
                assert error.remedy
                return
            listing = source.scan()
            ids = [reference.image_id for reference in listing.references]
            assert "a" in ids
            if len(set(ids)) == len(ids):
                assert_balanced(load(source, repair), len(ids))

    @given(data=st.binary(max_size=60), keep=st.integers(0, 500))
    def test_bytes_and_stumps(self, data: bytes, keep: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            root = one_image(Path(folder), CAT)
            whole = (root / XML).read_bytes()
            for content in (data, whole[:keep], whole[:keep] + data + whole[keep:]):
                write(root / XML, content)
                try:
                    source = open_cvat(root)
                except UsageError as error:
                    assert error.remedy
                    continue
                ids = [reference.image_id for reference in source.scan().references]
                if len(set(ids)) == len(ids):  # Those that occur twice are for the plan to find.
                    assert_balanced(load(source), len(ids))
