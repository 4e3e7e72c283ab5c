"""Whatever a source holds: a clear error, or every image prepared or kept out with a finding that says why."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.errors import ShardboxError
from tests.factories import Loaded, Picture, Thing, coco_json, load, photograph, write
from tests.tfds_builders import broken_cases, broken_coco, broken_sequences, broken_tools, broken_voc, broken_yolo
from tests.tfds_builders.broken_cases import Files, write_files
from tests.tfds_builders.broken_sources import contents
from tfds_builders.formats.coco import open_coco
from tfds_builders.formats.cvat import open_cvat
from tfds_builders.formats.labelme import open_labelme
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.pairs import open_pairs
from tfds_builders.formats.virat import open_virat
from tfds_builders.formats.voc import open_voc
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.sources.pairing import PairOptions
from tfds_builders.sources.source import Source

JPEG = photograph()
CORNERS = ("xmin", "ymin", "xmax", "ymax")
numbers = st.one_of(
    st.integers(-3, 70).map(str),
    st.floats(-0.5, 1.5).map(str),
    st.sampled_from(["nan", "inf", "-inf", "1e999", "-0", "0x1", "1_0", "½", "", "1e-320", "9" * 400, "\0", "٣"]),
)
lines = st.one_of(st.lists(numbers, max_size=11), st.text(max_size=20).map(str.split))


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def check(loaded: Loaded, count: int) -> None:
    """Nothing is lost: what was kept out has a reason, and what was prepared has valid boxes."""
    assert len(loaded.outcomes) == count
    for outcome in loaded.outcomes.values():
        errors = [finding for finding in outcome.findings if finding.severity == "error" and not finding.repaired]
        assert (outcome.example is None) == bool(errors)
        if outcome.example is not None:
            boxes = loaded.boxes(outcome.image_id)
            assert (boxes[:, :2] < boxes[:, 2:]).all()
            assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= 64).all() and (boxes[:, [1, 3]] <= 48).all()
    for finding in loaded.findings:
        assert finding.remedy and str(finding).count("\n") == 0


@settings(max_examples=150)
@given(rows=st.lists(lines, max_size=4), separator=st.sampled_from([" ", "\t", ","]), repair=st.booleans())
def test_yolo_labels(rows: list[list[str]], separator: str, repair: bool) -> None:
    with folder() as root:
        write(root / "images" / "a.jpg", JPEG)
        text = "\n".join(separator.join(row) for row in rows)
        write(root / "labels" / "a.txt", text)
        write(root / "classes.txt", "cat\ndog\n")
        loaded = load(open_yolo(root), repair)
        check(loaded, 1)
        wanted = sum(bool(line.split()) for line in text.removeprefix("\ufeff").splitlines())
        kept = len(loaded.boxes("a")) if loaded.outcomes["a"].example else 0
        found = [finding for finding in loaded.findings if finding.severity == "error"]
        assert kept + len(found) >= wanted or loaded.quarantined, "no line is passed over in silence"


@settings(max_examples=150)
@given(rows=st.lists(lines, max_size=5), gap=st.sampled_from([None, 1]), repair=st.booleans())
def test_mot_rows(rows: list[list[str]], gap: int | None, repair: bool) -> None:
    with folder() as root:
        for number in (1, 2):
            write(root / "s" / "img1" / f"{number}.jpg", JPEG)
        write(root / "s" / "gt" / "gt.txt", "\n".join(",".join(row) for row in rows))
        check(load(open_mot(root, PairOptions(gap) if gap else None), repair), 1 if gap else 2)


tags = st.sampled_from(["object", "name", "bndbox", "xmin", "xmax", "ymin", "ymax", "difficult", "size", "width"])
elements = st.recursive(
    st.one_of(numbers, st.text(max_size=5)).map(escape),
    lambda inner: st.builds(lambda tag, parts: f"<{tag}>{''.join(parts)}</{tag}>", tags, st.lists(inner, max_size=4)),
    max_leaves=12,
)
boxes_of_text = st.lists(numbers, min_size=4, max_size=4).map(
    lambda n: "".join(f"<{tag}>{escape(text)}</{tag}>" for tag, text in zip(CORNERS, n, strict=True))
)
objects = boxes_of_text.map(lambda box: f"<object><name>cat</name><bndbox>{box}</bndbox></object>")


@settings(max_examples=150)
@given(parts=st.lists(st.one_of(objects, elements), max_size=4), repair=st.booleans())
def test_voc_xml(parts: list[str], repair: bool) -> None:
    with folder() as root:
        write(root / "JPEGImages" / "a.jpg", JPEG)
        write(root / "Annotations" / "a.xml", f"<annotation>{''.join(parts)}</annotation>".encode("utf-8", "replace"))
        check(load(open_voc(root, ("cat",)), repair), 1)
        try:
            open_voc(root)
        except ShardboxError as error:
            assert error.remedy


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 120),
        st.integers(),
        st.floats(),
        st.text(max_size=4),
        st.sampled_from(["a.jpg", "b.jpg", "101", "3", "../a.jpg", "/", ".", "\0", "\ud800"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.sampled_from(["id", "bbox", "name"]), inner, max_size=3)
    ),
    max_leaves=6,
)
places = st.sampled_from(
    [
        *(("images", 0, key) for key in ("id", "file_name", "height", "width")),
        *(("annotations", 1, key) for key in ("id", "image_id", "category_id", "bbox", "area", "iscrowd")),
        *(("categories", 0, key) for key in ("id", "name")),
        ("images",),
        ("annotations",),
        ("categories",),
        ("images", 1),
        ("annotations", 0),
        ("categories", 1),
    ]
)


@settings(max_examples=300)
@given(changes=st.lists(st.tuples(places, values), min_size=1, max_size=3), repair=st.booleans())
def test_coco_values(changes: list[tuple[tuple[Any, ...], Any]], repair: bool) -> None:
    things = (Thing(0, (1, 1, 9, 9)), Thing(1, (2, 2, 20, 30)))
    content: Any = coco_json([Picture("a", things=things), Picture("b", things=things)], ("cat", "dog"))
    for path, value in changes:
        place = content
        for key in path[:-1]:
            try:
                place = place[key]
            except (IndexError, KeyError, TypeError):
                place = None
                break
        last = path[-1]
        if isinstance(place, dict) or (isinstance(place, list) and isinstance(last, int) and last < len(place)):
            place[last] = value
    with folder() as root:
        for name in ("a", "b"):
            write(root / "images" / f"{name}.jpg", JPEG)
        write(root / "annotations" / "instances.json", json.dumps(content))
        try:
            listing = open_coco(root).scan()
        except ShardboxError as error:
            assert error.remedy and str(root) in error.message
            return
        assert len(listing.references) == len(content["images"])
        ids = [reference.image_id for reference in listing.references]
        if len(set(ids)) == len(ids):
            check(load(open_coco(root), repair), len(ids))


@pytest.mark.parametrize("tool", ["yolo", "coco", "mot"])
@given(data=st.binary(max_size=60))
def test_any_bytes(tool: str, data: bytes) -> None:
    """Described or annotated by arbitrary bytes."""
    with folder() as root:
        write(root / "images" / "a.jpg", JPEG)
        write(root / "img1" / "1.jpg", JPEG)
        for name in ("data.yaml", "annotations/x.json", "gt/gt.txt", "seqinfo.ini", "classes.txt", "labels/a.txt"):
            write(root / name, data)
        try:
            if tool == "yolo":
                open_yolo(root)
            elif tool == "coco":
                open_coco(root)
            else:
                open_mot(root)
        except ShardboxError as error:
            assert error.remedy
        (root / "data.yaml").unlink()
        (root / "seqinfo.ini").unlink()
        if tool == "yolo":
            check(load(open_yolo(root, ("cat",))), 1)
        elif tool == "mot":
            check(load(open_mot(root)), 1)


def _coco_files() -> Files:
    return {**broken_coco.BASE, "annotations/instances.json": json.dumps(broken_coco.CONTENT, indent=1)}


def _pair_files() -> Files:
    rows = broken_tools.GOOD_PAIR, broken_tools.BAD_PAIR
    return {**broken_tools.FRAMES, "pairs.jsonl": "\n".join(map(json.dumps, rows))}


# A source of two images in every format, the files of it to spoil, and how it is opened.
SOURCES: dict[str, tuple[Files, tuple[str, ...], Callable[[Path], Source]]] = {
    "yolo": (broken_yolo.BASE, ("labels/bad.txt", "classes.txt"), open_yolo),
    "yolo yaml": (
        {**broken_yolo.TWO_FOLDERS, "images/train/good.jpg": broken_cases.picture(1)},
        ("data.yaml",),
        open_yolo,
    ),
    "coco": (_coco_files(), ("annotations/instances.json",), open_coco),
    "voc": (broken_voc.BASE, ("Annotations/bad.xml",), open_voc),
    "mot": (broken_sequences.BASE, ("walk/gt/gt.txt",), open_mot),
    "virat": (broken_sequences.CLIP, (broken_sequences.TXT,), open_virat),
    "labelme": (broken_tools.LABELME, ("bad.json",), open_labelme),
    "cvat": (broken_tools.CVAT, ("annotations.xml",), open_cvat),
    "pairs": (_pair_files(), ("pairs.jsonl",), open_pairs),
}
TOKENS = [
    b"",
    b"0",
    b"-",
    b"nan",
    b"1e999",
    b"9" * 400,
    b"\xff",
    b"\0",
    b'"',
    b"{",
    b"]",
    b"<",
    b">",
    b"&",
    b",",
    b"\n",
    b"../",
]
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(TOKENS)), min_size=1, max_size=3)


@pytest.mark.parametrize("name", sorted(SOURCES))
@given(data=st.data(), changes=edits, repair=st.booleans())
def test_an_annotation_file_with_other_bytes_in_it(
    name: str, data: st.DataObject, changes: list[tuple[float, int, bytes]], repair: bool
) -> None:
    """What was right but for a few bytes: nearer to what people have than noise is."""
    files, spoilt, open_format = SOURCES[name]
    with folder() as root:
        write_files(root, files)
        path = root / data.draw(st.sampled_from(spoilt))
        content = path.read_bytes()
        for share, length, token in changes:
            at = int(share * len(content))
            content = content[:at] + token + content[at + length :]
        path.write_bytes(content)
        before = contents(root)
        try:
            source = open_format(root)
            listing = source.scan()
        except ShardboxError as error:
            assert error.remedy
            return
        ids = [reference.image_id for reference in listing.references]
        if name != "yolo yaml":  # It says which images are to be looked for.
            assert len(ids) >= 2 or any(f.severity != "info" for f in listing.findings), "none is lost unsaid"
        if len(set(ids)) == len(ids):
            check(load(source, repair), len(ids))
        assert contents(root) == before
