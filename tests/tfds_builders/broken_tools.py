"""Broken sources of annotation tools, LabelMe and CVAT, and broken lists of pairs."""

import json
from collections.abc import Sequence
from typing import Any

from dataflow.findings import Code
from tests.factories import Thing
from tests.tfds_builders.broken_cases import (
    BOX,
    CAT,
    CAT_TOO,
    OTHER,
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
from tfds_builders.formats.cvat import open_cvat
from tfds_builders.formats.labelme import open_labelme
from tfds_builders.formats.pairs import open_pairs

of_images = truths("good", "bad")


def cat(x0: float, y0: float, x1: float, y1: float) -> Thing:
    return Thing(0, (x0, y0, x1, y1))


def shape(box: Sequence[Any] = BOX, label: Any = "cat", **more: Any) -> dict[str, Any]:
    points = [list(box[:2]), list(box[2:])]
    return {"label": label, "points": points, "shape_type": "rectangle", "flags": {}, **more}


def labelme_json(*shapes: Any, image: str = "bad.jpg", size: tuple[int, int] = (48, 64), **more: Any) -> str:
    content = {"version": "5.5.0", "shapes": list(shapes), "imagePath": image, "imageData": None}
    return json.dumps({**content, "imageHeight": size[0], "imageWidth": size[1], **more})


LABELME = {
    "good.jpg": picture(1),
    "bad.jpg": picture(),
    "good.json": labelme_json(shape(), image="good.jpg"),
    "bad.json": labelme_json(shape(), shape(OTHER)),
}


def labelme(
    name: str,
    files: Files,
    found: Sequence[Found],
    bad: Things | None = (CAT, CAT_TOO),
    mended: Things | None = None,
    **more: Any,
) -> Case:
    by_id = {"prepared": of_images(bad), "repaired": of_images(mended) if mended is not None else None}
    return Case(
        f"labelme, {name}",
        lambda root: open_labelme(write_files(root, LABELME, files), ("cat",)),
        tuple(found),
        **by_id | more,
    )


def with_shape(name: str, first: Any, found: Found, left: Things = ()) -> Case:
    """The first shape of the bad image. `left` is what stays of it."""
    kept = (*left, CAT_TOO)
    files = {"bad.json": labelme_json(first, shape(OTHER))}
    return labelme(name, files, [found], None if found.severity == "error" else kept, kept)


def at_shape(code: Code, line: str = "/shapes/0", **more: Any) -> Found:
    return Found(code, "bad.json", line, **{"mended": True} | more)


# Stored 64 high and 48 wide. Turned right, (x, y) becomes (64 - y, x).
TURNED = {"bad.jpg": picture(2, 64, 48, orientation=6)}
LABELME_CASES = (
    with_shape("a label that is no class", shape(label="dog"), at_shape(Code.CLASS_UNKNOWN, "/shapes/0/label")),
    with_shape("no label", shape(label=None), at_shape(Code.LABEL_MALFORMED)),
    with_shape("one point", shape() | {"points": [[1, 2]]}, at_shape(Code.LABEL_MALFORMED)),
    with_shape("a line", shape(shape_type="line"), at_shape(Code.LABEL_MALFORMED)),
    with_shape("not a number", shape((1, float("nan"), 9, 9)), at_shape(Code.BOX_NOT_FINITE)),
    with_shape("no width", shape((9, 1, 9, 9)), at_shape(Code.BOX_EMPTY)),
    with_shape("too far left", shape((-5, 1, 9, 9)), at_shape(Code.BOX_OUTSIDE), (cat(0, 1, 9, 9),)),
    with_shape(
        "a bit too far left",
        shape((-0.6, 1, 9, 9)),
        info(Code.BOX_CLIPPED, "bad.json", "/shapes/0", "bad"),
        (cat(0, 1, 9, 9),),
    ),
    with_shape(
        "a flag to ignore", shape(flags={"iscrowd": True}), info(Code.IGNORE_REGION), (Thing(0, BOX, ignore=True),)
    ),
    labelme("no JSON", {"bad.json": "\n{"}, [Found(Code.LABEL_MALFORMED, "bad.json", 2)], None),
    labelme(
        "no shapes",
        {"bad.json": labelme_json().replace('"shapes": [], ', "")},
        [Found(Code.LABEL_MALFORMED, "bad.json", "/shapes")],
        None,
    ),
    labelme(
        "an empty list of shapes", {"bad.json": labelme_json()}, [info(Code.LABEL_EMPTY, "bad.json", None, "bad")], ()
    ),
    labelme("no JSON file", {"bad.json": None}, [Found(Code.LABEL_MISSING, "bad.jpg", mended=True)], None, ()),
    labelme(
        "a JSON file without image",
        {"more.json": labelme_json(shape(), image="more.jpg")},
        [Found(Code.LABEL_WITHOUT_IMAGE, "more.json", "/imagePath", None)],
    ),
    labelme(
        "two JSON files of one image",
        {"more.json": labelme_json(shape())},
        [Found(Code.LISTED_TWICE, "more.json", "/imagePath")],
        None,
    ),
    labelme(
        "an image elsewhere",
        {"more.json": labelme_json(shape(), image="../../secret.jpg")},
        [Found(Code.IMAGE_OUTSIDE_ROOT, "more.json", "/imagePath", None)],
    ),
    labelme(
        "an image that is only there as text",
        {"more.json": labelme_json(shape(), image="more.jpg", imageData="AAAA")},
        [Found(Code.IMAGE_MISSING, "more.json", "/imageData", None)],
    ),
    labelme(
        "a wrong size",
        {"bad.json": labelme_json(shape(), size=(49, 64))},
        [Found(Code.SIZE_MISMATCH, "bad.json", "/imageHeight")],
        None,
    ),
    labelme(
        "the size of the image as stored",
        {**TURNED, "bad.json": labelme_json(shape((20, 40, 30, 60)), size=(64, 48))},
        [
            info(Code.EXIF_ORIENTATION, "bad.jpg", None, "bad"),
            Found(Code.BOX_TURNED, "bad.json", "/imageHeight", mended=True),
        ],
        None,
        (cat(64 - 60, 20, 64 - 40, 30),),
    ),
    labelme("a JPEG that is cut", {"bad.jpg": picture()[:-40]}, [Found(Code.IMAGE_TRUNCATED, "bad.jpg")], None),
)

XML = "annotations.xml"


def box_xml(box: Sequence[object] = BOX, label: str = "cat", inside: str = "") -> str:
    corners = " ".join(f'{name}="{number}"' for name, number in zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True))
    return f'<box label="{label}" {corners}>{inside}</box>'


