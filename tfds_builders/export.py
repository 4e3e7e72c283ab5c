"""A prepared dataset to an annotation format: the way back."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from dataflow.progress import Progress
from tfds_builders.choices import EXPORTS, PAIR_FORMATS, ExportName, open_writer
from tfds_builders.losses import Loss, add_losses

EXPORT = "export.json"


def export_dataset(dataset: PreparedDataset, name: ExportName, out: Path, splits: Sequence[str]) -> dict[str, Any]:
    """Write the examples of `splits` into the directory `out`, and `export.json` that says what could not be held.

    Raises:
        UsageError: a split that is not there, pairs for a format of single images, or the reverse.
    """
    for split in splits:
        dataset.check_split(split)
    kind = dataset.layout.kind if dataset.layout.is_ours else "images"
    # Who trains with Detectron2 wants the differences as images; the other formats are to be read back.
    paired = kind == "pairs" or (kind == "differences" and name != "detectron2")
    if paired != (name in PAIR_FORMATS):
        what = "before/after pairs" if paired else "single images"
        fitting = ", ".join(format for format in EXPORTS if (format in PAIR_FORMATS) == paired)
        raise UsageError(f"{dataset.path} holds {what}, --format {name} does not", f"use --format {fitting}")
    writer = open_writer(name, out, dataset.categories, tuple(splits))
    progress = Progress(f"{dataset.name} as {name}", sum(dataset.splits[split] for split in splits), "examples")
    count = 0
    for split in splits:
        for record in dataset.pairs(split) if paired else dataset.records(split):
            writer.add(record, split)
            count += 1
            progress.update(count)
    writer.close()
    progress.close(count)
    if paired and kind == "differences":
        add_losses(writer.losses, {Loss.DIFFERENCES: count})
    result = {
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "format": name,
        "splits": {split: dataset.splits[split] for split in splits},
        "examples": count,
        "not_held": dict(sorted(writer.losses.items())),
    }
    (out / EXPORT).write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")
    return result
