"""Broken YOLO sources: labels, classes, layouts."""

from collections.abc import Sequence
from typing import Any

from dataflow.findings import Code
from tests.factories import Thing
from tests.tfds_builders.broken_cases import (
    CAT,
    CAT_TOO,
    FOLDER,
    Case,
    Files,
    Found,
    Link,
    Things,
    info,
    picture,
    truths,
    warning,
    write_files,
)
from tfds_builders.formats.yolo import open_yolo

GOOD_LINE = "0 0.5 0.5 0.25 0.5"
OTHER_LINE = "0 0.25 0.25 0.25 0.25"
LABEL = "labels/bad.txt"
BASE = {
    "images/good.jpg": picture(1),
    "images/bad.jpg": picture(),
    "labels/good.txt": f"{GOOD_LINE}\n",
    LABEL: f"{GOOD_LINE}\n",
    "classes.txt": "cat\n",
}
of_images = truths("good", "bad")


def broken(
    name: str,
    files: Files,
    found: Sequence[Found],
    bad: Things | None = (CAT,),
    mended: Things | None = None,
    **more: Any,
) -> Case:
    """A source of images/good.jpg and images/bad.jpg. `bad` are the latter's objects, `mended` those when repaired."""
    by_id = {"prepared": of_images(bad), "repaired": of_images(mended) if mended is not None else None}
    return Case(f"yolo, {name}", lambda root: open_yolo(write_files(root, BASE, files)), tuple(found), **by_id | more)


def with_line(name: str, line: str | bytes, *found: Found, bad: Things | None = None, left: Things = ()) -> Case:
    """The second line of the label is broken. `left` is what repairing leaves of it besides the good ones."""
    raw = line if isinstance(line, bytes) else line.encode()
    text = b"\n".join([GOOD_LINE.encode(), raw, OTHER_LINE.encode(), b""])
    objects = CAT, *left, CAT_TOO
    kept = objects if not found or all(f.severity != "error" for f in found) else None
    return broken(name, {LABEL: text}, found, bad or kept, objects)


def at_line(code: Code, **more: Any) -> Found:
    return Found(code, LABEL, 2, **{"mended": True} | more)


def cat(x0: float, y0: float, x1: float, y1: float) -> Thing:
    return Thing(0, (x0, y0, x1, y1))


def line_of(x0: float, y0: float, x1: float, y1: float) -> str:
    return f"0 {(x0 + x1) / 128:.9f} {(y0 + y1) / 96:.9f} {(x1 - x0) / 64:.9f} {(y1 - y0) / 48:.9f}"


LINES = (
    with_line("too few fields", "0 0.5 0.5 0.25", at_line(Code.LABEL_MALFORMED)),
    with_line("a confidence behind the box", "0 0.5 0.5 0.25 0.5 0.9", at_line(Code.LABEL_MALFORMED)),
    with_line("half a point", "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1", at_line(Code.LABEL_MALFORMED)),
    with_line("a name for the class", "cat 0.5 0.5 0.25 0.5", at_line(Code.LABEL_MALFORMED)),
    with_line("decimal commas", "0 0,5 0,5 0,25 0,5", at_line(Code.LABEL_MALFORMED)),
    with_line("commas between fields", "0,0.5,0.5,0.25,0.5", at_line(Code.LABEL_MALFORMED)),
    with_line("bytes that are no text", b"\xff\xfe\x00\x01", at_line(Code.LABEL_MALFORMED)),
    with_line("class too high", "7 0.5 0.5 0.25 0.5", at_line(Code.CLASS_UNKNOWN)),
    with_line("class below 0", "-2 0.5 0.5 0.25 0.5", at_line(Code.CLASS_UNKNOWN)),
    with_line("half a class", "0.5 0.5 0.5 0.25 0.5", at_line(Code.CLASS_UNKNOWN)),
    with_line("not a number", "0 nan 0.5 0.25 0.5", at_line(Code.BOX_NOT_FINITE)),
    with_line("infinite", "0 0.5 inf 0.25 0.5", at_line(Code.BOX_NOT_FINITE)),
    with_line("no width", "0 0.5 0.5 0 0.5", at_line(Code.BOX_EMPTY)),
    with_line("negative height", "0 0.5 0.5 0.25 -0.5", at_line(Code.BOX_EMPTY)),
    with_line("a polygon without height", "0 0.1 0.5 0.5 0.5 0.9 0.5", at_line(Code.BOX_EMPTY)),
    with_line("too far right", "0 0.95 0.5 0.25 0.5", at_line(Code.BOX_OUTSIDE), left=(cat(52.8, 12, 64, 36),)),
    with_line("too far up", "0 0.5 0.05 0.25 0.25", at_line(Code.BOX_OUTSIDE), left=(cat(24, 0, 40, 8.4),)),
    with_line("wholly outside", "0 1.2 0.5 0.2 0.5", at_line(Code.BOX_OUTSIDE)),
    with_line(
        "just more than a pixel outside",
        line_of(40, 12, 65.02, 36),
        at_line(Code.BOX_OUTSIDE),
        left=(cat(40, 12, 64, 36),),
    ),
    with_line(
        "just less than a pixel outside",
        line_of(40, 12, 64.98, 36),
        info(Code.BOX_CLIPPED, LABEL, 2, "bad"),
        left=(cat(40, 12, 64, 36),),
    ),
    with_line(
        "just more than rounding outside",
        line_of(40, -0.012, 64, 36),
        info(Code.BOX_CLIPPED, LABEL, 2, "bad"),
        left=(cat(40, 0, 64, 36),),
    ),
    with_line("outside by rounding only", line_of(40, -0.008, 64, 36), left=(cat(40, 0, 64, 36),)),
    with_line("less than a pixel and wholly outside", line_of(64, 12, 64.9, 36), at_line(Code.BOX_OUTSIDE)),
    with_line(
        "absurdly small",
        line_of(10, 10, 11.9, 11.9),
        warning(Code.BOX_ABSURD, LABEL, 2),
        left=(cat(10, 10, 11.9, 11.9),),
    ),
    with_line("small, but not absurdly", line_of(10, 10, 12.1, 12.1), left=(cat(10, 10, 12.1, 12.1),)),
    with_line(
        "absurdly long",
        line_of(2, 40, 62, 41.15),
        warning(Code.BOX_ABSURD, LABEL, 2),
        left=(cat(2, 40, 62, 41.15),),
    ),
    with_line(
        "the same object twice", GOOD_LINE, warning(Code.OBJECT_TWICE, LABEL, 2, mended=True), bad=(CAT, CAT, CAT_TOO)
    ),
)

