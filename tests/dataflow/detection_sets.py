"""Small prepared datasets for the bridge's tests: ours in several shards, and some that TFDS itself prepares."""

import io
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dataflow.boxes import xyxy_to_tfds
from dataflow.prepared import PreparedDataset
from dataflow.records import Categories, FramePair, ImageRecord, Objects
from dataflow.schema import Kind, build_features, pair_to_example, record_to_example
from dataflow.shards import FileFormat, Outcome, ShardFormat, ShardKey, split_infos, write_shard
from dataflow.tensorflow_runtime import load_tensorflow
from tests.factories import photograph

CATEGORIES = Categories(("person", "car", "dog"))


def random_objects(size: tuple[int, int], n: int, seed: int, crowd: bool = False) -> Objects:
    """`n` random boxes inside an image of `size`; with `crowd`, the last is an ignore region."""
    rng = np.random.default_rng(seed)
    height, width = size
    low = rng.uniform(0, 0.7, (n, 2))
    high = low + rng.uniform(0.05, 0.3, (n, 2))
    boxes = np.concatenate([low, high], axis=1) * [width, height, width, height]
    is_crowd = np.zeros(n, np.bool_)
    is_crowd[n - 1 :] = crowd
    return Objects(boxes=boxes.astype(np.float32), category_ids=rng.integers(0, 3, n), is_crowd=is_crowd)


def make_record(name: str, height: int, width: int, n: int = 2, seed: int = 0, **picture: Any) -> ImageRecord:
    """A record whose upright image is height x width; `picture` goes to the photograph's factory."""
    orientation = picture.get("orientation") or 1
    stored = (width, height) if orientation >= 5 else (height, width)
    return ImageRecord(
        image_id=name,
        image=picture.pop("image", None) or photograph(*stored, seed=seed, **picture),
        height=height,
        width=width,
        objects=random_objects((height, width), n, seed),
        group_id=name,
        provenance=f"test:{name}",
        filename=f"{name}.jpg",
        orientation=orientation,
    )


def make_records(n: int, seed: int = 0) -> list[ImageRecord]:
    """Records of many sizes and shapes, the first of them without objects."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(24, 90, (n, 2)).tolist()
    return [make_record(f"image{i:03d}", *size, n=i % 4, seed=i) for i, size in enumerate(sizes)]


def write_ours(
    directory: Path,
    records: Sequence[ImageRecord] | Sequence[FramePair],
    lengths: Sequence[int],
    kind: Kind = "images",
    difference: bytes | None = None,
    *,
    file_format: FileFormat = "tfrecord",
) -> PreparedDataset:
    """A prepared dataset of ours with one split `train`, whose shards hold `lengths` examples."""
    assert sum(lengths) == len(records)
    directory.mkdir(parents=True)
    shard_format = ShardFormat("small", CATEGORIES, kind, file_format)
    remaining = iter(records)
    results = []
    for index, length in enumerate(lengths):
        outcomes = []
        for _ in range(length):
            record = next(remaining)
            if isinstance(record, FramePair):
                outcomes.append(Outcome(record.pair_id, pair_to_example(record, difference)))
            else:
                outcomes.append(Outcome(record.image_id, record_to_example(record)))
        results.append(write_shard(directory, shard_format, ShardKey("train", index, len(lengths)), outcomes))
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=build_features(CATEGORIES, kind),
        split_infos=split_infos(results, shard_format, directory),
        check_data=False,
    )
    return PreparedDataset(directory)


class _TfdsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A dataset as TFDS makes them: its own features, encoding, shuffling and writing."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos: Mapping[str, Any] = {}  # Nothing is downloaded, so TFDS need not look for checksums.
    FEATURES: tfds.features.FeaturesDict

    def __init__(self, records: Sequence[ImageRecord], **options: Any) -> None:
        self.records = records
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=self.FEATURES)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, record in enumerate(self.records):
            relative = xyxy_to_tfds(record.objects.boxes, record.size)
            rows = zip(relative.tolist(), record.objects.category_ids.tolist(), strict=True)
            boxes = [(tfds.features.BBox(*box), int(label)) for box, label in rows]
            yield record.image_id, self._example(record, number, boxes)

    @abstractmethod
    def _example(self, record: ImageRecord, number: int, boxes: list[tuple[Any, int]]) -> dict[str, Any]:
        """The example of a record in this layout."""


class VocLayout(_TfdsBuilder, skip_registration=True):
    """The features of TFDS's `voc`: no ids, but file names; difficult objects; labels of the whole image."""

    FEATURES = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "image/filename": tfds.features.Text(),
            "objects": tfds.features.Sequence(
                {
                    "label": tfds.features.ClassLabel(names=CATEGORIES.names),
                    "bbox": tfds.features.BBoxFeature(),
                    "pose": tfds.features.ClassLabel(names=["front", "rear"]),
                    "is_truncated": np.bool_,
                    "is_difficult": np.bool_,
                }
            ),
            "labels": tfds.features.Sequence(tfds.features.ClassLabel(num_classes=3)),
        }
    )

    def _example(self, record: ImageRecord, number: int, boxes: list[tuple[Any, int]]) -> dict[str, Any]:
        return {
            "image": io.BytesIO(record.image),
            "image/filename": record.filename,
            "objects": [
                {"label": label, "bbox": box, "pose": 0, "is_truncated": False, "is_difficult": i == 0}
                for i, (box, label) in enumerate(boxes)
            ],
            "labels": sorted({label for _, label in boxes}),
        }


class CocoLayout(_TfdsBuilder, skip_registration=True):
    """The features of TFDS's `coco`: numbers as ids, areas, crowds."""

    FEATURES = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence(
                {
                    "id": np.int64,
                    "area": np.int64,
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.ClassLabel(names=CATEGORIES.names),
                    "is_crowd": np.bool_,
                }
            ),
        }
    )

    def _example(self, record: ImageRecord, number: int, boxes: list[tuple[Any, int]]) -> dict[str, Any]:
        return {
            "image": io.BytesIO(record.image),
            "image/filename": record.filename,
            "image/id": 1000 + number,
            "objects": [
                {"id": i, "area": 10, "bbox": box, "label": label, "is_crowd": i == 0}
                for i, (box, label) in enumerate(boxes)
            ],
        }


class NamelessLayout(_TfdsBuilder, skip_registration=True):
    """As little as a detection dataset can have: neither ids nor file names, and objects under another name."""

    FEATURES = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "faces": tfds.features.Sequence(
                {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(names=CATEGORIES.names)}
            ),
        }
    )

    def _example(self, record: ImageRecord, number: int, boxes: list[tuple[Any, int]]) -> dict[str, Any]:
        return {
            "image": io.BytesIO(record.image),
            "faces": [{"bbox": box, "label": label} for box, label in boxes],
        }


def prepare_with_tfds(
    layout: type[_TfdsBuilder], directory: Path, records: Sequence[ImageRecord], num_shards: int = 3
) -> PreparedDataset:
    """What TFDS's own code makes of these records in one of the layouts above."""
    load_tensorflow()
    builder = layout(records, data_dir=directory)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=num_shards))
    return PreparedDataset(builder.data_path)
