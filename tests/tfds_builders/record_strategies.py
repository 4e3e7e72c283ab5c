"""Records for tests of writers: hypothesis draws images of several kinds and objects with all that they can have."""

import json
from functools import cache

import numpy as np
from hypothesis import strategies as st

from dataflow.boxes import box_areas
from dataflow.images import read_header
from dataflow.records import Categories, ImageRecord, Objects
from tests.factories import photograph

NAMES = ("cat", "voiture à cheval", "犬", "yes", "<a & b>", "traffic light", "7", "half: full")
SPLITS = ("train", "validation", "test")
WORDS = ("a", "b.c", "ünï", "犬", "with space", "images", "labels", "%41", "000001")


@cache
def image(number: int) -> bytes:
    """One of a few photographs, some turned by EXIF, some PNG."""
    height, width = ((48, 64), (33, 20), (7, 90))[number % 3]
    return photograph(
        height,
        width,
        seed=number,
        encoding="PNG" if number % 4 == 3 else "JPEG",
        orientation=(None, 6, 3)[number // 4 % 3] if number % 4 != 3 else None,
    )


def triangle(box: list[float]) -> tuple[str, float]:
    """A polygon with this bounding box as JSON, and its area px2."""
    x0, y0, x1, y1 = box
    return json.dumps([[x0, y0, x1, y0, x0, y1]]), (x1 - x0) * (y1 - y0) / 2


@st.composite
def objects(draw: st.DrawFn, size: tuple[int, int], n_classes: int) -> Objects:
    """Up to five objects: crowd, truncated or not, with a mask of one part, of two or none, with tracks or none."""
    height, width = size
    boxes, masks, areas = [], [], []
    # Steps of a quarter pixel, so that no two classes, boxes or masks are equal up to rounding only.
    for _ in range(draw(st.integers(0, 5))):
        w, h = (draw(st.integers(4, 4 * side)) / 4 for side in (width, height))
        x0, y0 = (draw(st.integers(0, int(4 * (side - own)))) / 4 for side, own in ((width, w), (height, h)))
        box = [x0, y0, x0 + w, y0 + h]
        kind = draw(st.sampled_from(("none", "one", "one", "two")))
        polygon, area = triangle(box)
        if kind == "two":
            polygon = json.dumps([*json.loads(polygon), [x0 + w, y0, x0 + w, y0 + h, x0, y0 + h]])
        masks.append("" if kind == "none" else polygon)
        areas.append(area if kind == "one" else w * h)
        boxes.append(box)
    n = len(boxes)
    flags = st.lists(st.booleans(), min_size=n, max_size=n)
    return Objects(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        category_ids=np.array([draw(st.integers(0, n_classes - 1)) for _ in range(n)], np.int64),
        areas=np.array(areas, np.float32),
        is_crowd=np.array(draw(flags)),
        is_truncated=np.array(draw(flags)),
        segmentations=tuple(masks),
        track_ids=np.arange(n) if n and draw(st.booleans()) else None,
    )


@st.composite
def datasets(draw: st.DrawFn) -> tuple[Categories, list[tuple[str, ImageRecord]]]:
    """Classes, and up to four records with their splits."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    steps = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map("/".join)
    ids = draw(st.lists(steps, min_size=1, max_size=4, unique=True))
    found = []
    for image_id in ids:
        data = image(draw(st.integers(0, 11)))
        size = read_header(data).size
        record = ImageRecord(
            image_id=image_id,
            image=data,
            height=size[0],
            width=size[1],
            objects=draw(objects(size, len(names))),
            group_id=draw(st.sampled_from((image_id, "scene"))),
            provenance="x:1",
            source_id=draw(st.sampled_from(("", "42"))),
        )
        found.append((draw(st.sampled_from(SPLITS)), record))
    return Categories(tuple(names)), found


def differing_areas(objects: Objects) -> int:
    """Objects whose area is not that of their box."""
    own = box_areas(objects.boxes)
    return int((np.abs(objects.areas - own) > 1e-2).sum())
