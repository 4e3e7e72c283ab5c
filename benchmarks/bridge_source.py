"""The photographs of the bridge's benchmark, and the forms in which its contenders read them."""

import io
import json
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Boxes = np.ndarray[Any, np.dtype[np.float32]]

# (width, height, share): about what COCO's photographs have.
SHAPES = (
    (640, 480, 36),
    (640, 427, 14),
    (480, 640, 11),
    (427, 640, 8),
    (640, 426, 8),
    (500, 375, 6),
    (640, 360, 4),
    (375, 500, 3),
    (612, 612, 3),
    (640, 512, 3),
    (500, 333, 2),
    (640, 640, 2),
)
LARGE = (4000, 3000)
OBJECTS = 7
TARS = 8
THUMBNAIL = 8
LEAST = 32  # Of fewer, two workers do not each have a whole batch.


@dataclass(frozen=True)
class Case:
    """What is measured: which photographs, the edges that they are resized to, and how many count at least."""

    name: str
    folder: str
    shortest_edge: int
    longest_edge: int
    least: int


CASES = {
    case.name: case
    for case in (
        Case("480", "photographs", 480, 640, 80),
        Case("800", "photographs", 800, 1333, 80),
        Case("12mp", "large", 800, 1333, 40),
    )
}


@dataclass(frozen=True, eq=False)
class Photograph:
    """A JPEG file and its boxes (N, 4) float32 xyxy px."""

    file: Path
    height: int
    width: int
    boxes: Boxes


def read_photographs(root: Path) -> list[Photograph]:
    """What `make` left in `root`."""
    listed = json.loads((root / "photographs.json").read_text())
    return [
        Photograph(root / "yolo/images/train" / name, height, width, np.array(boxes, np.float32).reshape(-1, 4))
        for name, height, width, boxes in listed
    ]


def make(root: Path, images: int, large: int, source: Path | None, dataset: Path | None) -> None:
    """Everything that any contender reads, below `root`: of a folder of JPEGs, a prepared dataset, or made here.

    Raises:
        UsageError: too few photographs.
    """
    if dataset is not None:
        photographs = _prepared_photographs(dataset)
    elif source is not None:
        photographs = _found_photographs(source)
    else:
        photographs = _made_photographs(images)
    _lay_out(root / "photographs", photographs, everything=True)
    if large:
        _lay_out(root / "large", _large_photographs(large), everything=False)


def _made_photographs(count: int) -> Iterator[tuple[bytes, Boxes | None]]:
    """Windows of a few photographs, each with noise of its own, in the shapes of COCO's, of 50 to 150 kB."""
    from trainers.commands.scenes import load_photographs

    rng = np.random.default_rng(0)
    pictures = [p for p in load_photographs() if p.shape[0] > 300 and p.shape[1] > 400]
    shares = np.array([share for *_, share in SHAPES], float)
    for index, shape in enumerate(rng.choice(len(SHAPES), count, p=shares / shares.sum())):
        width, height, _ = SHAPES[shape]
        picture = pictures[index % len(pictures)]
        scale = rng.uniform(0.6, 1.0) * min(picture.shape[0] / height, picture.shape[1] / width)
        window = int(height * scale), int(width * scale)
        top, left = (rng.integers(0, p - w + 1) for p, w in zip(picture.shape, window, strict=False))
        cut = picture[top : top + window[0], left : left + window[1]]
        yield _with_noise(cut, (width, height), rng, spread=3.5), None


def _large_photographs(count: int) -> Iterator[tuple[bytes, Boxes | None]]:
    """Photographs enlarged to 12 megapixels."""
    from trainers.commands.scenes import load_photographs

    rng = np.random.default_rng(1)
    pictures = [p for p in load_photographs() if p.shape[0] > 300 and p.shape[1] > 400]
    for index in range(count):
        size = LARGE if index % 4 else LARGE[::-1]
        yield _with_noise(pictures[index % len(pictures)], size, rng, spread=5.0), None


def _with_noise(picture: Any, size: tuple[int, int], rng: np.random.Generator, spread: float) -> bytes:
    """A photograph resized to `size` (width, height), noisy, as JPEG with 4:2:0 subsampling as cameras have it."""
    import cv2

    way = cv2.INTER_AREA if size[0] < picture.shape[1] else cv2.INTER_CUBIC
    resized = cv2.resize(picture, size, interpolation=way)
    noise = np.empty((*resized.shape[:2], 3), np.int16)
    cv2.setRNGSeed(int(rng.integers(1 << 31)))
    cv2.randn(noise, (0, 0, 0), (spread, spread, spread))
    noisy = np.clip(resized + noise, 0, 255).astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(90, 96))]
    return cv2.imencode(".jpg", cv2.cvtColor(noisy, cv2.COLOR_RGB2BGR), quality)[1].tobytes()


