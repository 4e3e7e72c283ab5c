"""Every kind of image on its way through the loader: formats, damage, and photographs larger than what is wanted."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dataflow.bridge.batches import Batch, targets_to_predictions
from dataflow.bridge.drafts import ExampleError
from dataflow.bridge.loader import BatchLoader
from dataflow.bridge.resize import KeepSize, Resize, ResizePolicy
from dataflow.images import decode, encode_jpeg
from dataflow.prepared import PreparedDataset
from dataflow.records import ImageRecord, Objects
from tests.dataflow.detection_sets import CocoLayout, make_record, prepare_with_tfds, write_ours
from tests.factories import damaged_in_the_middle, photograph, pixels

AS_IT_IS = KeepSize()
KINDS: dict[str, dict[str, Any]] = {
    **{f"JPEG {mode}": {"mode": mode} for mode in ("RGB", "L", "CMYK")},
    "JPEG progressive": {"progressive": True, "subsampling": "4:2:0"},
    **{f"PNG {mode}": {"encoding": "PNG", "mode": mode} for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    **{f"WEBP {mode}": {"encoding": "WEBP", "mode": mode, "lossless": True} for mode in ("RGB", "RGBA")},
    **{f"BMP {mode}": {"encoding": "BMP", "mode": mode} for mode in ("L", "P", "RGB")},
    **{f"TIFF {mode}": {"encoding": "TIFF", "mode": mode} for mode in ("1", "L", "RGB", "RGBA", "I;16")},
    "TIFF packed": {"encoding": "TIFF", "compression": "tiff_lzw"},
}


def shown(dataset: PreparedDataset, policy: Resize = AS_IT_IS, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Pixels (h, w, 3) of each image as an evaluation shows them."""
    found = {}
    for batch in BatchLoader(dataset, "train", policy, 3, training=False, threads=2, **options):
        for name, image, (h, w) in zip(batch.image_ids, batch.pixel_values, batch.sizes.tolist(), strict=True):
            found[name] = image[:, :h, :w].permute(1, 2, 0).numpy().copy()
    return found


def by_pillow(data: bytes, mode: str) -> np.ndarray[Any, Any]:
    """RGB pixels as stored: alpha dropped, the upper byte of 16 bits (see `tests/dataflow/test_images.py`)."""
    image = Image.open(io.BytesIO(data))
    if mode == "I;16":
        return (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)[:, :, None].repeat(3, axis=2)
    if mode in ("LA", "RGBA"):
        return np.asarray(image)[:, :, :-1].repeat(3 if mode == "LA" else 1, axis=2)
    return np.asarray(image.convert("RGB"))


def test_every_format_of_a_dataset_that_tfds_made(tmp_path: Path) -> None:
    records = [
        replace(make_record(kind, 48, 64, seed=i), image=photograph(48, 64, seed=i, **options))
        for i, (kind, options) in enumerate(KINDS.items())
    ]
    dataset = prepare_with_tfds(CocoLayout, tmp_path, records)
    found = shown(dataset)
    stored = {record.image_id: record.image for record in dataset.records("train")}
    assert len(found) == len(KINDS)
    names = {record.image: record.image_id for record in records}
    for image_id, image in found.items():
        kind = names[stored[image_id]]
        expected = by_pillow(stored[image_id], KINDS[kind].get("mode", "RGB"))
        # Two conversions from CMYK, neither normative, differ by rounding.
        most = 2 if "CMYK" in kind else 0
        assert np.abs(image.astype(int) - expected).max() <= most, kind


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_ours_are_turned_as_their_dataset_says(tmp_path: Path, orientation: int) -> None:
    height, width = (50, 70) if orientation == 3 else (70, 50)
    turned = make_record("turned", height, width, orientation=orientation, encoding="PNG")
    as_stored = replace(make_record("as stored", 50, 70, encoding="PNG"), image=turned.image, orientation=1)
    found = shown(write_ours(tmp_path / "small" / "1.0.0", [turned, as_stored], [2]))
    assert found["turned"].shape[:2] == (height, width)
    quarter_turns = {3: 2, 6: 3, 8: 1}[orientation]
    np.testing.assert_array_equal(found["turned"], np.rot90(found["as stored"], quarter_turns))


def test_lost_pixels_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = photograph(200, 300, quality=90)
    broken = damaged_in_the_middle(data)
    assert decode(broken).damage and not decode(data).damage
    records = [make_record(f"image{i}", 200, 300, seed=i, image=broken if i == 1 else data) for i in range(4)]
    loader = BatchLoader(
        write_ours(tmp_path / "small" / "1.0.0", records, [2, 2]), "train", KeepSize(), 2, training=False
    )
    for _ in range(2):
        batches = list(loader)
        assert sum(map(len, batches)) == 4
    assert loader.damaged.keys() == {"image1"}
    assert "example 1: " in loader.damaged["image1"]
    told = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert len(told) == 1 and "image image1 is damaged" in told[0]


def test_bytes_between_the_segments_of_a_header_are_no_damage() -> None:
    data = photograph(40, 60)
    length = int.from_bytes(data[4:6], "big")
    padded = data[: 4 + length] + b"\x00\x01\x02" + data[4 + length :]
    found = decode(padded)
    assert not found.damage
    np.testing.assert_array_equal(found.pixels, decode(data).pixels)