def cvat_xml(*bad: str, height: int = 48, before: Sequence[str] = (), after: Sequence[str] = ()) -> str:
    """An annotations.xml. The shapes of bad.jpg are lines from 9 on, elements `before` it from 8 on."""
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        "<annotations>",
        "<version>1.1</version>",
        "<meta><task><labels><label><name>cat</name></label></labels></task></meta>",
        '<image id="0" name="good.jpg" width="64" height="48">',
        box_xml(),
        "</image>",
        *before,
        f'<image id="1" name="bad.jpg" width="64" height="{height}">',
        *bad,
        "</image>",
        *after,
        "</annotations>",
    ]
    return "\n".join(lines)


CVAT = {"images/good.jpg": picture(1), "images/bad.jpg": picture(), XML: cvat_xml(box_xml(), box_xml(OTHER))}


def cvat(
    name: str,
    files: Files,
    found: Sequence[Found],
    bad: Things | None = (CAT, CAT_TOO),
    mended: Things | None = None,
    **more: Any,
) -> Case:
    by_id = {"prepared": of_images(bad), "repaired": of_images(mended) if mended is not None else None}
    return Case(f"cvat, {name}", lambda root: open_cvat(write_files(root, CVAT, files)), tuple(found), **by_id | more)


def with_element(name: str, text: str, found: Found, left: Things = ()) -> Case:
    """The first shape of the bad image, at line 9. `left` is what stays of it."""
    kept = (*left, CAT_TOO)
    files = {XML: cvat_xml(text, box_xml(OTHER))}
    return cvat(name, files, [found], None if found.severity == "error" else kept, kept)


def at_line(code: Code) -> Found:
    return Found(code, XML, 9, mended=True)


CVAT_CASES = (
    with_element("a label that is no class", box_xml(label="dog"), at_line(Code.CLASS_UNKNOWN)),
    with_element("words for numbers", box_xml(("a", 1, 2, 3)), at_line(Code.LABEL_MALFORMED)),
    with_element("points", '<points label="cat" points="1,2;3,4"/>', at_line(Code.LABEL_MALFORMED)),
    with_element("not a number", box_xml((1, "nan", 2, 3)), at_line(Code.BOX_NOT_FINITE)),
    with_element("no height", box_xml((1, 3, 20, 3)), at_line(Code.BOX_EMPTY)),
    with_element("too far right", box_xml((40, 3, 80, 13)), at_line(Code.BOX_OUTSIDE), (cat(40, 3, 64, 13),)),
    with_element(
        "to be ignored",
        box_xml(inside='<attribute name="is_crowd">true</attribute>'),
        info(Code.IGNORE_REGION),
        (Thing(0, BOX, ignore=True),),
    ),
    cvat(
        "an image that is not listed",
        {"images/more.jpg": picture(3)},
        [Found(Code.LABEL_MISSING, XML, None, "more", mended=True)],
        prepared={"good": (CAT,), "bad": (CAT, CAT_TOO)},
        repaired={"good": (CAT,), "bad": (CAT, CAT_TOO), "more": ()},
        images=3,
    ),
    cvat(
        "an image listed twice",
        {XML: cvat_xml(box_xml(), after=['<image name="bad.jpg" width="64" height="48"/>'])},
        [Found(Code.LISTED_TWICE, XML, 11, f"{XML}:11")],
        (CAT,),
        images=3,
    ),
    cvat(
        "an image without name",
        {XML: cvat_xml(box_xml(), before=['<image id="7"/>'])},
        [Found(Code.LABEL_MALFORMED, XML, 8, None)],
        (CAT,),
    ),
    cvat("an image that is not there", {"images/bad.jpg": None}, [Found(Code.IMAGE_MISSING, "images/bad.jpg")], None),
    cvat("a wrong size", {XML: cvat_xml(box_xml(), height=47)}, [Found(Code.SIZE_MISMATCH, XML, 8)], None),
    cvat(
        "the same object twice",
        {XML: cvat_xml(box_xml(), box_xml())},
        [warning(Code.OBJECT_TWICE, XML, 10, mended=True)],
        (CAT, CAT),
        (CAT,),
    ),
)