def _found_photographs(source: Path) -> Iterator[tuple[bytes, Boxes | None]]:
    for path in sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")):
        yield path.read_bytes(), None


def _prepared_photographs(path: Path) -> Iterator[tuple[bytes, Boxes | None]]:
    from dataflow.prepared import PreparedDataset

    dataset = PreparedDataset(path)
    for split in dataset.splits:
        for record in dataset.records(split):
            yield record.image, record.objects.boxes


def _lay_out(root: Path, photographs: Iterator[tuple[bytes, Boxes | None]], everything: bool) -> None:
    """Photographs as a YOLO source, which is prepared as TFRecord, and, for `everything`, in all the other formats.

    Photographs without boxes get some at random.
    """
    from PIL import Image

    from dataflow.errors import UsageError

    rng = np.random.default_rng(2)
    images, labels = (root / "yolo" / kind / "train" for kind in ("images", "labels"))
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    (root / "yolo/data.yaml").write_text("train: images/train\nnames: [thing]\n")
    listed, thumbnails, refused = [], [], 0
    for data, boxes in photographs:
        image = Image.open(io.BytesIO(data))
        if image.format != "JPEG" or image.mode != "RGB" or image.getexif().get(0x0112, 1) != 1:
            refused += 1  # Not every peer reads them.
            continue
        known = _random_boxes(rng, image.size) if boxes is None else boxes
        name = f"{len(listed):06d}"
        (images / f"{name}.jpg").write_bytes(data)
        (labels / f"{name}.txt").write_text(_yolo(known, image.size))
        listed.append((f"{name}.jpg", image.height, image.width, known.tolist()))
        thumbnails.append(np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), np.float32))
    if refused:
        print(f"{refused} images are left out: they are no upright RGB JPEGs", file=sys.stderr)
    least = LEAST if everything else LEAST // 4
    if len(listed) < least:
        raise UsageError(f"{len(listed)} upright RGB JPEGs are too few", f"give at least {least} of them")
    (root / "photographs.json").write_text(json.dumps(listed))
    np.save(root / "thumbnails.npy", np.stack(thumbnails))
    _prepare(root, "tfrecord")
    if everything:
        _prepare(root, "array_record")
        _write_tars(root)
        _write_litdata(root)


def _random_boxes(rng: np.random.Generator, size: tuple[int, int]) -> Boxes:
    extents = rng.uniform(0.05, 0.4, (OBJECTS, 2))
    starts = rng.uniform(0, 1 - extents)
    return (np.hstack([starts, starts + extents]) * np.tile(size, 2)).astype(np.float32)


def _yolo(boxes: Boxes, size: tuple[int, int]) -> str:
    from dataflow.boxes import xyxy_to_cxcywh

    return "".join(f"0 {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for x, y, w, h in xyxy_to_cxcywh(boxes, size[::-1]).tolist())


def _prepare(root: Path, file_format: Any) -> None:
    from tfds_builders.builders import SourceBuilder
    from tfds_builders.formats.yolo import open_yolo
    from tfds_builders.ingest_options import IngestOptions

    options = IngestOptions(level="header", file_format=file_format)
    builder = SourceBuilder(open_yolo(root / "yolo"), name="bench", out=root / file_format, options=options)
    found, given = builder.prepare().splits["train"], len(read_photographs(root))
    assert found == given, f"{found} of {given} photographs were prepared"


def prepared(root: Path, file_format: str) -> Path:
    """The directory of the dataset that `make` prepared."""
    return root / file_format / "bench" / "1.0.0"


def _write_tars(root: Path) -> None:
    """Tars as webdataset's guide has them: `name.jpg` and `name.json`, in several files for the workers to share."""
    (root / "tars").mkdir()
    photographs = read_photographs(root)
    for number in range(TARS):
        with tarfile.open(root / "tars" / f"{number:06d}.tar", "w") as tar:
            for photograph in photographs[number::TARS]:
                labels = json.dumps({"boxes": photograph.boxes.tolist()}).encode()
                for suffix, data in (("jpg", photograph.file.read_bytes()), ("json", labels)):
                    entry = tarfile.TarInfo(f"{photograph.file.stem}.{suffix}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))


def litdata_sample(photograph: Photograph) -> dict[str, Any]:
    """What LitData's `optimize` stores: the JPEG as it is, and the boxes."""
    from PIL import Image

    return {"image": Image.open(photograph.file), "boxes": photograph.boxes}


def _write_litdata(root: Path) -> None:
    try:
        import litdata
    except ModuleNotFoundError:  # Its contender is left out, and says so.
        return
    litdata.optimize(
        litdata_sample, read_photographs(root), str(root / "litdata"), chunk_bytes="16MB", num_workers=1, verbose=False
    )
