"""Broken Pascal VOC sources: XML files, image sets."""

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
from tfds_builders.formats.voc import open_voc

XML = "Annotations/bad.xml"
AT_BOX = "/annotation/object[1]/bndbox"
of_images = truths("good", "bad")


def thing(box: Sequence[object] = BOX, name: str = "cat", more: str = "") -> str:
    """An object; `box` is xyxy, and written 1-based and inclusive."""
    x0, y0, x1, y1 = box
    first = [number + 1 if isinstance(number, int | float) else number for number in (x0, y0)]
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (*first, x1, y1), strict=True)
    inside = "".join(f"<{tag}>{number}</{tag}>" for tag, number in corners)
    return f"<object><name>{name}</name>{more}<bndbox>{inside}</bndbox></object>"


def size(height: object = 48, width: object = 64) -> str:
    return f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"


def xml(*parts: str, sized: str = size()) -> str:
    return f"<annotation>{sized}{''.join(parts)}</annotation>"


BASE = {
    "JPEGImages/good.jpg": picture(1),
    "JPEGImages/bad.jpg": picture(),
    "Annotations/good.xml": xml(thing()),
    XML: xml(thing(), thing(OTHER)),
}


def broken(
    name: str,
    files: Files,
    found: Sequence[Found],
    bad: Things | None = (CAT, CAT_TOO),
    mended: Things | None = None,
    **more: Any,
) -> Case:
    """A source of good.jpg and bad.jpg. `bad` are the latter's objects, `mended` those when repaired."""
    by_id = {"prepared": of_images(bad), "repaired": of_images(mended) if mended is not None else None}
    return Case(
        f"voc, {name}", lambda root: open_voc(write_files(root, BASE, files), ("cat",)), tuple(found), **by_id | more
    )


def with_object(name: str, text: str, found: Found, *, bad: Things | None = None, left: Things = ()) -> Case:
    """The first object of the bad image. `left` is what stays of it."""
    kept = (*left, CAT_TOO)
    return broken(name, {XML: xml(text, thing(OTHER))}, [found], kept if found.severity != "error" else bad, kept)


def at(code: Code, line: str = AT_BOX, **more: Any) -> Found:
    return Found(code, XML, line, **{"mended": True} | more)


def cat(x0: float, y0: float, x1: float, y1: float) -> Thing:
    return Thing(0, (x0, y0, x1, y1))


OBJECTS = (
    with_object("an unknown name", thing(name="dog"), at(Code.CLASS_UNKNOWN, "/annotation/object[1]/name")),
    with_object("no name", thing(name=""), at(Code.CLASS_UNKNOWN, "/annotation/object[1]/name")),
    with_object("words for numbers", thing(("a", 1, 9, 9)), at(Code.LABEL_MALFORMED)),
    with_object("no box", "<object><name>cat</name></object>", at(Code.LABEL_MALFORMED)),
    with_object("not a number", thing(("nan", 1, 9, 9)), at(Code.BOX_NOT_FINITE)),
    with_object("corners the wrong way round", thing((40, 12, 24, 36)), at(Code.BOX_EMPTY)),
    with_object("too far down", thing((24, 12, 40, 50)), at(Code.BOX_OUTSIDE), left=(cat(24, 12, 40, 48),)),
    with_object(
        "counted from 0",
        thing((-1, 12, 40, 36)),
        info(Code.BOX_CLIPPED, XML, AT_BOX, "bad"),
        left=(cat(0, 12, 40, 36),),
    ),
    with_object(
        "absurdly long", thing((0, 12, 60, 13)), warning(Code.BOX_ABSURD, XML, AT_BOX), left=(cat(0, 12, 60, 13),)
    ),
    with_object(
        "a difficult object",
        thing(more="<difficult>1</difficult>"),
        info(Code.IGNORE_REGION),
        left=(Thing(0, BOX, ignore=True),),
    ),
    broken(
        "the same object twice",
        {XML: xml(thing(), thing(OTHER), thing())},
        [warning(Code.OBJECT_TWICE, XML, "/annotation/object[3]/bndbox", mended=True)],
        (CAT, CAT_TOO, CAT),
        (CAT, CAT_TOO),
    ),
    broken(
        "shares where pixels are expected",
        {XML: xml(thing((-0.6, -0.5, 0.6, 0.7)), thing((-0.9, -0.9, 0.4, 0.5)))},
        [Found(Code.BOX_UNITS, XML, AT_BOX)],
        None,
    ),
)
MALFORMED = (
    broken("no XML", {XML: "\n<annotation>\n<object>"}, [Found(Code.LABEL_MALFORMED, XML, 3)], None),
    broken("an XML file of 0 bytes", {XML: b""}, [Found(Code.LABEL_MALFORMED, XML, 1)], None),
    broken("another root", {XML: "<html/>"}, [Found(Code.LABEL_MALFORMED, XML, 1)], None),
    broken(
        "entities",
        {XML: '<?xml version="1.0"?>\n<!DOCTYPE x [<!ENTITY a "aaaa">]>\n<annotation/>'},
        [Found(Code.LABEL_MALFORMED, XML, 2)],
        None,
    ),
    broken("no XML file", {XML: None}, [Found(Code.LABEL_MISSING, XML, mended=True)], None, ()),
    broken("no objects", {XML: xml()}, [info(Code.LABEL_EMPTY, XML, None, "bad")], ()),
    broken(
        "an XML file without image",
        {"Annotations/more.xml": xml(thing())},
        [Found(Code.LABEL_WITHOUT_IMAGE, "Annotations/more.xml", None, None)],
    ),
    broken(
        "a wrong size",
        {XML: xml(thing(), sized=size(48, 65))},
        [Found(Code.SIZE_MISMATCH, XML, "/annotation/size")],
        None,
    ),
    broken("an image of 0 bytes", {"JPEGImages/bad.jpg": b""}, [Found(Code.IMAGE_EMPTY, "JPEGImages/bad.jpg")], None),
)

