"""Pairs of unusual frames, from files to differences: each ends as the picture it should be, or as a finding."""

import io
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median_grouped
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow_datasets as tfds
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter1d

from dataflow.errors import UsageError
from dataflow.findings import Code
from dataflow.images import RgbImage
from dataflow.pairs.camera_motion import Movement, warp
from dataflow.pairs.image_diff import DIFF_MODES, NO_CHANGE, DiffMode
from dataflow.pairs.registration import Method
from dataflow.prepared import PreparedDataset
from dataflow.records import Change, FramePair
from dataflow.tensorflow_runtime import load_tensorflow
from dataflow.tfrecord import read_records
from tests.factories import ORIENTATION, load, prepare, write
from tests.tfds_builders.broken_sources import load_json
from tests.tfds_builders.pair_lists import thing
from tfds_builders.difference_builder import DifferencesBuilder
from tfds_builders.formats.pairs import open_pairs

SIZE = (64, 96)
OLD, NEW = [10.0, 20.0, 25.0, 40.0], [60.0, 20.0, 75.0, 40.0]


@dataclass(frozen=True, eq=False)
class Frame:
    """A file, and its upright pixels (H, W, 3) as they must come out."""

    data: bytes
    pixels: RgbImage

    @property
    def suffix(self) -> str:
        return ".jpg" if self.data[:2] == b"\xff\xd8" else ".png"


def scene(box: list[float], grey: bool = False) -> RgbImage:
    """A textured background, its channels differently so, with a red thing (light, where all is grey)."""
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.normal(size=SIZE), (0, 0), 1.5)
    level = np.clip(120 + 40 * texture / texture.std(), 20, 235).astype(np.uint8)
    frame = np.stack([level] * 3 if grey else [level, np.roll(level, 1, axis=0), 255 - level], axis=2)
    x0, y0, x1, y1 = map(int, box)
    frame[y0:y1, x0:x1] = 250 if grey else (250, 20, 20)
    return frame


BEFORE, AFTER = scene(OLD), scene(NEW)
GREY, GREY_AFTER = scene(OLD, grey=True), scene(NEW, grey=True)


def by_pillow(image: Image.Image, encoding: str = "PNG", **save: Any) -> Frame:
    """A file that Pillow writes and reads."""
    buffer = io.BytesIO()
    image.save(buffer, encoding, **save)
    with Image.open(buffer) as saved:
        return Frame(buffer.getvalue(), np.asarray(ImageOps.exif_transpose(saved).convert("RGB")))


def png(pixels: RgbImage) -> Frame:
    return by_pillow(Image.fromarray(pixels))


def jpeg(pixels: RgbImage, mode: str = "RGB", **save: Any) -> Frame:
    return by_pillow(Image.fromarray(pixels).convert(mode), "JPEG", quality=95, **save)


def raw_png(values: npt.NDArray[np.integer[Any]], colour: int, bits: int, shows: RgbImage, clear: bytes = b"") -> Frame:
    """A PNG of these values (W3C PNG), of kinds that Pillow does not write; `clear` is its tRNS."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2" if bits == 16 else np.uint8).tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + (chunk(b"tRNS", clear) if clear else b"")
    data = b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return Frame(data, shows)


def noise(*shape: int) -> npt.NDArray[np.int64]:
    """Bytes that must not show: the lower half of 16 bits, or alpha."""
    return np.random.default_rng(7).integers(0, 256, shape)


def deep(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """16 bits, of which the upper byte is what 8 bits mean."""
    return pixels.astype(np.int64) * 256 + noise(*pixels.shape)


def with_alpha(values: npt.NDArray[Any], most: int = 256) -> npt.NDArray[Any]:
    return np.concatenate([values, noise(*SIZE, 1) * (most // 256)], axis=2)


def turned(pixels: RgbImage, orientation: int) -> Frame:
    """A JPEG that is stored turned, so that it is upright by EXIF."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return jpeg(np.ascontiguousarray(np.rot90(pixels, {6: 1, 3: 2, 8: 3}[orientation])), exif=exif)


def plain(level: int) -> Frame:
    return png(np.full((*SIZE, 3), level, np.uint8))


def palette(pixels: RgbImage, **save: Any) -> Frame:
    return by_pillow(Image.fromarray(pixels).quantize(64), **save)


def one_channel(pixels: RgbImage) -> Frame:
    return png(pixels[..., 0])


