"""What the audit of a dataset found, in FiftyOne: on the images that were prepared, and those that were kept out."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
from bson import ObjectId

from dataflow.boxes import xyxy_to_fiftyone
from dataflow.images import ImageError, encode_png, read_header
from dataflow.prepared import AUDIT, PreparedDataset
from trainers.app import documents
from trainers.app.database import FIRST_SLICE, stored_info, update_info
from trainers.app.sidebar import FINDING_BOXES, FINDINGS
from trainers.app.views import QUARANTINED
from trainers.evaluation.frames import dataset_kind
from trainers.media import mime_type, write_media

FINDING_FIELDS: Mapping[str, documents.FieldType] = {
    FINDINGS: fo.Classifications,
    FINDING_BOXES: fo.Detections,
    **{f"{FINDINGS}.classifications.{name}": fo.StringField for name in ("severity", "value", "place", "remedy")},
}
"""Which fields findings have, by path."""


@dataclass(frozen=True)
class Findings:
    """The findings of a dataset by image id, as `audit.json` has them, and which images were kept out."""

    by_image: Mapping[str, Sequence[Mapping[str, Any]]]
    quarantined: Sequence[str]
    files: Mapping[str, str]
    """The image files of those, relative to the source."""


def read_findings(dataset: PreparedDataset) -> Findings:
    """What `audit.json` says of a dataset; nothing where it has none."""
    path = dataset.path / AUDIT
    audit = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    by_image = defaultdict(list)
    for finding in audit.get("findings", ()):
        if finding["image_id"]:
            by_image[finding["image_id"]].append(finding)
    return Findings(dict(by_image), audit.get("quarantined", []), audit.get("quarantined_files", {}))


def finding_fields(found: Sequence[Mapping[str, Any]], size: tuple[int, int] | None) -> dict[str, Any]:
    """The fields of a sample with these findings: a classification for each, and the boxes that they are about.

    `size` is (height, width) px of the upright image; None where its boxes cannot be drawn.
    """
    labels, boxes = [], []
    for finding in found:
        line = finding["line"]
        attributes = {
            "severity": finding["severity"],
            "value": finding["value"],
            "place": finding["file"] if line is None else f"{finding['file']}:{line}",
            "remedy": finding["remedy"],
        }
        labels.append(documents.classification({"label": finding["code"], **attributes}))
        if size is not None and finding["box"]:
            box = xyxy_to_fiftyone(np.array([finding["box"]], np.float32), size)[0].tolist()
            boxes.append(documents.detection({"label": finding["code"], "bounding_box": box}))
    return {
        FINDINGS: documents.classifications(labels) if labels else None,
        FINDING_BOXES: documents.detections(boxes) if boxes else None,
    }


def add_quarantined(stored: Any, dataset: PreparedDataset, findings: Findings, media: Path) -> int:
    """Add a sample for every image that was kept out, unless they are there; returns how many.

    Its picture is that of the source, where this is still to be had, else a grey one.
    """
    if stored_info(stored).get("quarantined") == len(findings.quarantined) or not findings.quarantined:
        return 0
    stored.delete_samples(stored.match_tags(QUARANTINED))
    slice_name = FIRST_SLICE[dataset_kind(dataset.layout)]
    source = dataset.manifest.get("source")
    root = Path(source) if isinstance(source, str) else None
    samples = [_sample(image_id, findings, root, media, slice_name) for image_id in findings.quarantined]
    documents.insert(stored, samples)
    update_info(stored, quarantined=len(samples))
    return len(samples)


def _sample(
    image_id: str, findings: Findings, root: Path | None, media: Path, slice_name: str | None
) -> documents.Document:
    found = findings.by_image.get(image_id, ())
    path = next(_source_images(image_id, findings, root), None)
    size = None
    if path is None:
        grey = encode_png(np.full((240, 320, 3), 96, np.uint8))
        path = write_media(media / QUARANTINED, "no picture", grey)
    else:
        size = read_header(path.read_bytes()).size
    metadata = {"size_bytes": path.stat().st_size, "mime_type": mime_type(path)}
    metadata |= dict(zip(("height", "width", "num_channels"), (*(size or (240, 320)), 3), strict=True))
    fields: dict[str, Any] = {"image_id": image_id, **finding_fields(found, size)}
    if slice_name is not None:
        fields["group"] = documents.group_element(ObjectId(), slice_name)
    return documents.sample(str(path), [QUARANTINED], metadata, fields)


def _source_images(image_id: str, findings: Findings, root: Path | None) -> Iterator[Path]:
    """Files of the source that show the image."""
    if root is None:
        return
    names = [findings.files.get(image_id), *(finding["file"] for finding in findings.by_image.get(image_id, ()))]
    for name in filter(None, names):
        path = (root / str(name)).resolve()
        try:
            read_header(path.read_bytes())
        except (OSError, ValueError, ImageError):
            continue
        yield path