# Stored 64 high and 48 wide, orientation 8 turns it left: (x, y) becomes (y, 48 - x).
TURNED = {"JPEGImages/bad.jpg": picture(2, 64, 48, orientation=8)}
NOTED = info(Code.EXIF_ORIENTATION, "JPEGImages/bad.jpg", None, "bad")
TALL = (12, 40, 36, 60)
MENDED = cat(40, 12, 60, 36), cat(6, 24, 18, 40)
TURNS = (
    broken(
        "the size of the image as stored",
        {**TURNED, XML: xml(thing(TALL), thing(OTHER), sized=size(64, 48))},
        [NOTED, Found(Code.BOX_TURNED, XML, "/annotation/size", mended=True)],
        None,
        MENDED,
    ),
    broken(
        "no size, and boxes that only fit the image as stored",
        {**TURNED, XML: xml(thing(TALL), thing(OTHER), sized="")},
        [NOTED, at(Code.BOX_TURNED)],
        None,
        MENDED,
    ),
    broken(
        "no size, and boxes that fit both ways",
        {**TURNED, XML: xml(thing((12, 12, 36, 36)), sized=size(0, 0))},
        [NOTED],
        (cat(12, 12, 36, 36),),
    ),
    broken(
        "no size, and boxes that fit neither way",
        {**TURNED, XML: xml(thing((12, 40, 70, 60)), thing(OTHER), sized="")},
        [NOTED, at(Code.BOX_OUTSIDE)],
        None,
        (cat(12, 40, 64, 48), CAT_TOO),
    ),
)

SET = "ImageSets/Main/train.txt"
SETS = (
    broken(
        "a set that names an image that is not there",
        {SET: "good\ngone\nbad\n"},
        [Found(Code.IMAGE_MISSING, SET, 2, None)],
    ),
    broken(
        "a set that names an image twice",
        {SET: "good\nbad\nbad\n"},
        [warning(Code.LISTED_TWICE, SET, 3)],
        splits=None,
    ),
    broken(
        "an image in two sets",
        {SET: "good\nbad\n", "ImageSets/Main/val.txt": "\nbad\n"},
        [warning(Code.LISTED_TWICE, "ImageSets/Main/val.txt", 2)],
    ),
    broken(
        "the same bytes in two sets",
        {SET: "good\n", "ImageSets/Main/test.txt": "bad\n", "JPEGImages/bad.jpg": picture(1)},
        [warning(Code.DUPLICATE_CONTENT, "JPEGImages/good.jpg", None, "good")],
        splits=None,
    ),
)
CASES = (*OBJECTS, *MALFORMED, *TURNS, *SETS)