LABELS = (
    broken(
        "pixels where shares are expected",
        {LABEL: f"{GOOD_LINE}\n0 32 24 16 24\n"},
        [Found(Code.BOX_UNITS, LABEL, 2)],
        None,
    ),
    broken("no label file", {LABEL: None}, [Found(Code.LABEL_MISSING, LABEL, mended=True)], None, ()),
    broken("an empty label file", {LABEL: b""}, [info(Code.LABEL_EMPTY, LABEL, None, "bad")], ()),
    broken("a label file of blank lines", {LABEL: " \n\r\n"}, [info(Code.LABEL_EMPTY, LABEL, None, "bad")], ()),
    broken("a folder for a label file", {LABEL: FOLDER}, [Found(Code.LABEL_MALFORMED, LABEL)], None),
    broken(
        "a label file outside",
        {LABEL: Link("../../secret.txt")},
        [Found(Code.IMAGE_OUTSIDE_ROOT, LABEL)],
        None,
    ),
    broken(
        "a label without image",
        {"labels/more.txt": GOOD_LINE},
        [Found(Code.LABEL_WITHOUT_IMAGE, "labels/more.txt", None, None)],
    ),
    broken(
        "names that differ in their suffix only",
        {"images/bad.png": picture(3, encoding="PNG")},
        [Found(Code.DUPLICATE_ID, "images/bad.png", None, "images/bad")],
        prepared={"images/good": (CAT,), "images/bad": (CAT,)},
        images=3,
    ),
    broken(
        "the same bytes under two names",
        {"images/copy.jpg": picture(), "labels/copy.txt": GOOD_LINE},
        [warning(Code.DUPLICATE_CONTENT, "images/copy.jpg", None, "copy")],
        prepared={"good": (CAT,), "bad": (CAT,), "copy": (CAT,)},
        images=3,
    ),
)

TWO = "cat\ndog\n"
CLASSES = (
    broken(
        "classes counted from 1",
        {"classes.txt": TWO, "labels/good.txt": "1 0.5 0.5 0.25 0.5\n", LABEL: "1 0.5 0.5 0.25 0.5\n2 0.3 0.3 0.2 0.2"},
        [
            at_line(Code.CLASS_UNKNOWN),
            warning(Code.CLASS_IDS_SHIFTED, "", None, None),
            info(Code.CLASS_UNUSED),
        ],
        prepared={"good": (Thing(1, CAT.box),)},
        repaired={"good": (Thing(1, CAT.box),), "bad": (Thing(1, CAT.box),)},
    ),
    broken(
        "a class too many, which is no shift",
        {"classes.txt": TWO, "labels/good.txt": "1 0.5 0.5 0.25 0.5\n", LABEL: f"{GOOD_LINE}\n2 0.3 0.3 0.2 0.2"},
        [at_line(Code.CLASS_UNKNOWN), info(Code.CLASS_UNUSED, when="kept out")],
        prepared={"good": (Thing(1, CAT.box),)},
        repaired={"good": (Thing(1, CAT.box),), "bad": (CAT,)},
    ),
    broken("a class that nobody uses", {"classes.txt": TWO}, [info(Code.CLASS_UNUSED)]),
    broken(
        "a name twice",
        {"classes.txt": "cat\n\ncat\n", LABEL: f"{GOOD_LINE}\n1 0.25 0.25 0.25 0.25\n"},
        [warning(Code.CLASS_NAMED_TWICE, "classes.txt", 3, None), at_line(Code.CLASS_NAMED_TWICE)],
        None,
        (CAT, CAT_TOO),
    ),
)

