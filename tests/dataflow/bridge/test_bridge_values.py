"""The values of the bridge's batches: those of Hugging Face's own processor, for our datasets and for any other."""

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dataflow.boxes import xyxy_to_coco
from dataflow.bridge.batches import Batch, normalise, targets_to_predictions
from dataflow.bridge.loader import BatchLoader
from dataflow.bridge.padding import PadToLargest, PadToSize
from dataflow.bridge.resize import FixedSize, KeepSize, LongestEdge, Resize, ResizePolicy
from dataflow.images import encode_png
from dataflow.prepared import PreparedDataset
from dataflow.records import FramePair, ImageRecord
from tests.dataflow.detection_sets import (
    CocoLayout,
    NamelessLayout,
    VocLayout,
    make_record,
    make_records,
    prepare_with_tfds,
    write_ours,
)
from tests.factories import pixels

POLICY = ResizePolicy(40, 60)
N = 23


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_ours(tmp_path_factory.mktemp("ours") / "small" / "1.0.0", make_records(N), (7, 1, 0, 9, 6))


def loader(dataset: PreparedDataset, batch_size: int = 4, **options: Any) -> BatchLoader:
    options = {"training": False, "threads": 2} | options
    return BatchLoader(dataset, "train", options.pop("policy", POLICY), batch_size, **options)


def in_their_words(policy: Resize) -> dict[str, Any]:
    """The settings of `DetrImageProcessor` that ask for this policy."""
    if isinstance(policy, LongestEdge):
        return {"size": {"max_height": policy.longest_edge, "max_width": policy.longest_edge}}
    return {"do_resize": False} if isinstance(policy, KeepSize) else {"size": asdict(policy)}


def hugging_face(
    images: list[np.ndarray[Any, Any]], settings: Mapping[str, Any], backend: str
) -> dict[str, torch.Tensor]:
    """What `DetrImageProcessor` makes of decoded RGB images."""
    from transformers import DetrImageProcessor
    from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

    kind = DetrImageProcessor if backend == "torchvision" else DetrImageProcessorPil
    found = kind(**settings)(images, return_tensors="pt")
    return {name: found[name] for name in ("pixel_values", "pixel_mask")}


