"""Detectron2 over a prepared dataset: its dicts, their registration, and its own trainer.

    from trainers.detectron2_bridge import configure, register, train

    names = {split: register(dataset, split, media=Path("media")) for split in ("train", "validation")}
    cfg = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml")
    train(configure(cfg, dataset, names["train"], names["validation"]))

Detectron2 opens files: the images are written once, byte for byte, below `media`. What it wants is in its documentation
("Use Custom Datasets", version 0.6); it is imported only where something is registered or trained, because it has to be
built (it is not on PyPI).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from dataflow.records import ImageRecord
from tfds_builders.formats.detectron2_writer import valid_segmentation
from tfds_builders.writing import ImageNumbers
from trainers.media import safe_name, write_media

XYXY_ABS = 0
"""`BoxMode.XYXY_ABS` of Detectron2: corners in pixels."""
_LARGEST_ID = 2**63
_FINGERPRINT = 12


def dicts(dataset: PreparedDataset, split: str, media: Path) -> list[dict[str, Any]]:
    """Detectron2's standard dataset dicts of a split, the same at every call.

    Image ids are numbers, the source's where it has one, as `export --format detectron2` has them, and `shardbox_id` is
    ours; class ids are ours. Regions to ignore are `iscrowd`: its trainer leaves them out, its evaluator does not count
    them. Masks are polygons, or run lengths as pycocotools compresses them, for which `cfg.INPUT.MASK_FORMAT` must be
    "bitmask".

    Args:
        media: directory for the images, which are written below it unless they are there.

    Raises:
        UsageError: no such split, or a dataset of pairs, which has no image to show.
    """
    dataset.check_split(split)
    if dataset.layout.kind == "pairs":
        raise UsageError(f"{dataset.path} holds pairs, of which Detectron2 has no notion", "make `shardbox diff` of it")
    folder = Path(media) / f"{safe_name(dataset.name)}-{dataset.fingerprint[:_FINGERPRINT]}" / safe_name(split)
    numbers = ImageNumbers(first=1, limit=_LARGEST_ID)
    return [
        {
            "file_name": str(write_media(folder, record.image_id, record.image, record.orientation)),
            "height": record.height,
            "width": record.width,
            "image_id": numbers.number(record.source_id),
            "shardbox_id": record.image_id,
            "annotations": list(_annotations(record)),
        }
        for record in dataset.records(split)
    ]


def _annotations(record: ImageRecord) -> Iterator[dict[str, Any]]:
    objects = record.objects
    for i, box in enumerate(objects.boxes.tolist()):
        annotation: dict[str, Any] = {
            "bbox": box,
            "bbox_mode": XYXY_ABS,
            "category_id": int(objects.category_ids[i]),
            "iscrowd": int(objects.is_crowd[i]),
        }
        mask = valid_segmentation(objects.segmentations[i])
        if mask is not None:
            annotation["segmentation"] = _compressed(mask, record) if isinstance(mask, dict) else mask
        yield annotation


def _compressed(mask: dict[str, Any], record: ImageRecord) -> dict[str, Any]:
    """Run lengths in pycocotools' own form, which is what Detectron2 decodes."""
    if isinstance(mask["counts"], str | bytes):
        return mask
    from pycocotools.mask import frPyObjects

    found: dict[str, Any] = frPyObjects(mask, record.height, record.width)
    return found


def register(dataset: PreparedDataset, split: str, media: Path, name: str | None = None) -> str:
    """Register a split with Detectron2 and return the name that it has there.

    The name holds the fingerprint unless it is given: Detectron2's evaluator keeps a file for each name, and would
    compare with it after the data have changed.

    Raises:
        UsageError: Detectron2 is not installed, the name is taken, or see `dicts`.
    """
    data = _detectron2("data")
    dataset.check_split(split)
    if dataset.layout.kind == "pairs":
        dicts(dataset, split, media)  # Says what is wrong before it is registered.
    if name is None:
        name = f"{dataset.name}_{split}_{dataset.fingerprint[:_FINGERPRINT]}"
    if name in data.DatasetCatalog.list():
        raise UsageError(f"Detectron2 knows a dataset {name!r} already", "give another name")
    data.DatasetCatalog.register(name, lambda: dicts(dataset, split, media))
    data.MetadataCatalog.get(name).set(
        thing_classes=list(dataset.categories.names),
        # Ids of its evaluator's COCO file, which it makes of the dicts: ours.
        thing_dataset_id_to_contiguous_id={index: index for index in range(len(dataset.categories))},
        evaluator_type="coco",
    )
    return name


def configure(cfg: Any, dataset: PreparedDataset, train_name: str, test_name: str | None = None) -> Any:
    """The configuration with the datasets and the number of classes set, wherever a detector of Detectron2 has it."""
    cfg.DATASETS.TRAIN = (train_name,)
    cfg.DATASETS.TEST = () if test_name is None else (test_name,)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = len(dataset.categories)
    return cfg


def train(cfg: Any, resume: bool = False) -> Any:
    """Train with Detectron2's `DefaultTrainer` as `cfg` says, and judge with its `COCOEvaluator`.

    Returns:
        What `DefaultTrainer.train` returns: the evaluator's figures, where there is a dataset to test on.

    Raises:
        UsageError: Detectron2 is not installed.
    """
    engine, evaluation = _detectron2("engine"), _detectron2("evaluation")

    class Trainer(engine.DefaultTrainer):  # type: ignore[misc, name-defined]
        """`DefaultTrainer` with an evaluator, which it leaves to its users."""

        @classmethod
        def build_evaluator(cls, cfg: Any, dataset_name: str, output_folder: str | None = None) -> Any:
            folder = output_folder or str(Path(cfg.OUTPUT_DIR) / "inference")
            return evaluation.COCOEvaluator(dataset_name, output_dir=folder)

    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer.train()


def _detectron2(part: str) -> Any:
    """A part of Detectron2."""
    from importlib import import_module

    try:
        return import_module(f"detectron2.{part}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "detectron2":
            raise
        raise UsageError(
            "Detectron2 is not installed, and is not on PyPI",
            "build it: pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2",
        ) from error