LIST = "pairs.jsonl"


def target(box: Sequence[Any] = BOX, label: Any = "cat", **more: Any) -> dict[str, Any]:
    return {"box": list(box), "class": label, **more}


GOOD_PAIR = {"id": "good", "before": "1.jpg", "after": "2.jpg", "labels": [target()]}
BAD_PAIR = {"id": "bad", "before": "3.jpg", "after": "4.jpg", "labels": [target(), target(OTHER)]}
FRAMES = {f"{number}.jpg": picture(number) for number in range(1, 5)}


def pairs(
    name: str,
    rows: Sequence[Any],
    found: Sequence[Found],
    bad: Things | None = (CAT, CAT_TOO),
    mended: Things | None = None,
    *,
    files: Files | None = None,
    **more: Any,
) -> Case:
    """A list whose first line is right and whose second is `rows`."""
    text = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in (GOOD_PAIR, *rows))
    layer = FRAMES | {LIST: text} | dict(files or {})
    by_id = {"prepared": of_images(bad), "repaired": of_images(mended) if mended is not None else None}
    return Case(
        f"pairs, {name}", lambda root: open_pairs(write_files(root, layer), ("cat",)), tuple(found), **by_id | more
    )


def with_target(name: str, first: Any, found: Found, left: Things = ()) -> Case:
    """The first object of the bad pair. `left` is what stays of it."""
    kept = (*left, CAT_TOO)
    row = BAD_PAIR | {"labels": [first, target(OTHER)]}
    return pairs(name, [row], [found], None if found.severity == "error" else kept, kept)


def in_row(code: Code, key: str, **more: Any) -> Found:
    return Found(code, LIST, f"2#/labels/0{key}", **{"mended": True} | more)


PAIRS_CASES = (
    with_target("three numbers", target((1, 2, 3)), in_row(Code.LABEL_MALFORMED, "/box")),
    with_target("no class", {"box": [1, 2, 3, 4]}, in_row(Code.LABEL_MALFORMED, "")),
    with_target("a class that is none", target(label="dog"), in_row(Code.CLASS_UNKNOWN, "/class")),
    with_target("no width", target((9, 1, 9, 9)), in_row(Code.BOX_EMPTY, "/box")),
    with_target("too far up", target((1, -9, 9, 9)), in_row(Code.BOX_OUTSIDE, "/box"), (cat(1, 0, 9, 9),)),
    with_target("a strange change", target(change="grown"), in_row(Code.LABEL_MALFORMED, "/change")),
    pairs("no JSON", ["{"], [Found(Code.LABEL_MALFORMED, LIST, 2, f"{LIST}:2")], None),
    pairs(
        "an image that is not there",
        [BAD_PAIR | {"after": "9.jpg"}],
        [Found(Code.IMAGE_MISSING, LIST, 2)],
        None,
    ),
    pairs(
        "an image elsewhere",
        [BAD_PAIR | {"before": "../../secret.jpg"}],
        [Found(Code.IMAGE_OUTSIDE_ROOT, LIST, 2)],
        None,
    ),
    pairs("one image for both", [BAD_PAIR | {"after": "3.jpg"}], [Found(Code.LISTED_TWICE, LIST, 2)], None),
    pairs("a pair twice", [BAD_PAIR, BAD_PAIR], [Found(Code.LISTED_TWICE, LIST, 3, f"{LIST}:3")], images=3),
    pairs(
        "an id twice",
        [BAD_PAIR, BAD_PAIR | {"before": "1.jpg"}],
        [Found(Code.DUPLICATE_ID, LIST, 3, f"{LIST}:3")],
        images=3,
    ),
    pairs(
        "no labels",
        [BAD_PAIR | {"labels": None}],
        [Found(Code.LABEL_MISSING, LIST, 2, mended=True)],
        None,
        (),
    ),
    pairs(
        "images of two sizes",
        [BAD_PAIR],
        [Found(Code.SIZE_MISMATCH, LIST, 2)],
        None,
        files={"4.jpg": picture(4, 48, 65)},
    ),
    pairs(
        "images of the same bytes",
        [BAD_PAIR],
        [warning(Code.DUPLICATE_CONTENT, LIST, 2)],
        files={"4.jpg": picture(3)},
    ),
    pairs(
        "an image that is cut",
        [BAD_PAIR],
        [Found(Code.IMAGE_TRUNCATED, "4.jpg")],
        None,
        files={"4.jpg": picture(4)[:-40]},
    ),
)
CASES = (*LABELME_CASES, *CVAT_CASES, *PAIRS_CASES)
