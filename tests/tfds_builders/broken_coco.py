"""Broken COCO sources: annotations, image entries, categories."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataflow.findings import Code
from tests.factories import Picture, Thing, coco_json
from tests.tfds_builders.broken_cases import (
    BOX,
    CAT,
    CAT_TOO,
    Case,
    Files,
    Found,
    Things,
    info,
    picture,
    truths,
    warning,
    write_files,
)
from tfds_builders.formats.coco import open_coco
from tfds_builders.sources.source import Source

JSON = "instances.json"
BASE = {"images/good.jpg": picture(1), "images/bad.jpg": picture()}
# Images 101 (good) and 102 (bad); annotations 0 of good, 1 and 2 of bad; the category's number is 3.
CONTENT = coco_json([Picture("good", things=(CAT,)), Picture("bad", things=(CAT, CAT_TOO))], ["cat"])
DROP = object()
"""A key that is not there."""
of_images = truths("good", "bad")


def changed(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The content, other values at these JSON pointers; "-" behind a list adds to it."""
    content: dict[str, Any] = copy.deepcopy(CONTENT)
    for pointer, value in changes.items():
        *path, last = pointer.strip("/").split("/")
        parent: Any = content
        for step in path:
            parent = parent[int(step) if isinstance(parent, list) else step]
        if value is DROP:
            del parent[last]
        elif last == "-":
            parent.append(value)
        else:
            parent[int(last) if isinstance(parent, list) else last] = value
    return content


def broken(
    name: str,
    changes: Mapping[str, Any],
    found: Sequence[Found],
    bad: Things | None = (CAT, CAT_TOO),
    mended: Things | None = None,
    *,
    files: Files | None = None,
    **more: Any,
) -> Case:
    """A source of good.jpg and bad.jpg. `bad` are the latter's objects, `mended` those when repaired."""

    def make(root: Path) -> Source:
        layer = {f"annotations/{JSON}": json.dumps(changed(changes))} | dict(files or {})
        return open_coco(write_files(root, BASE, layer))

    by_id = {"prepared": of_images(bad), "repaired": of_images(mended) if mended is not None else None}
    return Case(f"coco, {name}", make, tuple(found), **by_id | more)


def with_value(name: str, key: str, value: Any, code: Code, left: Things = ()) -> Case:
    """A value of the bad image's first annotation. `left` is what repairing leaves of it."""
    pointer = f"/annotations/1/{key}"
    return broken(name, {pointer: value}, [Found(code, JSON, pointer, mended=True)], None, (*left, CAT_TOO))


def with_box(name: str, box: Sequence[float], *found: Found, left: Things) -> Case:
    """A box of the bad image's first annotation that keeps nothing out."""
    return broken(name, {"/annotations/1/bbox": list(box)}, found, (*left, CAT_TOO))


def cat(x0: float, y0: float, x1: float, y1: float) -> Thing:
    return Thing(0, (x0, y0, x1, y1))


