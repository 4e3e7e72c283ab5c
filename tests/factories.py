"""Short factories for tests: photographs, one logical dataset written in every source format, prepared datasets."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds
from PIL import Image

from dataflow.boxes import tfds_to_xyxy
from dataflow.findings import Code, Finding, Policy
from dataflow.images import decode_rgb
from dataflow.prepared import PreparedDataset
from dataflow.schema import build_features
from dataflow.shards import Outcome
from dataflow.splits import Splits
from tfds_builders.builders import RefusedError, SourceBuilder
from tfds_builders.ingest_options import IngestOptions
from tfds_builders.planning import PlanOptions
from tfds_builders.running import Running
from tfds_builders.sources.source import Checks, ExifPolicy, Loader, Source

ORIENTATION = 0x0112
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "WEBP": ".webp", "TIFF": ".tif", "GIF": ".gif"}


def pixels(height: int = 48, width: int = 64, seed: int = 0) -> npt.NDArray[np.uint8]:
    """RGB pixels (H, W, 3) with slopes, flat rectangles and noise: no two rows, columns or seeds are alike."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, height)[:, None, None] + np.linspace(0, 40, width)[None, :, None] * (1, 2, -1)
    for _ in range(3):
        y, x = int(rng.integers(height)), int(rng.integers(width))
        ramp[y : y + max(1, height // 3), x : x + max(1, width // 3)] = rng.integers(0, 256, 3)
    noisy = ramp + rng.integers(-20, 20, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def photograph(
    height: int = 48,
    width: int = 64,
    *,
    seed: int = 0,
    mode: str = "RGB",
    encoding: str = "JPEG",
    orientation: int | None = None,
    **save: Any,
) -> bytes:
    """An encoded image whose *stored* pixels are height x width; `save` goes to Pillow's encoder."""
    rgb = pixels(height, width, seed)
    if mode == "I;16":
        image = Image.fromarray(rgb[:, :, 0].astype(np.uint16) * 257)
    elif mode in ("LA", "RGBA"):
        image = Image.fromarray(rgb).convert(mode)
        image.putalpha(Image.fromarray(255 - rgb[:, :, 1]))
    else:
        image = Image.fromarray(rgb).convert(mode)
    if orientation is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        save["exif"] = exif
    buffer = io.BytesIO()
    image.save(buffer, encoding, **save)
    return buffer.getvalue()


def damaged_in_the_middle(data: bytes) -> bytes:
    """A JPEG of which some of the entropy-coded pixels are missing; the end is there."""
    middle = len(data) * 2 // 3
    return data[:middle] + data[middle + 500 :]


@dataclass(frozen=True)
class Thing:
    """An object: class by position in the names, box x0 y0 x1 y1 px, track id, and whether it is to be ignored."""

    category: int
    box: tuple[float, float, float, float]
    track: int = 1
    ignore: bool = False


@dataclass(frozen=True)
class Picture:
    """An image of the logical dataset. `name` is "folder/000001" so that every format can hold it."""

    name: str
    height: int = 48
    width: int = 64
    things: tuple[Thing, ...] = ()
    orientation: int | None = None
    """The pixels are stored so that they are height x width when this EXIF orientation is applied."""

    def encoded(self) -> bytes:
        """The JPEG file."""
        height, width = (self.width, self.height) if (self.orientation or 1) >= 5 else (self.height, self.width)
        seed = sum(self.name.encode())
        return photograph(height, width, seed=seed, orientation=self.orientation, quality=90)


def logical_dataset(n: int = 6, *, classes: int = 1, crowd: bool = False, seed: int = 0) -> tuple[Picture, ...]:
    """Pictures of several sizes and orientations with random boxes: some touch borders, one picture is empty."""
    rng = np.random.default_rng(seed)
    pictures = []
    for i in range(n):
        height, width = int(rng.integers(20, 90)), int(rng.integers(20, 90))
        things = []
        for track in range(0 if i == 1 else 1 + i % 4):
            x0, y0 = rng.uniform(0, width - 6), rng.uniform(0, height - 6)
            x1, y1 = x0 + rng.uniform(1, width - x0), y0 + rng.uniform(1, height - y0)
            if track == 1:
                x0, x1 = 0.0, float(width)
            box = (x0, y0, min(x1, width), min(y1, height))
            things.append(Thing(int(rng.integers(classes)), box, track + 1, ignore=crowd and track == 2))
        pictures.append(
            Picture(f"scene/{i + 1:06d}", height, width, tuple(things), orientation=(None, 6, 3, None)[i % 4])
        )
    return tuple(pictures)


def write(path: Path, content: str | bytes) -> Path:
    """Write a file, making its folders; text is UTF-8 and its line ends are kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def yolo_line(thing: Thing, height: int, width: int) -> str:
    """`class cx cy w h`, relative."""
    x0, y0, x1, y1 = thing.box
    numbers = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height
    return f"{thing.category} " + " ".join(f"{number:.9f}" for number in numbers)


def write_yolo(root: Path, pictures: Sequence[Picture], names: Sequence[str] = ("thing",)) -> Path:
    """`images/`, `labels/` and `classes.txt`."""
    for picture in pictures:
        write(root / "images" / f"{picture.name}.jpg", picture.encoded())
        lines = [yolo_line(thing, picture.height, picture.width) for thing in picture.things]
        write(root / "labels" / f"{picture.name}.txt", "".join(f"{line}\n" for line in lines))
    write(root / "classes.txt", "".join(f"{name}\n" for name in names))
    return root


def coco_json(pictures: Sequence[Picture], names: Sequence[str] = ("thing",)) -> dict[str, Any]:
    """COCO instances with category ids 3, 13, 23, ... and image ids 101, 102, ..."""
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures, 101):
        for thing in picture.things:
            x0, y0, x1, y1 = thing.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 10 * thing.category + 3,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": int(thing.ignore),
                }
            )
    return {
        "images": [
            {"id": number, "file_name": f"{picture.name}.jpg", "height": picture.height, "width": picture.width}
            for number, picture in enumerate(pictures, 101)
        ],
        "categories": [{"id": 10 * i + 3, "name": name} for i, name in enumerate(names)],
        "annotations": annotations,
    }


def write_coco(
    root: Path,
    pictures: Sequence[Picture],
    names: Sequence[str] = ("thing",),
    content: Mapping[str, Any] | None = None,
) -> Path:
    """`images/` and `annotations/instances.json`, which holds `content` where it is given."""
    for picture in pictures:
        write(root / "images" / f"{picture.name}.jpg", picture.encoded())
    text = json.dumps(coco_json(pictures, names) if content is None else content, ensure_ascii=False)
    write(root / "annotations" / "instances.json", text)
    return root


def voc_xml(picture: Picture, names: Sequence[str] = ("thing",)) -> str:
    """The annotation of a picture: 1-based inclusive pixels, `difficult` for what is to be ignored."""
    objects = "".join(
        f"<object><name>{escape(names[thing.category])}</name><difficult>{int(thing.ignore)}</difficult>"
        f"<bndbox><xmin>{thing.box[0] + 1:.6f}</xmin><ymin>{thing.box[1] + 1:.6f}</ymin>"
        f"<xmax>{thing.box[2]:.6f}</xmax><ymax>{thing.box[3]:.6f}</ymax></bndbox></object>"
        for thing in picture.things
    )
    size = f"<size><width>{picture.width}</width><height>{picture.height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{objects}</annotation>"


def write_voc(root: Path, pictures: Sequence[Picture], names: Sequence[str] = ("thing",)) -> Path:
    """`JPEGImages/` and `Annotations/`."""
    for picture in pictures:
        write(root / "JPEGImages" / f"{picture.name}.jpg", picture.encoded())
        write(root / "Annotations" / f"{picture.name}.xml", voc_xml(picture, names))
    return root


def mot_row(frame: int, thing: Thing) -> str:
    """`frame, track, left, top, width, height, flag, ...`, whose first pixel is 1."""
    x0, y0, x1, y1 = thing.box
    return (
        f"{frame},{thing.track},{x0 + 1:.6f},{y0 + 1:.6f},{x1 - x0:.6f},{y1 - y0:.6f},{int(not thing.ignore)},-1,-1,-1"
    )


def write_mot(root: Path, pictures: Sequence[Picture]) -> Path:
    """A sequence directory for each folder of the pictures' names."""
    rows: dict[str, list[str]] = {}
    for picture in pictures:
        sequence, _, number = picture.name.rpartition("/")
        write(root / sequence / "img1" / f"{number}.jpg", picture.encoded())
        rows.setdefault(sequence, []).extend(mot_row(int(number), thing) for thing in picture.things)
    for sequence, lines in rows.items():
        write(root / sequence / "gt" / "gt.txt", "".join(f"{line}\n" for line in lines))
    return root


def prepare(
    source: Source,
    out: Path,
    name: str = "dataset",
    *,
    splits: Splits | None = None,
    policy: Policy = "quarantine",
    update: bool = False,
    running: Running = Running(),
    plan: PlanOptions = PlanOptions(),
    **options: Any,
) -> PreparedDataset:
    """The prepared dataset of a source."""
    chosen = IngestOptions(replace(plan, splits=splits), policy, **options)
    return SourceBuilder(source, name=name, out=out, options=chosen, running=running, update=update).prepare()


def assert_same_image(theirs: npt.NDArray[np.uint8], ours: bytes) -> None:
    """TFDS decodes JPEG by a fast inverse DCT, which differs from the accurate one by a few levels."""
    pixels = decode_rgb(ours, orientation=1)
    assert theirs.shape == pixels.shape
    change = np.abs(theirs.astype(int) - pixels)
    assert change.max() <= 25 and change.mean() < 1.5


def for_tfds(example: Mapping[str, Any]) -> dict[str, Any]:
    """An example as TFDS's features encode it: boxes of their own class, and numbers of Python."""
    columns = {name: np.asarray(values).tolist() for name, values in example["objects"].items()}
    columns["bbox"] = [tfds.features.BBox(*box) for box in columns["bbox"]]
    return {**example, "objects": columns}


@dataclass(frozen=True)
class Loaded:
    """What a source makes of all its images, by id, without a Beam job."""

    outcomes: Mapping[str, Outcome]
    findings: tuple[Finding, ...]
    """Those of the source as a whole, then those of its images."""

    def places(self) -> list[tuple[Code, str, int | str | None]]:
        """(code, file, line) of every finding."""
        return [(finding.code, finding.file, finding.line) for finding in self.findings]

    def boxes(self, image_id: str) -> npt.NDArray[np.float32]:
        """Boxes (N, 4) xyxy px of a prepared image."""
        example = self.example(image_id)
        return tfds_to_xyxy(example["objects"]["bbox"], (example["image/height"], example["image/width"]))

    def column(self, image_id: str, name: str) -> list[Any]:
        """One feature of the objects of a prepared image."""
        return list(np.asarray(self.example(image_id)["objects"][name]).tolist())

    def example(self, image_id: str) -> dict[str, Any]:
        """The example of an image, which must not be quarantined."""
        example = self.outcomes[image_id].example
        assert example is not None, self.outcomes[image_id].findings
        return example

    @property
    def quarantined(self) -> list[str]:
        """Ids of the images that were kept out, sorted."""
        return sorted(image_id for image_id, outcome in self.outcomes.items() if outcome.example is None)


def load(source: Source, repair: bool = False, exif: ExifPolicy = "apply") -> Loaded:
    """Scan a source and load every image, as a job would."""
    listing = source.scan()
    loader = Loader(source, Checks(repair=repair, exif=exif))
    outcomes = {outcome.image_id: outcome for outcome in loader([r.to_line() for r in listing.references])}
    features = build_features(source.categories, source.kind)
    for outcome in outcomes.values():
        if outcome.example is not None:
            features.encode_example(for_tfds(outcome.example))  # TFDS checks it.
    assert len(outcomes) == len(listing.references), "ids are taken twice: use a builder to see what becomes of them"
    found = [finding for outcome in outcomes.values() for finding in outcome.findings]
    return Loaded(outcomes, (*listing.findings, *found))


def assert_balanced(loaded: Loaded, count: int) -> None:
    """Every image is prepared, or kept out with an error that says why."""
    assert len(loaded.outcomes) == count
    for outcome in loaded.outcomes.values():
        errors = [finding for finding in outcome.findings if finding.severity == "error" and not finding.repaired]
        assert (outcome.example is None) == bool(errors)
    for finding in loaded.findings:
        assert finding.remedy and str(finding).count("\n") == 0


def assert_none_lost(source: Source, root: Path, out: Path, policy: Policy, *, prepared: int, total: int) -> None:
    """Under a policy, so many of all images of the source at `root` are prepared, and its files stay as they are."""
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    try:
        dataset = prepare(source, out, policy=policy)
    except RefusedError as error:
        assert policy == "fail"
        audit = error.audit.to_json()
    else:
        assert policy != "fail"
        audit = json.loads((dataset.path / "audit.json").read_text())
        assert audit["images_prepared"] == prepared
    assert audit["images_in"] == audit["images_prepared"] + audit["images_quarantined"] == total
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before, "never changed"
