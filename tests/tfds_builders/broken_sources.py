"""Broken sources, and what has to be found in them: one image for each kind of defect, among images that are right."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataflow.findings import Code
from tests.factories import Picture, Thing, coco_json, photograph, write, write_coco, write_mot
from tfds_builders.formats.coco import open_coco
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.source import Source

BOX = (24.0, 12.0, 40.0, 36.0)
GOOD_LINE = "0 0.5 0.5 0.25 0.5"


@dataclass(frozen=True)
class Defect:
    """What has to be found: code, file and line; whose image it is ("" for none); and whether repairing helps."""

    code: Code
    file: str
    line: int | str | None
    image_id: str = ""
    repairable: bool = False


@dataclass(frozen=True)
class Broken:
    """A source, all its images, and its defects."""

    root: Path
    open: Callable[[], Source]
    image_ids: tuple[str, ...]
    defects: tuple[Defect, ...]

    def quarantined(self, repair: bool) -> list[str]:
        """Ids of the images that must be kept out."""
        refused = {d.image_id for d in self.defects if d.image_id and not (repair and d.repairable)}
        return sorted(image_id for image_id in self.image_ids if image_id in refused)


# Kind of defect: the second line of a label file, and its code.
BAD_LINES = {
    "too few fields": ("0 0.5 0.5 0.25", Code.LABEL_MALFORMED),
    "a confidence": ("0 0.5 0.5 0.25 0.5 0.9", Code.LABEL_MALFORMED),
    "a name for the class": ("cat 0.5 0.5 0.25 0.5", Code.LABEL_MALFORMED),
    "decimal commas": ("0 0,5 0,5 0,25 0,5", Code.LABEL_MALFORMED),
    "class too high": ("7 0.5 0.5 0.25 0.5", Code.CLASS_UNKNOWN),
    "class below 0": ("-1 0.5 0.5 0.25 0.5", Code.CLASS_UNKNOWN),
    "not a number": ("0 nan 0.5 0.25 0.5", Code.BOX_NOT_FINITE),
    "infinite": ("0 0.5 inf 0.25 0.5", Code.BOX_NOT_FINITE),
    "no width": ("0 0.5 0.5 0 0.5", Code.BOX_EMPTY),
    "reversed": ("0 0.5 0.5 -0.25 0.5", Code.BOX_EMPTY),
    "too far right": ("0 0.95 0.5 0.25 0.5", Code.BOX_OUTSIDE),
    "pixels": ("0 32 24 16 24", Code.BOX_OUTSIDE),
}
# Kind of defect: the bytes of an image file, whose suffix is .jpg.
BAD_IMAGES = {
    "empty image": b"",
    "text": b"this is no photograph",
    "cut JPEG": photograph(200, 300)[:5000],
    "cut PNG": photograph(200, 300, encoding="PNG")[:5000],
    "WebP named jpg": photograph(encoding="WEBP"),
    "TIFF named jpg": photograph(encoding="TIFF"),
}


def broken_yolo(folder: Path) -> Broken:
    """A YOLO source with every defect that a label or an image file can have."""
    root, defects, names = folder / "yolo", [], ["good", "good too"]
    for kind, (line, code) in BAD_LINES.items():
        write(root / "images" / f"{kind}.jpg", photograph())
        write(root / "labels" / f"{kind}.txt", f"{GOOD_LINE}\n{line}\n{GOOD_LINE}\n")
        defects.append(Defect(code, f"labels/{kind}.txt", 2, kind, repairable=True))
    for kind, data in BAD_IMAGES.items():
        write(root / "images" / f"{kind}.jpg", data)
        write(root / "labels" / f"{kind}.txt", GOOD_LINE)
        defects.append(Defect(Code.IMAGE_UNREADABLE, f"images/{kind}.jpg", None, kind))
    for name in names:
        write(root / "images" / f"{name}.jpg", photograph())
        write(root / "labels" / f"{name}.txt", GOOD_LINE)
    write(root / "classes.txt", "cat\n")

    write(root / "images" / "no label.jpg", photograph())
    defects.append(Defect(Code.LABEL_MISSING, "labels/no label.txt", None, "no label", repairable=True))
    write(root / "images" / "label is a folder.jpg", photograph())
    (root / "labels" / "label is a folder.txt").mkdir()
    defects.append(Defect(Code.LABEL_MALFORMED, "labels/label is a folder.txt", None, "label is a folder"))
    write(root / "labels" / "no image.txt", GOOD_LINE)
    defects.append(Defect(Code.LABEL_WITHOUT_IMAGE, "labels/no image.txt", None))
    secret = write(folder / "secret.jpg", photograph())
    for kind, target, code in (("out", secret, Code.IMAGE_OUTSIDE_ROOT), ("gone", "no.jpg", Code.IMAGE_MISSING)):
        (root / "images" / f"link {kind}.jpg").symlink_to(target)
        write(root / "labels" / f"link {kind}.txt", GOOD_LINE)
        defects.append(Defect(code, f"images/link {kind}.jpg", None, f"link {kind}"))
    names += sorted({defect.image_id for defect in defects} - {""})
    return Broken(root, lambda: open_yolo(root), tuple(names), tuple(defects))


BAD_ANNOTATIONS: dict[str, tuple[dict[str, Any], Code, str]] = {
    "unknown category": ({"category_id": 99}, Code.CLASS_UNKNOWN, "category_id"),
    "no box": ({"bbox": None}, Code.LABEL_MALFORMED, "bbox"),
    "three numbers": ({"bbox": [1, 2, 3]}, Code.LABEL_MALFORMED, "bbox"),
    "words": ({"bbox": ["a", "b", "c", "d"]}, Code.LABEL_MALFORMED, "bbox"),
    "not a number": ({"bbox": [1, 2, float("nan"), 4]}, Code.BOX_NOT_FINITE, "bbox"),
    "too large": ({"bbox": [1, 2, 1e300, 4]}, Code.BOX_NOT_FINITE, "bbox"),
    "no height": ({"bbox": [1, 2, 3, 0]}, Code.BOX_EMPTY, "bbox"),
    "corners for sides": ({"bbox": [50, 20, 60, 30]}, Code.BOX_OUTSIDE, "bbox"),
    "strange crowd": ({"iscrowd": "maybe"}, Code.LABEL_MALFORMED, "iscrowd"),
    "strange area": ({"area": -5}, Code.LABEL_MALFORMED, "area"),
}


def broken_coco(folder: Path) -> Broken:
    """A COCO source with every defect that an annotation, an image entry or a file name can have."""
    root, defects = folder / "coco", []
    entries = ["size", "no size", "gone", "out", "nameless", "twice 1", "twice 2"]
    names = ["good", *BAD_ANNOTATIONS, *entries]
    pictures = [Picture(name, things=(Thing(0, BOX),)) for name in names]
    content = coco_json(pictures)
    at = {name: number for number, name in enumerate(names)}
    for kind, (change, code, key) in BAD_ANNOTATIONS.items():
        content["annotations"][at[kind]] |= change
        defects.append(Defect(code, "instances.json", f"/annotations/{at[kind]}/{key}", kind, repairable=True))
    images = content["images"]

    def entry(name: str, code: Code, key: str = "", image_id: str = "", repairable: bool = False) -> None:
        pointer = f"/images/{at[name]}{key}"
        defects.append(Defect(code, "instances.json", pointer, image_id or name, repairable))

    images[at["size"]]["width"] = 65
    entry("size", Code.SIZE_MISMATCH)
    del images[at["no size"]]["height"]
    entry("no size", Code.LABEL_MALFORMED, repairable=True)
    images[at["gone"]]["file_name"] = "not here.jpg"
    defects.append(Defect(Code.IMAGE_MISSING, "not here.jpg", None, "not here"))
    images[at["out"]]["file_name"] = "../../secret.jpg"
    defects.append(Defect(Code.IMAGE_OUTSIDE_ROOT, "../../secret.jpg", None, "../../secret"))
    pointer = f"/images/{at['nameless']}"
    images[at["nameless"]]["file_name"] = None
    entry("nameless", Code.LABEL_MALFORMED, "/file_name", pointer)
    images[at["twice 2"]]["id"] = images[at["twice 1"]]["id"]
    for name in ("twice 1", "twice 2"):
        entry(name, Code.DUPLICATE_ID, "/id")
    orphan = f"/annotations/{at['twice 2']}/image_id"
    defects.append(Defect(Code.LABEL_WITHOUT_IMAGE, "instances.json", orphan))
    images.append({"id": 7, "file_name": "good.jpg", "height": 48, "width": 64})
    defects.append(Defect(Code.DUPLICATE_ID, "good.jpg", None))

    write_coco(root, pictures, content=content)
    write(folder / "secret.jpg", photograph())
    renamed = {"gone": "not here", "out": "../../secret", "nameless": pointer}
    ids = tuple(renamed.get(name, name) for name in names)
    return Broken(root, lambda: open_coco(root), ids, tuple(defects))


BAD_ROWS = {
    2: ("2,1", Code.LABEL_MALFORMED),
    3: ("3,x,1,1,9,9,1", Code.LABEL_MALFORMED),
    4: ("4,1,1,1,9,9,1", Code.LABEL_MALFORMED),  # The track of the good row.
    5: ("5,2,1,1,0,9,1", Code.BOX_EMPTY),
    6: ("6,2,nan,1,9,9,1", Code.BOX_NOT_FINITE),
    7: ("7,1.5,1,1,9,9,1", Code.LABEL_MALFORMED),
}


def broken_mot(folder: Path) -> Broken:
    """A MOT source with every defect that a row or a frame can have. Line n of `gt.txt` is the good row of frame n."""
    root, defects = folder / "mot", []
    pictures = [Picture(f"walk/{number:06d}", things=(Thing(0, BOX, 1),)) for number in range(1, 10)]
    write_mot(root, pictures)
    rows = [f"{number},1,25,13,16,24,1" for number in range(1, 10)]
    for number, (row, code) in BAD_ROWS.items():
        rows.append(row)
        defects.append(Defect(code, "walk/gt/gt.txt", len(rows), f"walk/{number:06d}", repairable=True))
    rows += ["77,1,1,1,9,9,1", "frame,id,left,top,width,height"]
    defects.append(Defect(Code.LABEL_WITHOUT_IMAGE, "walk/gt/gt.txt", len(rows) - 1))
    defects.append(Defect(Code.LABEL_MALFORMED, "walk/gt/gt.txt", len(rows)))
    write(root / "walk" / "gt" / "gt.txt", "\r\n".join(rows))
    write(root / "walk" / "img1" / "000008.jpg", b"no photograph")
    defects.append(Defect(Code.IMAGE_UNREADABLE, "walk/img1/000008.jpg", None, "walk/000008"))
    write(root / "walk" / "img1" / "title.jpg", photograph())
    defects.append(Defect(Code.LABEL_MALFORMED, "walk/img1/title.jpg", None, "walk/title"))
    ids = (*(picture.name for picture in pictures), "walk/title")
    return Broken(root, lambda: open_mot(root), ids, tuple(defects))


MAKE: dict[str, Callable[[Path], Broken]] = {"yolo": broken_yolo, "coco": broken_coco, "mot": broken_mot}


def sequence(root: Path, rows: str | bytes, frames: int = 3, name: str = "walk", folder: str = "img1") -> Path:
    """A MOT sequence with frames 1 to `frames` of 64 x 48 px."""
    for number in range(1, frames + 1):
        write(root / name / folder / f"{number:06d}.jpg", photograph(seed=number))
    write(root / name / "gt" / "gt.txt", rows)
    return root


def contents(root: Path) -> dict[str, bytes | str]:
    """All that is below a folder, by path: bytes of files, targets of links."""
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found[str(path)] = str(path.readlink())
        elif path.is_file():
            found[str(path)] = path.read_bytes()
    return found


def load_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