AT_BOX = "/annotations/1/bbox"
ANNOTATIONS = (
    with_value("unknown category", "category_id", 99, Code.CLASS_UNKNOWN),
    with_value("a category that is no number", "category_id", "cat", Code.CLASS_UNKNOWN),
    with_value("no box", "bbox", None, Code.LABEL_MALFORMED),
    with_value("three numbers", "bbox", [1, 2, 3], Code.LABEL_MALFORMED),
    with_value("words for numbers", "bbox", ["a", "b", "c", "d"], Code.LABEL_MALFORMED),
    with_value("not a number", "bbox", [1, 2, float("nan"), 4], Code.BOX_NOT_FINITE),
    with_value("too large a number", "bbox", [1, 2, 1e300, 4], Code.BOX_NOT_FINITE),
    with_value("no height", "bbox", [1, 2, 3, 0], Code.BOX_EMPTY),
    with_value("negative width", "bbox", [40, 12, -16, 24], Code.BOX_EMPTY),
    with_value("corners for sides", "bbox", [20, 10, 50, 40], Code.BOX_OUTSIDE, (cat(20, 10, 64, 48),)),
    with_value("wholly outside", "bbox", [70, 10, 5, 5], Code.BOX_OUTSIDE),
    with_value("a pixel too far, and more", "bbox", [-1.01, 4, 21, 20], Code.BOX_OUTSIDE, (cat(0, 4, 19.99, 24),)),
    with_box(
        "a pixel too far", [-1, 4, 21, 20], info(Code.BOX_CLIPPED, JSON, AT_BOX, "bad"), left=(cat(0, 4, 20, 24),)
    ),
    with_box("too far by rounding", [40, 4, 24.009, 20], left=(cat(40, 4, 64, 24),)),
    with_box("a speck", [4, 4, 1, 2], warning(Code.BOX_ABSURD, JSON, AT_BOX), left=(cat(4, 4, 5, 6),)),
    with_value("strange crowd", "iscrowd", "maybe", Code.LABEL_MALFORMED),
    with_value("strange area", "area", -5, Code.LABEL_MALFORMED, (CAT,)),
    with_value("a mask of two points", "segmentation", [[1, 2, 3, 4]], Code.LABEL_MALFORMED, (CAT,)),
    broken(
        "shares where pixels are expected",
        {AT_BOX: [0.4, 0.3, 0.2, 0.5], "/annotations/2/bbox": [0.1, 0.1, 0.3, 0.4]},
        [Found(Code.BOX_UNITS, JSON, AT_BOX)],
        None,
    ),
    broken(
        "a crowd",
        {"/annotations/1/iscrowd": 1},
        [info(Code.IGNORE_REGION)],
        (Thing(0, BOX, ignore=True), CAT_TOO),
    ),
    broken(
        "an annotation twice",
        {"/annotations/-": CONTENT["annotations"][1] | {"id": 9}},
        [warning(Code.OBJECT_TWICE, JSON, "/annotations/3/bbox", mended=True)],
        (CAT, CAT_TOO, CAT),
        (CAT, CAT_TOO),
    ),
    broken(
        "an annotation of no image",
        {"/annotations/2/image_id": 999},
        [Found(Code.LABEL_WITHOUT_IMAGE, JSON, "/annotations/2/image_id", None)],
        (CAT,),
    ),
)