PAIRS = {
    "identical": (png(AFTER), png(AFTER)),
    "black": (plain(0), plain(0)),
    "black-white": (plain(0), plain(255)),
    "plain": (plain(100), plain(101)),
    "one-channel": (one_channel(GREY), png(GREY_AFTER)),
    "one-channel-jpeg": (jpeg(GREY, "L"), jpeg(GREY_AFTER)),
    "rgb16": (raw_png(deep(BEFORE), 2, 16, BEFORE), png(AFTER)),
    "grey16": (raw_png(deep(GREY[..., 0]), 0, 16, GREY), one_channel(GREY_AFTER)),
    "rgba": (png(BEFORE), raw_png(with_alpha(AFTER), 6, 8, AFTER)),
    "grey-alpha": (one_channel(GREY), raw_png(with_alpha(GREY_AFTER[..., :1]), 4, 8, GREY_AFTER)),
    "rgba16": (raw_png(with_alpha(deep(BEFORE), 65536), 6, 16, BEFORE), png(AFTER)),
    "clear-colour": (png(BEFORE), raw_png(AFTER, 2, 8, AFTER, struct.pack(">HHH", 250, 20, 20))),
    "palette": (palette(BEFORE, transparency=0), palette(AFTER, transparency=3)),
    "one-pixel": (png(BEFORE[:1, :1]), png(AFTER[9:10, 5:6])),
    "row": (png(BEFORE[30:31]), png(AFTER[30:31])),
    "column": (png(BEFORE[:, 12:13]), png(AFTER[:, 12:13])),
    "cmyk": (jpeg(BEFORE, subsampling=0), jpeg(AFTER, "CMYK", subsampling=0)),
    "progressive": (jpeg(BEFORE), jpeg(AFTER, progressive=True)),
    "turned-before": (turned(BEFORE, 6), jpeg(AFTER)),
    "turned-both": (turned(BEFORE, 8), turned(AFTER, 3)),
    "narrower": (png(BEFORE), png(AFTER[:, :-1])),
    "one-pixel-short": (png(BEFORE[:1, :1]), png(AFTER)),
    "lying": (turned(BEFORE, 6), jpeg(np.ascontiguousarray(np.rot90(AFTER)))),
}
REFUSED = {"narrower": (96, 64, 95, 64), "one-pixel-short": (1, 1, 96, 64), "lying": (96, 64, 64, 96)}
PREPARED = sorted(PAIRS.keys() - REFUSED.keys())
# Frames between which nothing tells how the camera moved, and that differ.
UNALIGNED = {
    "black-white": "there is too little texture to align by, and they differ",
    "plain": "an alignment of score 0.50",
    "one-pixel": "frames of 1x1 are too small to align by, and they differ",
    "row": "frames of 96x1 are too small to align by, and they differ",
    "column": "frames of 1x64 are too small to align by, and they differ",
}
# TFDS's reader by NumPy (`tfds.data_source`), unlike its reader by tf.data, keeps the alpha channel of these and takes
# the lower byte of 16 bits.
NOT_BY_NUMPY = {"rgb16", "grey16", "rgba", "grey-alpha", "rgba16", "clear-colour", "palette"}


def labels(before: Frame, after: Frame) -> dict[str, Any]:
    """The thing that moved, where frames are large enough to show it."""
    shown = before.pixels.shape == after.pixels.shape == (*SIZE, 3)
    return {"labels": [thing(box, change="moved", track=1) for box in (OLD, NEW)] if shown else []}


