"""Broken sequences of frames: MOTChallenge and VIRAT."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from dataflow.findings import Code
from dataflow.splits import FrameRanges
from tests.factories import Thing
from tests.tfds_builders.broken_cases import (
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
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.virat import open_virat

GT = "walk/gt/gt.txt"
# The cats of frame 1, and of frame 2: the second frame is the bad one. Line 4 is where something is wrong.
ROWS = ["1,1,25,13,16,24,1", "2,1,25,13,16,24,1", "2,2,9,7,16,12,1"]
BASE = {
    "walk/img1/000001.jpg": picture(1),
    "walk/img1/000002.jpg": picture(),
    GT: "\n".join(ROWS),
}
GOOD, BAD = "walk/000001", "walk/000002"
of_frames = truths(GOOD, BAD)


def broken(
    name: str,
    files: Files,
    found: Sequence[Found],
    bad: Things | None = (CAT, CAT_TOO),
    mended: Things | None = None,
    **more: Any,
) -> Case:
    """A sequence of two frames. `bad` are the objects of the second, `mended` those when repaired."""
    by_id = {"prepared": of_frames(bad), "repaired": of_frames(mended) if mended is not None else None}
    ranges: FrameRanges | None = more.pop("ranges", None)
    return Case(
        f"mot, {name}",
        lambda root: open_mot(write_files(root, BASE, files), ranges=ranges),
        tuple(found),
        **by_id | more,
    )


def with_row(name: str, row: str, *found: Found, left: Things = ()) -> Case:
    """Another row of frame 2, which is line 4. `left` is what stays of it."""
    kept = (CAT, CAT_TOO, *left)
    refused = any(item.severity == "error" and item.image_id for item in found)
    return broken(name, {GT: "\n".join([*ROWS, row])}, found, None if refused else kept, kept)


def at_row(code: Code, **more: Any) -> Found:
    return Found(code, GT, 4, BAD, **{"mended": True} | more)


def cat(x0: float, y0: float, x1: float, y1: float) -> Thing:
    return Thing(0, (x0, y0, x1, y1))


MOT = (
    with_row("too few fields", "2,3", at_row(Code.LABEL_MALFORMED)),
    with_row("a word for a track", "2,x,1,1,9,9,1", at_row(Code.LABEL_MALFORMED)),
    with_row("a track twice in a frame", "2,1,1,1,9,9,1", at_row(Code.LABEL_MALFORMED)),
    with_row("half a track", "2,1.5,1,1,9,9,1", at_row(Code.LABEL_MALFORMED)),
    with_row("no width", "2,3,1,1,0,9,1", at_row(Code.BOX_EMPTY)),
    with_row("negative height", "2,3,1,1,9,-9,1", at_row(Code.BOX_EMPTY)),
    with_row("not a number", "2,3,nan,1,9,9,1", at_row(Code.BOX_NOT_FINITE)),
    with_row("infinite", "2,3,1,1,inf,9,1", at_row(Code.BOX_NOT_FINITE)),
    with_row(
        "a track that leaves the image, as tracks do",
        "2,3,-9,1,30,20,1",
        info(Code.BOX_CLIPPED, GT, 4, BAD),
        left=(cat(0, 0, 20, 20),),
    ),
    with_row("a track that has left the image", "2,3,-99,1,30,20,1", info(Code.BOX_OUTSIDE, GT, 4, BAD)),
    with_row(
        "a region to ignore",
        "2,3,41,31,8,8,0",
        info(Code.IGNORE_REGION),
        left=(Thing(0, (40, 30, 48, 38), ignore=True),),
    ),
    with_row("a speck", "2,3,41,31,1,1,1", warning(Code.BOX_ABSURD, GT, 4, BAD), left=(cat(40, 30, 41, 31),)),
    broken(
        "detections twice, without track",
        {GT: f"{ROWS[0]}\n2,-1,41,31,8,8,1\n2,-1,41,31,8,8,1"},
        [warning(Code.OBJECT_TWICE, GT, 3, BAD, mended=True)],
        (cat(40, 30, 48, 38),) * 2,
        (cat(40, 30, 48, 38),),
    ),
    with_row("rows of no frame", "77,1,1,1,9,9,1", Found(Code.LABEL_WITHOUT_IMAGE, GT, 4, None)),
    with_row("a head line", "frame,id,left,top,width,height", Found(Code.LABEL_MALFORMED, GT, 4, None)),
    broken(
        "shares where pixels are expected",
        {GT: f"{ROWS[0]}\n2,1,1.2,1.3,0.25,0.5,1\n2,2,1.1,1.1,0.5,0.6,1"},
        [Found(Code.BOX_UNITS, GT, 2, BAD)],
        None,
    ),
    broken(
        "text for an image",
        {"walk/img1/000002.jpg": b"no photograph"},
        [Found(Code.IMAGE_UNREADABLE, "walk/img1/000002.jpg", None, BAD)],
        None,
    ),
    broken(
        "an image that is no frame",
        {"walk/img1/title.jpg": picture(3)},
        [Found(Code.LABEL_MALFORMED, "walk/img1/title.jpg", None, "walk/title")],
        images=3,
    ),
    broken(
        "a frame twice",
        {"walk/img1/2.jpg": picture(3)},
        [Found(Code.DUPLICATE_ID, "walk/img1/2.jpg", None, BAD)],
        images=3,
    ),
    broken(
        "a sequence without truth",
        {"run/img1/000001.jpg": picture(3)},
        [Found(Code.LABEL_MISSING, "run", None, None)],
    ),
    broken(
        "frames in no range",
        {"walk/img1/000003.jpg": picture(3)},
        [info(Code.SPLIT_MISSING, "walk/img1/000003.jpg"), info(Code.SPLIT_LEAK, "walk/img1/000002.jpg")],
        ranges=FrameRanges((("train", 2, 2), ("validation", 1, 1))),
        splits="train=2-2,validation=1-1",
    ),
)

TXT = "annotations/clip.viratdata.objects.txt"
CLIP = {
    "frames/clip/000001.jpg": picture(1),
    "frames/clip/000002.jpg": picture(),
    TXT: "7 2 1 24 12 16 24 1\n7 2 2 24 12 16 24 1\n",
}
FRAME = "clip/000002"
of_clip = truths("clip/000001", FRAME)
# VIRAT has five types of objects, of which these clips show one.
UNUSED = info(Code.CLASS_UNUSED)


def virat(name: str, files: Files, found: Sequence[Found], bad: Things | None, left: Things | None = None) -> Case:
    mended = of_clip(left) if left is not None else None
    return Case(
        f"virat, {name}",
        lambda root: open_virat(write_files(root, CLIP, files)),
        (UNUSED, *found),
        of_clip(bad),
        mended,
    )


def virat_row(name: str, row: str, *found: Found, left: Things = ()) -> Case:
    """Another row of frame 2, which is line 3. `left` is what stays of it."""
    refused = any(item.severity == "error" for item in found)
    return virat(name, {TXT: CLIP[TXT] + row}, found, None if refused else (CAT, *left), (CAT, *left))


in_virat = partial(Found, file=TXT, line=3, image_id=FRAME, mended=True)
VIRAT = (
    virat_row("seven fields", "8 2 2 24 12 16 24", in_virat(Code.LABEL_MALFORMED)),
    virat_row("an object twice", "7 2 2 24 12 16 24 1", in_virat(Code.LABEL_MALFORMED)),
    virat_row("a type that is none", "8 2 2 24 12 16 24 9", in_virat(Code.CLASS_UNKNOWN)),
    virat_row("no height", "8 2 2 24 12 16 0 1", in_virat(Code.BOX_EMPTY)),
    virat_row("not a number", "8 2 2 24 nan 16 5 1", in_virat(Code.BOX_NOT_FINITE)),
    virat_row(
        "an object that leaves the image",
        "8 2 2 50 12 30 24 1",
        info(Code.BOX_CLIPPED, TXT, 3, FRAME),
        left=(Thing(0, (50, 12, 64, 36)),),
    ),
    virat_row("rows of frames that are no images", "8 2 5 50 12 10 24 1", info(Code.LABEL_WITHOUT_IMAGE, TXT, 3)),
    virat(
        "an image of 0 bytes",
        {"frames/clip/000002.jpg": b""},
        [Found(Code.IMAGE_EMPTY, "frames/clip/000002.jpg", None, FRAME)],
        None,
    ),
    virat(
        "frames without objects file",
        {"frames/other/000001.jpg": picture(3)},
        [Found(Code.LABEL_MISSING, "frames/other", None, None)],
        (CAT,),
    ),
)
CASES = (*MOT, *VIRAT)
