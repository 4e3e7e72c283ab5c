"""Records to CVAT for images 1.1: `annotations.xml` and `images/`, which CVAT imports."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from dataflow.records import Categories, ImageRecord, Objects
from dataflow.schema import NO_TRACK
from tfds_builders.formats.cvat import ANNOTATIONS, IMAGES, split_of_subset
from tfds_builders.losses import LossCount, as_read, track_ids
from tfds_builders.sources.outlines import SAME_BOX_PX, own_areas, pixels_to_runs, runs_to_pixels, single_polygon
from tfds_builders.writing import ImageNames, ImageNumbers, legal_names, without_controls, write_image

_SUBSETS = {"train": "Train", "validation": "Validation", "test": "Test"}
_LARGEST_ID = 10**9
_ATTRIBUTES = {
    "is_crowd": ("checkbox", "false", "false"),
    "truncated": ("checkbox", "false", "false"),
    "track_id": ("number", "-1", f"-1;{2**63 - 1};1"),
}


class CvatWriter:
    """Writes one `annotations.xml`; its `<image>`s go to a second file until their number is known.

    A mask of one part is a `<polygon>`, run lengths are a `<mask>`, all else is a `<box>`. Regions to ignore, truncated
    objects and tracks are attributes of their shapes, which `<meta>` declares.
    """

    def __init__(self, out: Path, categories: Categories, splits: tuple[str, ...]) -> None:
        del splits
        self.losses: Counter[str] = Counter()
        self._out, self._labels = out, legal_names(categories.names, without_controls)
        self._names = ImageNames()
        self._numbers = ImageNumbers(first=0, limit=_LARGEST_ID)
        self._count = LossCount(self.losses, categories, self._labels)
        self._part = (out / f".{ANNOTATIONS}").open("w", encoding="utf-8", newline="\n")
        self._used: set[str] = set()

    def add(self, record: ImageRecord, split: str) -> None:
        """Write one image and its shapes."""
        number = self._numbers.number(record.source_id)
        name = self._names.name(record.image_id, record)
        write_image(self._out / IMAGES, name, record)
        subset = _SUBSETS.get(split, split)
        self._part.write(
            f'  <image id="{number}" name={_quote(name)} subset={_quote(subset)}'
            f' width="{record.width}" height="{record.height}">\n'
        )
        objects = record.objects
        shapes = [_shape(mask, box) for mask, box in zip(objects.segmentations, objects.boxes.tolist(), strict=True)]
        for index, (tag, geometry) in enumerate(shapes):
            self._part.writelines(f"    {line}\n" for line in self._element(objects, index, tag, geometry))
        self._part.write("  </image>\n")
        masks = tuple(
            "" if tag == "box" else mask for mask, (tag, _) in zip(objects.segmentations, shapes, strict=True)
        )
        areas = own_areas(objects.boxes, masks, record.size)
        tracks = np.maximum(track_ids(objects), NO_TRACK)
        held = replace(objects, areas=areas, segmentations=masks, track_ids=tracks, changes=None)
        self._count.add(record, as_read(record, name, held, str(number)), split, split_of_subset(subset))

    def close(self) -> None:
        """Write what describes the whole, and the images behind it."""
        self._part.close()
        partial = self._out / f".{ANNOTATIONS}.whole"
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
            file.writelines(f"  {line}\n" for line in self._meta())
            with Path(self._part.name).open(encoding="utf-8", newline="") as part:
                shutil.copyfileobj(part, file)
            file.write("</annotations>\n")
        Path(self._part.name).unlink()
        partial.replace(self._out / ANNOTATIONS)
        self._count.close(Categories(self._labels))

    def _element(self, objects: Objects, index: int, tag: str, geometry: str) -> Iterator[str]:
        label = _quote(self._labels[int(objects.category_ids[index])])
        marks = {"is_crowd": "true"} if objects.is_crowd[index] else {}
        if objects.is_truncated[index]:
            marks["truncated"] = "true"
        if objects.track_ids is not None and objects.track_ids[index] >= 0:
            marks["track_id"] = str(objects.track_ids[index])
        self._used |= marks.keys()
        yield f'<{tag} label={label} source="manual" occluded="0" {geometry} z_order="0">'
        for name, value in marks.items():
            yield f'  <attribute name="{name}">{value}</attribute>'
        yield f"</{tag}>"

    def _meta(self) -> Iterator[str]:
        yield "<meta>"
        yield f"  <task><name>Shardbox</name><size>{len(self._numbers)}</size><mode>annotation</mode><labels>"
        for label in self._labels:
            yield f"    <label><name>{escape(label)}</name><attributes>"
            for name, (kind, default, values) in _ATTRIBUTES.items():
                if name in self._used:
                    yield (
                        f"      <attribute><name>{name}</name><mutable>False</mutable><input_type>{kind}</input_type>"
                        f"<default_value>{default}</default_value><values>{values}</values></attribute>"
                    )
            yield "    </attributes></label>"
        yield "  </labels></task>"
        yield "</meta>"


def _quote(text: str) -> str:
    return quoteattr(text, {"\t": "&#9;", "\n": "&#10;", "\r": "&#13;"})


def _shape(mask: str, box: Sequence[float]) -> tuple[str, str]:
    """The tag and attributes of an object: of its mask where CVAT has such a shape, else of its box."""
    return _polygon(mask, box) or _mask(mask, box) or ("box", _box(box))


def _box(box: Sequence[float]) -> str:
    # A float32 has seven digits.
    pairs = zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True)
    return " ".join(f'{name}="{number:.7g}"' for name, number in pairs)


def _polygon(mask: str, box: Sequence[float]) -> tuple[str, str] | None:
    points = single_polygon(mask, box)
    if points is None:
        return None
    text = ";".join(f"{float(x)!r},{float(y)!r}" for x, y in points)
    return "polygon", f'points="{text}"'


def _mask(mask: str, box: Sequence[float]) -> tuple[str, str] | None:
    """Run lengths as CVAT has them, along the rows of the box; None where that is not their box, or there are none."""
    pixels = runs_to_pixels(mask)
    if pixels is None or not pixels.any():
        return None
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    if np.abs(np.subtract((left, top, right, bottom), box)).max() > SAME_BOX_PX:
        return None
    runs = pixels_to_runs(pixels[top:bottom, left:right].reshape(-1))
    place = f'left="{left}" top="{top}" width="{right - left}" height="{bottom - top}"'
    text = ", ".join(map(str, runs))
    return "mask", f'rle="{text}" {place}'