def labels_of_frames(before: Frame, after: Frame) -> dict[str, Any]:
    """All of each frame as one thing, without a track, so that the pixels decide whether it is the same."""
    boxes = [[0, 0, frame.pixels.shape[1], frame.pixels.shape[0]] for frame in (before, after)]
    return {"before_labels": [thing(boxes[0])], "after_labels": [thing(boxes[1])]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    for name, frames in PAIRS.items():
        files = [f"{folder}/{name}{frame.suffix}" for folder, frame in zip("ab", frames, strict=True)]
        for file, frame in zip(files, frames, strict=True):
            write(root / file, frame.data)
        row = {"before": files[0], "after": files[1], "id": name}
        for of, path in ((labels, root / "pairs.jsonl"), (labels_of_frames, root / "of_frames.jsonl")):
            with path.open("a") as lines:
                lines.write(f"{json.dumps(row | of(*frames))}\n")
    return root


@pytest.fixture(scope="module")
def pairs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepare(open_pairs(root / "pairs.jsonl"), tmp_path_factory.mktemp("out"), "pairs")


def by_id(dataset: PreparedDataset) -> dict[str, FramePair]:
    return {pair.pair_id: pair for split in dataset.splits for pair in dataset.pairs(split)}


def errors(dataset: PreparedDataset) -> dict[str, tuple[str, str]]:
    """(code, value) of what kept images out, by their ids; each says what to do."""
    audit = load_json(dataset.path / "audit.json")
    found = [finding for finding in audit["findings"] if finding["severity"] == "error"]
    assert all(finding["remedy"] for finding in found)
    assert audit["images_in"] == audit["images_prepared"] + audit["images_quarantined"]
    assert audit["images_quarantined"] == len(found)
    return {finding["image_id"]: (finding["code"], finding["value"]) for finding in found}


# From files to pairs


def test_every_pair_is_prepared_or_refused(pairs: PreparedDataset) -> None:
    wanted = {
        name: (Code.SIZE_MISMATCH, f"the before frame is {bw}x{bh} px, the after frame {aw}x{ah} px")
        for name, (bw, bh, aw, ah) in REFUSED.items()
    }
    assert errors(pairs) == wanted
    prepared = by_id(pairs)
    assert sorted(prepared) == PREPARED
    for name, pair in prepared.items():
        for record, frame in zip((pair.before, pair.after), PAIRS[name], strict=True):
            assert record.image == frame.data and record.size == frame.pixels.shape[:2]
    orientations = [(pair.before.orientation, pair.after.orientation) for pair in prepared.values()]
    assert set(orientations) == {(1, 1), (6, 1), (8, 3)}
    audit = load_json(pairs.path / "audit.json")
    others = {(f["code"], f["image_id"]) for f in audit["findings"] if f["severity"] != "error"}
    assert others == {
        *((Code.DUPLICATE_CONTENT, name) for name in ("black", "identical")),
        *((Code.EXIF_ORIENTATION, name) for name in ("lying", "turned-before", "turned-both")),
        *((Code.IMAGE_UNSUPPORTED, name) for name in NOT_BY_NUMPY),
    }


def test_things_are_told_apart_by_pixels_of_any_kind(root: Path) -> None:
    """What fills both frames stays, unless it looks altogether different."""
    loaded = load(open_pairs(root / "of_frames.jsonl"))
    assert loaded.quarantined == sorted(REFUSED)
    changes = {name: loaded.column(name, "change") for name in PREPARED}
    others = {"black-white", "one-pixel", "column"}
    assert changes == {name: [Change.VANISHED, Change.APPEARED] if name in others else [] for name in PREPARED}


def test_frames_as_stored_are_other_sizes(root: Path) -> None:
    """With --exif ignore, pairs that are alike when upright are not, and the other way round."""
    loaded = load(open_pairs(root / "pairs.jsonl"), exif="ignore")
    assert loaded.quarantined == ["narrower", "one-pixel-short", "turned-before", "turned-both"]
    assert {finding.code for finding in loaded.findings if finding.severity == "error"} == {Code.SIZE_MISMATCH}


def stored(frame: Frame) -> RgbImage:
    """Its pixels before EXIF turns them."""
    if frame.suffix == ".png":
        return frame.pixels
    with Image.open(io.BytesIO(frame.data)) as image:
        return np.asarray(image.convert("RGB"))


def read_by_tf_data(pairs: PreparedDataset) -> Iterator[Any]:
    load_tensorflow()
    builder = tfds.builder_from_directory(pairs.path)
    for split in pairs.splits:
        yield from tfds.as_numpy(builder.as_dataset(split=split))


def read_by_numpy(pairs: PreparedDataset) -> Iterator[Any]:
    """As `tfds.data_source` reads, which wants ArrayRecord."""
    features = pairs.builder.info.features
    for split in pairs.splits:
        for shard in pairs.shards(split):
            with shard.path.open("rb") as file:
                yield from map(features.deserialize_example_np, read_records(file))


@pytest.mark.parametrize("read", [read_by_tf_data, read_by_numpy])
def test_readers_of_tfds_make_the_same_of_them(pairs: PreparedDataset, read: Any) -> None:
    seen = set()
    for example in read(pairs):
        name = example["image/id"] if isinstance(example["image/id"], str) else example["image/id"].decode()
        if read is read_by_numpy and name in NOT_BY_NUMPY:
            continue
        seen.add(name)
        for theirs, frame in zip((example["before"], example["image"]), PAIRS[name], strict=True):
            assert theirs.shape == stored(frame).shape and theirs.dtype == np.uint8
            # tf.data decodes JPEG by a faster inverse DCT; and CMYK becomes RGB by other rounding.
            assert np.abs(theirs.astype(int) - stored(frame)).max() <= (0 if frame.suffix == ".png" else 25)
    assert seen == set(PREPARED) - (NOT_BY_NUMPY if read is read_by_numpy else set())


# From pairs to differences


def expected(mode: DiffMode, before: RgbImage, after: RgbImage) -> npt.NDArray[np.float64]:
    """The difference in plain arithmetic, not rounded (grey levels)."""
    first, second = before.astype(np.float64), after.astype(np.float64)
    if mode == "absolute":
        return np.abs(second - first)
    if mode == "signed":
        return 128 + (second - first) / 2
    if mode == "grey":
        weights = np.array([0.299, 0.587, 0.114])
        return np.repeat(np.abs(second @ weights - first @ weights)[..., None], 3, axis=2)
    if mode == "threshold":
        change = np.abs(second - first)
        return np.where(change > limits(change), change, 0)
    return 255 * (1 - similarity(first, second)) / 2


def limits(change: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Four standard deviations of the noise in each channel, by the median of grouped data."""
    medians = []
    for values in change.reshape(-1, 3).T:
        grouped = median_grouped(values.tolist())
        # Of absolute values nothing lies below zero.
        medians.append(grouped if np.sort(values)[len(values) // 2] > 0 else len(values) / 4 / (values == 0).sum())
    return 4 * 1.4826 * np.array(medians)


def similarity(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """SSIM per channel (Wang et al. 2004, equation 13)."""

    def mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        for axis in (0, 1):
            values = gaussian_filter1d(values, 1.5, axis=axis, truncate=3.4, mode="reflect")
        return values

    a, b = mean(first), mean(second)
    spread = mean(first**2) - a**2 + mean(second**2) - b**2
    together = mean(first * second) - a * b
    c1, c2 = 6.5025, 58.5225
    return (2 * a * b + c1) * (2 * together + c2) / ((a**2 + b**2 + c1) * (spread + c2))


def assert_shows(mode: DiffMode, image: RgbImage, before: RgbImage, after: RgbImage, off_by: float) -> None:
    """`image` is the difference of frames that are known up to `off_by` levels."""
    wanted = expected(mode, before, after)
    # A half may be rounded either way; the luma of each frame is rounded, too.
    slack = {"grey": 1.0, "ssim": 1.0}.get(mode, 0.5) + off_by * {"signed": 0.5, "ssim": 4.0}.get(mode, 1.0)
    apart = np.abs(image - np.clip(wanted, 0, 255))
    if mode == "threshold" and off_by:
        change = expected("absolute", before, after)
        near = np.abs(change - limits(change)) <= 5 * off_by
        assert ((image == 0) | (np.abs(image - change) <= slack)).all()
        apart = apart[~near]
    assert image.shape == wanted.shape and apart.max() <= slack


@pytest.mark.parametrize("align", ["none", "features"])
@pytest.mark.parametrize("mode", DIFF_MODES)
def test_every_difference_is_right_or_refused(pairs: PreparedDataset, mode: DiffMode, align: Method) -> None:
    name, out = f"{mode}_{align}", pairs.path.parents[1]
    made = DifferencesBuilder(pairs, name=name, out=out, mode=mode, align=align, image_format="png").prepare()
    refused = UNALIGNED if align == "features" else {}
    assert errors(made) == {name: (Code.PAIR_UNALIGNED, value) for name, value in refused.items()}
    images = {record.image_id: record.image for split in made.splits for record in made.records(split)}
    assert sorted(images) == sorted(set(PREPARED) - refused.keys())
    for name, data in images.items():
        with Image.open(io.BytesIO(data)) as image:
            shown = np.asarray(image)
        before, after = (frame.pixels for frame in PAIRS[name])
        assert_shows(mode, shown, before, after, off_by=2 if name == "cmyk" else 0)
        if name in ("identical", "black"):
            assert (shown == NO_CHANGE[mode]).all()
        if name == "black-white":
            # All of the picture changed: to `threshold` that is noise.
            assert (shown == {"threshold": 0, "ssim": 127}.get(mode, 255)).all()
    for pair in by_id(made).values():
        np.testing.assert_array_equal(pair.homography, np.eye(3))
        boxes = [OLD, NEW] if pair.after.size == SIZE else np.zeros((0, 4))
        np.testing.assert_allclose(pair.objects.boxes, boxes, atol=1e-4)


def test_differences_as_jpeg(pairs: PreparedDataset) -> None:
    """The default: also of one pixel, and of one row."""
    made = DifferencesBuilder(pairs, name="jpeg", out=pairs.path.parents[1]).prepare()
    assert errors(made) == {}
    for split in made.splits:
        for record in made.records(split):
            with Image.open(io.BytesIO(record.image)) as image:
                assert image.format == "JPEG"
                shown = np.asarray(image)
            apart = np.abs(shown - expected("absolute", *(frame.pixels for frame in PAIRS[record.image_id])))
            assert apart.mean() < 2.5


def test_frames_that_opencv_cannot_move_are_refused() -> None:
    frame = np.zeros((2, 32767, 3), np.uint8)
    for size in ((2, 32767), (1, 1)):
        with pytest.raises(UsageError, match=r"32767x2 px cannot be drawn moved; use frames of at most 32766 px"):
            warp(frame, Movement(1).homography((2, 32767)), size)
    assert warp(frame, np.eye(3), (2, 32767))[1].all()
    assert warp(frame[:, :-1], Movement(1).homography((2, 32766)), (2, 32766))[0].shape == (2, 32766, 3)