ROOT_LIST = "./images/good.jpg\n./images/bad.jpg\n"
LISTED = {"data.yaml": "train: train.txt\nnames: [cat]\n", "classes.txt": None}
TWO_FOLDERS = {
    **dict.fromkeys(BASE),
    "data.yaml": "train: images/train\nval: images/val\nnames: [cat]\n",
    "images/train/good.jpg": picture(1),
    "labels/train/good.txt": GOOD_LINE,
    "images/val/bad.jpg": picture(),
    "labels/val/bad.txt": GOOD_LINE,
}
LAYOUTS = (
    broken(
        "a list that names an image twice",
        {**LISTED, "train.txt": ROOT_LIST + "images/bad.jpg\n"},
        [warning(Code.LISTED_TWICE, "train.txt", 3, None)],
    ),
    broken(
        "a list that names an image that is not there",
        {**LISTED, "train.txt": ROOT_LIST + "./images/gone.jpg\n"},
        [Found(Code.IMAGE_MISSING, "train.txt", 3, "gone")],
        images=3,
    ),
    broken(
        "a list that names an image elsewhere",
        {**LISTED, "train.txt": ROOT_LIST + "../../elsewhere/x.jpg\n"},
        [Found(Code.IMAGE_OUTSIDE_ROOT, "train.txt", 3, "elsewhere/x")],
        images=3,
    ),
    broken(
        "a list from another machine",
        {**LISTED, "train.txt": "/home/me/images/good.jpg\n/home/me/images/bad.jpg\n"},
        [warning(Code.IMAGE_OUTSIDE_ROOT, "train.txt", 1, None)],
    ),
    broken(
        "a split that is not there",
        {"data.yaml": "train: images\nval: images/val\nnames: [cat]\n"},
        [warning(Code.SPLIT_MISSING, "data.yaml", "/val", None)],
    ),
    broken(
        "two splits that are one folder",
        {"data.yaml": "train: images\nval: images\nnames: [cat]\n"},
        [warning(Code.LISTED_TWICE, "data.yaml", "/val", None)],
    ),
    broken(
        "a link to a folder",
        {"images/more": Link("../elsewhere"), "elsewhere/x.jpg": picture(3)},
        [Found(Code.IMAGE_OUTSIDE_ROOT, "images/more", None, None)],
    ),
    broken(
        "the same bytes in two splits",
        {**TWO_FOLDERS, "images/val/bad.jpg": picture(1)},
        [warning(Code.DUPLICATE_CONTENT, "images/train/good.jpg", None, "good")],
        splits=None,
    ),
    broken(
        "a scene in two splits",
        {
            **TWO_FOLDERS,
            **{"images/train/good.jpg": None, "labels/train/good.txt": None},
            **{"images/val/bad.jpg": None, "labels/val/bad.txt": None},
            **{"images/train/walk/good.jpg": picture(1), "labels/train/walk/good.txt": GOOD_LINE},
            **{"images/val/walk/bad.jpg": picture(), "labels/val/walk/bad.txt": GOOD_LINE},
        },
        [warning(Code.SPLIT_LEAK, "images/train/walk/good.jpg", None, None)],
        prepared={"walk/good": (CAT,), "walk/bad": (CAT,)},
        splits=None,
        scenes="folder",
    ),
    broken(
        "a class that one split does not have",
        {
            **TWO_FOLDERS,
            "data.yaml": "train: images/train\nval: images/val\nnames: [cat, dog]\n",
            "labels/train/good.txt": f"{GOOD_LINE}\n1 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.25 0.25\n",
        },
        [info(Code.SPLIT_UNBALANCED)],
        prepared={"good": (CAT, Thing(1, CAT.box), Thing(1, CAT_TOO.box)), "bad": (CAT,)},
        splits=None,
    ),
)

CASES = (*LINES, *LABELS, *CLASSES, *LAYOUTS)