def assert_like_hugging_face(
    batch: Batch, decoded: list[np.ndarray[Any, Any]], policy: Resize, **settings: Any
) -> None:
    settings |= in_their_words(policy)
    values = normalise(batch.pixel_values, batch.pixel_mask, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    same = hugging_face(decoded, settings, "torchvision")
    assert values.dtype == torch.float32
    assert torch.equal(values, same["pixel_values"])
    assert torch.equal(batch.pixel_mask, same["pixel_mask"].bool())
    # Pillow rounds to 8 bits once more, between the horizontal and the vertical pass: two levels at most, and one
    # level is 1 / (255 * 0.224) = 0.0175 after normalisation.
    pillow = hugging_face(decoded, settings, "pil")
    assert (values - pillow["pixel_values"]).abs().max() <= 2 * 0.0176


def decoded_upright(data: bytes) -> np.ndarray[Any, Any]:
    """Pixels by Pillow alone, so that the reference shares no code with the loader."""
    return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


class TestValues:
    @pytest.mark.parametrize(
        "policy",
        [
            *(ResizePolicy(*edges) for edges in [(40, 60), (64, 200), (20, 24)]),
            *(FixedSize(*size) for size in [(48, 48), (30, 100)]),
            *(LongestEdge(length) for length in [40, 77, 120]),
            KeepSize(),
        ],
        ids=str,
    )
    def test_batches_equal_hugging_face(self, dataset: PreparedDataset, policy: Resize) -> None:
        images = {record.image_id: decoded_upright(record.image) for record in dataset.records("train")}
        for batch in loader(dataset, batch_size=9, policy=policy, reduced_decoding=False):
            assert batch.pixel_values.dtype == torch.uint8
            assert batch.pixel_values.is_contiguous(memory_format=torch.channels_last)
            assert_like_hugging_face(batch, [images[name] for name in batch.image_ids], policy)

    def test_a_fixed_canvas_is_that_of_hugging_face(self, dataset: PreparedDataset) -> None:
        images = {record.image_id: decoded_upright(record.image) for record in dataset.records("train")}
        for batch in loader(dataset, batch_size=9, pad=PadToSize(60, 71)):
            decoded = [images[name] for name in batch.image_ids]
            assert_like_hugging_face(batch, decoded, POLICY, pad_size={"height": 60, "width": 71})

    def test_a_canvas_of_whole_strides_is_that_of_hugging_face_with_more_padding(
        self, dataset: PreparedDataset
    ) -> None:
        images = {record.image_id: decoded_upright(record.image) for record in dataset.records("train")}
        plain = loader(dataset, batch_size=9)
        for batch, needed in zip(loader(dataset, batch_size=9, pad=PadToLargest(multiple_of=32)), plain, strict=True):
            height, width = needed.pixel_values.shape[-2:]
            canvas = {"height": math.ceil(height / 32) * 32, "width": math.ceil(width / 32) * 32}
            assert_like_hugging_face(batch, [images[name] for name in batch.image_ids], POLICY, pad_size=canvas)

    def test_targets_depend_neither_on_the_size_nor_on_the_canvas(self, dataset: PreparedDataset) -> None:
        expected = [target for batch in loader(dataset) for target in batch.targets]
        for policy in (FixedSize(48, 30), LongestEdge(100), KeepSize()):
            for pad in (PadToLargest(multiple_of=16), PadToSize(100, 100)):
                found = [target for batch in loader(dataset, policy=policy, pad=pad) for target in batch.targets]
                for theirs, ours in zip(found, expected, strict=True):
                    assert torch.equal(theirs.boxes, ours.boxes)
                    assert torch.equal(theirs.category_ids, ours.category_ids)

    def test_pictures_of_every_orientation_and_kind_equal_hugging_face(self, tmp_path: Path) -> None:
        records = [make_record(f"exif{i}", 50, 70, seed=i, orientation=i) for i in range(1, 9)]
        records.append(make_record("grey", 50, 70, mode="L"))
        records.append(make_record("png", 33, 90, encoding="PNG"))
        records.append(make_record("progressive", 90, 33, progressive=True))
        dataset = write_ours(tmp_path / "small" / "1.0.0", records, [len(records)])
        (batch,) = loader(dataset, batch_size=len(records))
        assert batch.original_sizes.tolist()[:9] == [[50, 70]] * 9
        assert_like_hugging_face(batch, [decoded_upright(record.image) for record in records], POLICY)

    def test_boxes_are_relative_to_the_image_without_its_padding(self, dataset: PreparedDataset) -> None:
        from transformers import DetrImageProcessor

        records = {record.image_id: record for record in dataset.records("train")}
        processor = DetrImageProcessor(size={"shortest_edge": 40, "longest_edge": 60})
        for batch in loader(dataset, batch_size=9):
            chosen = [records[name] for name in batch.image_ids]
            theirs = processor(
                [decoded_upright(record.image) for record in chosen],
                annotations=[_coco_annotation(i, record) for i, record in enumerate(chosen)],
                return_tensors="pt",
            )["labels"]
            canvas = torch.tensor(batch.pixel_values.shape[-2:])
            for target, labels, size in zip(batch.targets, theirs, batch.sizes, strict=True):
                to_unpadded = (canvas / size).flip(0).repeat(2)  # Theirs are relative to the padded canvas.
                torch.testing.assert_close(target.boxes, labels["boxes"] * to_unpadded, atol=1e-5, rtol=0)
                assert torch.equal(target.category_ids, labels["class_labels"])
            assert not torch.equal(canvas.expand_as(batch.sizes), batch.sizes)

    @pytest.mark.parametrize(
        ("policy", "batch_size"),
        [
            (ResizePolicy(40, 60), 1),
            (ResizePolicy(40, 60), 5),
            (ResizePolicy(17, 300), 8),
            (ResizePolicy(500, 800), 3),
            (FixedSize(64, 200), 4),
            (LongestEdge(50), 5),
            (KeepSize(), 3),
        ],
        ids=str,
    )
    def test_the_oracle_finds_every_box_again(self, dataset: PreparedDataset, policy: Resize, batch_size: int) -> None:
        records = {record.image_id: record for record in dataset.records("train")}
        found = 0
        for batch in loader(dataset, batch_size=batch_size, policy=policy, pad=PadToLargest(multiple_of=7)):
            for predictions in targets_to_predictions(batch, "oracle"):
                objects = records[predictions.image_id].objects
                np.testing.assert_allclose(predictions.boxes, objects.boxes, atol=0.01)
                np.testing.assert_array_equal(predictions.category_ids, objects.category_ids)
                found += len(predictions)
        assert found == sum(len(record.objects) for record in records.values()) > 20


def _coco_annotation(number: int, record: ImageRecord) -> dict[str, Any]:
    rows = zip(xyxy_to_coco(record.objects.boxes).tolist(), record.objects.category_ids.tolist(), strict=True)
    return {
        "image_id": number,
        "annotations": [
            {"bbox": box, "category_id": label, "area": box[2] * box[3], "iscrowd": 0} for box, label in rows
        ],
    }


class TestOtherDatasets:
    @pytest.mark.parametrize("layout", [VocLayout, CocoLayout, NamelessLayout])
    def test_what_tfds_prepares_loads_as_it_is(self, tmp_path: Path, layout: Any) -> None:
        records = make_records(N)
        dataset = prepare_with_tfds(layout, tmp_path, records)
        assert len(dataset.shards("train")) == 3
        expected = {record.image_id: record for record in dataset.records("train")}
        seen: list[str] = []
        for batch in loader(dataset):
            seen += batch.image_ids
            for name, target, size in zip(batch.image_ids, batch.targets, batch.original_sizes.tolist(), strict=True):
                record = expected[name]
                assert tuple(size) == record.size
                assert target.category_ids.tolist() == record.objects.category_ids[~record.objects.is_crowd].tolist()
        assert seen == list(expected)
        assert sum(len(record.objects) for record in expected.values()) == sum(len(r.objects) for r in records)
        trained = [b.image_ids[0] for b in islice(loader(dataset, batch_size=1, training=True), N)]
        assert sorted(trained) == sorted(seen)

    def test_the_ids_are_theirs(self, tmp_path: Path) -> None:
        records = make_records(4)
        for layout, names in (
            (VocLayout, {"image000.jpg", "image001.jpg", "image002.jpg", "image003.jpg"}),
            (CocoLayout, {"1000", "1001", "1002", "1003"}),
            (NamelessLayout, {f"nameless_layout-train.tfrecord-00000-of-00001__{i}" for i in range(4)}),
        ):
            dataset = prepare_with_tfds(layout, tmp_path, records, num_shards=1)
            (batch,) = loader(dataset)
            assert set(batch.image_ids) == names

    def test_their_boxes_are_in_the_frame_as_stored(self, tmp_path: Path) -> None:
        turned = make_record("turned", 70, 50, orientation=6)
        as_stored = replace(make_record("turned", 50, 70), image=turned.image)
        (batch,) = loader(
            prepare_with_tfds(CocoLayout, tmp_path, [as_stored], num_shards=1), policy=ResizePolicy(50, 70)
        )
        assert batch.original_sizes.tolist() == [[50, 70]]
        stored = np.asarray(Image.open(io.BytesIO(turned.image)))
        assert torch.equal(batch.pixel_values[0].permute(1, 2, 0), torch.from_numpy(stored.copy()))

    def test_of_pairs_and_differences_the_detector_sees_the_difference(self, tmp_path: Path) -> None:
        before, after = make_record("before", 50, 70, n=0, seed=1), make_record("after", 50, 70, n=2, seed=2)
        after = replace(after, group_id=before.group_id)
        pair = FramePair("pair", before, after, after.objects)
        difference = pixels(50, 70, seed=3)
        pairs = write_ours(tmp_path / "pairs" / "1.0.0", [pair], [1], "pairs")
        differences = write_ours(tmp_path / "differences" / "1.0.0", [pair], [1], "differences", encode_png(difference))
        policy = ResizePolicy(50, 70)
        made = np.abs(decoded_upright(after.image).astype(int) - decoded_upright(before.image)).astype(np.uint8)
        for dataset, expected in ((pairs, made), (differences, difference)):
            (batch,) = loader(dataset, policy=policy)
            assert batch.image_ids == ("pair",)
            assert torch.equal(batch.pixel_values[0].permute(1, 2, 0), torch.from_numpy(expected.copy()))
            (found,) = targets_to_predictions(batch, "oracle")
            np.testing.assert_allclose(found.boxes, after.objects.boxes, atol=0.01)


PHOTOGRAPHS = Path(__file__).parents[3].parent / "shared" / "data" / "coco128" / "images" / "train2017"


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"needs the COCO photographs in {PHOTOGRAPHS}")
class TestPhotographs:
    @pytest.fixture(scope="class")
    def photographs(self, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
        records = list(_photographs())
        half = len(records) // 2
        return write_ours(tmp_path_factory.mktemp("coco") / "small" / "1.0.0", records, [half, len(records) - half])

    @pytest.mark.parametrize(
        ("policy", "limit"),
        [
            (ResizePolicy(480, 640), None),
            (ResizePolicy(800, 1333), 16),
            (FixedSize(512, 512), 16),
            (LongestEdge(600), 16),
            (KeepSize(), 16),
        ],
        ids=str,
    )
    def test_batches_equal_hugging_face(self, photographs: PreparedDataset, policy: Resize, limit: int | None) -> None:
        images = {record.image_id: record.image for record in photographs.records("train")}
        grey = 0
        for batch in loader(photographs, batch_size=8, policy=policy, limit=limit):
            assert_like_hugging_face(batch, [decoded_upright(images[name]) for name in batch.image_ids], policy)
            grey += sum(Image.open(io.BytesIO(images[name])).mode == "L" for name in batch.image_ids)
        assert grey == 1 or limit is not None


def _photographs() -> Iterator[ImageRecord]:
    for seed, path in enumerate(sorted(PHOTOGRAPHS.glob("*.jpg"))):
        data = path.read_bytes()
        width, height = Image.open(io.BytesIO(data)).size
        yield make_record(path.stem, height, width, seed=seed, image=data)
