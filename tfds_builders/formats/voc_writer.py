"""Writing Pascal VOC: a directory as `VOCdevkit/VOC2007` is."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

from dataflow.boxes import xyxy_to_voc
from dataflow.records import Categories, ImageRecord, Objects
from tfds_builders.formats.voc import ANNOTATIONS, CORNERS, IMAGES, LABEL_MAP, SETS, SPLITS, xml_file
from tfds_builders.losses import LossCount, as_read
from tfds_builders.writing import ImageNames, legal_names, without_controls, write_image

# Coordinates this near to a whole number are one: what float32 makes of shares of the image.
_WHOLE_PX = 1e-3


class VocWriter:
    """Writes a VOC directory: `JPEGImages/`, `Annotations/` and `ImageSets/Main/{train,val,test,trainval}.txt`.

    Boxes are whole numbers where their edges are whole pixels, and have decimals elsewhere. Images keep their own
    encoding and suffix; some readers of VOC know .jpg only.
    """

    def __init__(self, out: Path, categories: Categories, splits: tuple[str, ...]) -> None:
        self.losses: Counter[str] = Counter()
        self._out = out
        self._classes = legal_names(categories.names, _legal_class)
        self._sets: dict[str, list[str]] = {_set_name(split): [] for split in splits}
        self._names = ImageNames()
        self._count = LossCount(self.losses, categories, self._classes)
        for folder in (ANNOTATIONS, IMAGES[0], SETS):
            (out / folder).mkdir(parents=True, exist_ok=True)

    def add(self, record: ImageRecord, split: str) -> None:
        """Write one image and its XML file, and note it for its image set."""
        name = self._names.name(record.image_id, record)
        write_image(self._out / IMAGES[0], name, record)
        stem = PurePosixPath(name).with_suffix("").as_posix()
        path = self._out / xml_file(stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._xml(record, name), encoding="utf-8")
        self._sets[_set_name(split)].append(stem)
        objects = record.objects
        held = Objects(
            objects.boxes, objects.category_ids, is_crowd=objects.is_crowd, is_truncated=objects.is_truncated
        )
        self._count.add(record, as_read(record, name, held), split, SPLITS.get(_set_name(split)))

    def close(self) -> None:
        """Write the image sets and the list of classes."""
        rows = "".join(f"{name}:::\n" for name in self._classes)
        (self._out / LABEL_MAP).write_text(f"# label:color_rgb:parts:actions\n{rows}", encoding="utf-8")
        sets = dict(self._sets)
        if "train" in sets or "val" in sets:
            sets.setdefault("trainval", sorted(sets.get("train", []) + sets.get("val", [])))
        for name, stems in sets.items():
            text = "".join(f"{stem}\n" for stem in stems)
            (self._out / SETS / f"{name}.txt").write_text(text, encoding="utf-8")
        self._count.close(Categories(self._classes))

    def _xml(self, record: ImageRecord, name: str) -> str:
        height, width = record.size
        lines = [
            "<annotation>",
            f"  <folder>{IMAGES[0]}</folder>",
            f"  <filename>{escape(name)}</filename>",
            "  <source><database>Unknown</database></source>",
            f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
            "  <segmented>0</segmented>",
            *self._objects(record),
            "</annotation>",
        ]
        return "".join(f"{line}\n" for line in lines)

    def _objects(self, record: ImageRecord) -> Iterator[str]:
        objects = record.objects
        for i, corners in enumerate(xyxy_to_voc(objects.boxes).tolist()):
            box = "".join(f"<{key}>{_number(value)}</{key}>" for key, value in zip(CORNERS, corners, strict=True))
            yield (
                f"  <object><name>{escape(self._classes[objects.category_ids[i]])}</name>"
                f"<pose>Unspecified</pose><truncated>{int(objects.is_truncated[i])}</truncated>"
                f"<difficult>{int(objects.is_crowd[i])}</difficult><bndbox>{box}</bndbox></object>"
            )


def _set_name(split: str) -> str:
    return next((name for name, known in SPLITS.items() if known == split), split)


def _legal_class(name: str) -> str:
    """What the list of classes, where "#" begins a comment, and XML can hold."""
    return without_controls(f"_{name}" if name.startswith("#") else name)


def _number(value: float) -> str:
    return str(round(value)) if abs(value - round(value)) < _WHOLE_PX else f"{value:.3f}"