def test_a_file_that_ends_early_is_an_error(tmp_path: Path) -> None:
    data = photograph(200, 300)
    records = [make_record("cut", 200, 300, image=data[: len(data) // 2])]
    dataset = write_ours(tmp_path / "small" / "1.0.0", records, [1])
    with pytest.raises(ExampleError, match=r"image 'cut' \(.*example 0\): .* cannot be decoded; replace it"):
        shown(dataset)


def large(name: str, size: tuple[int, int], orientation: int | None = None, seed: int = 0) -> ImageRecord:
    """A smooth picture with a bright rectangle, as JPEG."""
    stored = size if (orientation or 1) < 5 else size[::-1]
    small = cv2.resize(pixels(12, 16, seed=seed), stored[::-1], interpolation=cv2.INTER_CUBIC) // 2
    small[stored[0] // 4 : stored[0] // 2, stored[1] // 3 : stored[1] * 2 // 3] = 235
    data = encode_jpeg(small)
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        segment = exif.tobytes()
        data = data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]
    return replace(make_record(name, *size, image=data), orientation=orientation or 1)


class TestMuchLargerThanWanted:
    SIZES = ((600, 800), (601, 803), (1207, 911), (1600, 2400))
    POLICY = ResizePolicy(80, 200)

    def test_values_are_those_of_full_decoding_within_a_level(self, tmp_path: Path) -> None:
        records = [large(f"{i}", size, seed=i) for i, size in enumerate(self.SIZES)]
        dataset = write_ours(tmp_path / "small" / "1.0.0", records, [len(records)])
        reduced, full = shown(dataset, self.POLICY), shown(dataset, self.POLICY, reduced_decoding=False)
        for name, image in reduced.items():
            assert image.shape == full[name].shape
            apart = np.abs(image.astype(int) - full[name])
            assert 0 < apart.max() < 60 and apart.mean() < 1, name

    @pytest.mark.parametrize("orientation", [None, *range(2, 9)])
    def test_edges_stay_where_they_are(self, tmp_path: Path, orientation: int | None) -> None:
        """Also where the size is no multiple of the fraction, at either end: to a tenth of a pixel."""
        records = [large(f"{i}", size, orientation, seed=i) for i, size in enumerate(self.SIZES)]
        dataset = write_ours(tmp_path / "small" / "1.0.0", records, [len(records)])
        reduced, full = shown(dataset, self.POLICY), shown(dataset, self.POLICY, reduced_decoding=False)
        for name, image in reduced.items():
            for axis in (0, 1):
                # The sum of what is bright on a line, in lines: an edge that moves by a pixel changes it by one.
                extents = [
                    (np.clip(one[..., 1].astype(float) - 128, 0, 107) / 107).sum(axis=axis).max()
                    for one in (image, full[name])
                ]
                assert extents[0] == pytest.approx(extents[1], abs=0.15), (name, axis)

    def test_only_what_is_large_enough_is_reduced(self, tmp_path: Path) -> None:
        records = [large(f"{i}", size) for i, size in enumerate(((279, 400), (280, 400)))]
        dataset = write_ours(tmp_path / "small" / "1.0.0", records, [2])
        reduced, full = shown(dataset, self.POLICY), shown(dataset, self.POLICY, reduced_decoding=False)
        assert [np.array_equal(reduced[name], full[name]) for name in ("0", "1")] == [True, False]

    def test_boxes_do_not_know_of_it(self, tmp_path: Path) -> None:
        records = [large(f"{i}", size, seed=i) for i, size in enumerate(self.SIZES)]
        dataset = write_ours(tmp_path / "small" / "1.0.0", records, [len(records)])
        expected = {record.image_id: record.objects.boxes for record in dataset.records("train")}
        batches: list[Batch] = list(BatchLoader(dataset, "train", self.POLICY, 2, training=False))
        for found in (one for batch in batches for one in targets_to_predictions(batch, "oracle")):
            np.testing.assert_allclose(found.boxes, expected[found.image_id], atol=0.01)

    def test_another_size_than_the_example_says_is_found_all_the_same(self, tmp_path: Path) -> None:
        record = replace(large("a", (800, 1200)), height=810, objects=Objects(np.zeros((0, 4)), np.zeros(0)))
        dataset = write_ours(tmp_path / "small" / "1.0.0", [record], [1])
        with pytest.raises(ExampleError, match=r"its example says \(203, 300\) at 1/4 of its size"):
            shown(dataset, self.POLICY)

    def test_parts_of_it_are_the_parts(self, tmp_path: Path) -> None:
        """Cut out of a photograph decoded in part size, and of one decoded in full."""
        from dataflow.bridge.image_augmentation import ImageAugmentation

        records = [large(f"{i}", size, seed=i) for i, size in enumerate(self.SIZES)]
        dataset = write_ours(tmp_path / "small" / "1.0.0", records, [len(records)])
        options: dict[str, Any] = {"training": True, "augmentation": ImageAugmentation(scale=2, crop=0.7), "group": 1}
        pairs = zip(
            BatchLoader(dataset, "train", self.POLICY, 4, **options),
            BatchLoader(dataset, "train", self.POLICY, 4, reduced_decoding=False, **options),
            strict=False,
        )
        for _, (reduced, full) in zip(range(6), pairs, strict=False):
            assert torch.equal(reduced.shown, full.shown)
            apart = (reduced.pixel_values.int() - full.pixel_values.int()).abs().float()
            assert apart.mean() < 1