TURNED = {"images/bad.jpg": picture(2, 48, 64, orientation=6)}
UPRIGHT = {"sizes": {"bad": (64, 48)}}
NOTED = info(Code.EXIF_ORIENTATION, "bad.jpg", None, "bad")
# On 48 x 64 px as stored, x from 44 on fits no image that is 48 wide. Turned right, (x, y) becomes (48 - y, x).
ONLY_STORED = {AT_BOX: [44, 12, 16, 24]}
MENDED = cat(12, 44, 36, 60), cat(48 - 18, 8, 48 - 6, 24)
IMAGES = (
    broken("a wrong size", {"/images/1/width": 65}, [Found(Code.SIZE_MISMATCH, JSON, "/images/1")], None),
    broken(
        "no size",
        {"/images/1/height": DROP},
        [Found(Code.LABEL_MALFORMED, JSON, "/images/1", mended=True)],
        None,
        (CAT, CAT_TOO),
    ),
    broken(
        "the size of the image as stored",
        ONLY_STORED,
        [NOTED, Found(Code.BOX_TURNED, JSON, "/images/1", mended=True)],
        None,
        MENDED,
        files=TURNED,
        **UPRIGHT,
    ),
    broken(
        "no size, and boxes that only fit the image as stored",
        ONLY_STORED | {"/images/1/height": DROP},
        [
            NOTED,
            Found(Code.LABEL_MALFORMED, JSON, "/images/1", mended=True),
            Found(Code.BOX_TURNED, JSON, AT_BOX, mended=True),
        ],
        None,
        MENDED,
        files=TURNED,
        **UPRIGHT,
    ),
    broken(
        "the same where EXIF is ignored, and right",
        ONLY_STORED,
        [NOTED],
        (cat(44, 12, 60, 36), CAT_TOO),
        None,
        files=TURNED,
        exif="ignore",
    ),
    broken(
        "a file that is not there",
        {"/images/1/file_name": "gone.jpg"},
        [Found(Code.IMAGE_MISSING, "gone.jpg", None, "gone")],
        None,
    ),
    broken(
        "a file outside",
        {"/images/1/file_name": "../../secret.jpg"},
        [Found(Code.IMAGE_OUTSIDE_ROOT, "../../secret.jpg", None, "../../secret")],
        None,
    ),
    broken(
        "no file name",
        {"/images/1/file_name": None},
        [Found(Code.LABEL_MALFORMED, JSON, "/images/1/file_name", "/images/1")],
        None,
    ),
    broken(
        "no id",
        {"/images/1/id": None, "/annotations/2/image_id": 101},
        [
            Found(Code.LABEL_MALFORMED, JSON, "/images/1/id"),
            Found(Code.LABEL_WITHOUT_IMAGE, JSON, "/annotations/1/image_id", None),
        ],
        prepared={"good": (CAT, CAT_TOO)},
    ),
    broken(
        "an id twice",
        {"/images/-": CONTENT["images"][1] | {"file_name": "more.jpg"}},
        [Found(Code.DUPLICATE_ID, JSON, "/images/1/id"), Found(Code.DUPLICATE_ID, JSON, "/images/2/id", "more")],
        None,
        files={"images/more.jpg": picture(3)},
        images=3,
    ),
    broken(
        "a file listed twice",
        {"/images/-": CONTENT["images"][1] | {"id": 103}, "/annotations/2/image_id": 103},
        [Found(Code.LISTED_TWICE, JSON, "/images/2/file_name", f"{JSON}#/images/2")],
        (CAT,),
        images=3,
    ),
    broken(
        "files that differ in their suffix only",
        {"/images/-": CONTENT["images"][1] | {"id": 103, "file_name": "bad.png"}, "/annotations/2/image_id": 103},
        [Found(Code.DUPLICATE_ID, "bad.png", None)],
        (CAT,),
        files={"images/bad.png": picture(3, encoding="PNG")},
        images=3,
    ),
    broken("an image of 0 bytes", {}, [Found(Code.IMAGE_EMPTY, "bad.jpg")], None, files={"images/bad.jpg": b""}),
    broken(
        "the same bytes under two names",
        {},
        [warning(Code.DUPLICATE_CONTENT, "good.jpg", None, "good")],
        files={"images/bad.jpg": picture(1)},
    ),
)


THIRD = CONTENT["images"][1] | {"id": 103, "file_name": "third.jpg"}


def categories(**named: int) -> dict[str, Any]:
    return {"/categories": [{"id": number, "name": name.rstrip("_")} for name, number in named.items()]}


CLASSES = (
    broken(
        "categories counted from 0 in annotations",
        {
            **categories(cat=1, dog=2),
            **{"/annotations/0/category_id": 0, "/annotations/1/category_id": 1, "/annotations/2/category_id": 0},
            **{"/images/-": THIRD, "/annotations/-": CONTENT["annotations"][1] | {"category_id": 1, "image_id": 103}},
        },
        [
            Found(Code.CLASS_UNKNOWN, JSON, "/annotations/0/category_id", "good", mended=True),
            Found(Code.CLASS_UNKNOWN, JSON, "/annotations/2/category_id", mended=True),
            warning(Code.CLASS_IDS_SHIFTED, "", None, None),
            info(Code.CLASS_UNUSED),
        ],
        prepared={"third": (CAT,)},
        repaired={"third": (CAT,), "good": (), "bad": (CAT,)},
        files={"images/third.jpg": picture(3)},
        images=3,
    ),
    broken(
        "a name twice",
        {**categories(cat=3, cat_=4), "/annotations/1/category_id": 4},
        [
            warning(Code.CLASS_NAMED_TWICE, JSON, "/categories", None),
            Found(Code.CLASS_NAMED_TWICE, JSON, "/annotations/1/category_id", mended=True),
        ],
        None,
        (CAT, CAT_TOO),
    ),
    broken("a category that nobody uses", categories(cat=3, dog=4), [info(Code.CLASS_UNUSED)]),
)
CASES = (*ANNOTATIONS, *IMAGES, *CLASSES)
