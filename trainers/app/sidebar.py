"""What a user finds beside the pictures in the App: groups of fields, and what each field is."""

from collections.abc import Mapping
from typing import Any

import fiftyone as fo

from trainers.app.database import GROUND_TRUTH, run_label, stored_info

FINDINGS, FINDING_BOXES = "findings", "finding_boxes"
_IMAGE: Mapping[str, str] = {
    "image_id": "The image, or the pair of frames, as `shardbox` names it",
    "split": "The split that the image is in",
    "scene": "Images of one scene are in one split",
    "frame": "The file of this frame",
    "alignment_score": "How well the frames of the pair could be aligned, from 0 to 1",
    "provenance": "The file and line of the source that the image comes from",
}
_AUDIT: Mapping[str, str] = {
    FINDINGS: "What `shardbox ingest` found wrong with the image, as audit.html shows it",
    FINDING_BOXES: "The boxes that the findings are about",
}
SAMPLE_DESCRIPTIONS: Mapping[str, str] = {
    **_IMAGE,
    **_AUDIT,
    GROUND_TRUTH: "The objects of the prepared dataset; edits here go back with `shardbox browse --export-tags`",
    f"{GROUND_TRUTH}.detections.area": "Area of the object, px2",
    f"{GROUND_TRUTH}.detections.iscrowd": "Whether it is a region to ignore, which is neither found nor missed",
    f"{GROUND_TRUTH}.detections.object": "The place of the object among those of its image",
    f"{GROUND_TRUTH}.detections.change": "What became of the object between the frames",
}
"""What the fields of every stored dataset are, by path."""


def run_descriptions(label: str, field: str, key: str) -> dict[str, str]:
    """What the fields of a run are, by path: its detections in `field`, its evaluation by `key`."""
    told = {
        field: f"All detections of {label}; the view `confident` has those that count",
        f"{key}_tp": f"Right detections of {label}, of any score (IoU 0.50)",
        f"{key}_fp": f"Wrong detections of {label}, of any score",
        f"{key}_fn": f"Objects that {label} missed at any score",
        f"{key}_cost": f"AP50 that {label} would gain if all in this image were right; sort by it for the worst",
        f"{field}.detections.{key}_cause": "Suspected of a wrong detection where nothing changed",
    }
    for side, other in ((GROUND_TRUTH, "detection"), (field, "object")):
        path = f"{side}.detections.{key}"
        told |= {
            path: "What became of the box: tp right, fp wrong, fn missed, or ignored",
            f"{path}_id": f"The {other} that it was matched to",
            f"{path}_iou": f"Overlap (IoU) with the {other} that it was matched to",
            f"{path}_error": "The kind of error, at the score of the best F1 (TIDE)",
        }
    return told


def arrange(stored: Any) -> None:
    """Put fields that are in no group of the sidebar yet into groups that say what is in them, the most wanted first.

    Groups that a user made, and fields that a user moved, stay as they are.
    """
    earlier = list(stored.app_config.sidebar_groups or ())
    placed = {path for group in earlier for path in group.paths}
    schema = stored.get_field_schema()
    wanted = {
        name: new
        for name, paths in _groups(stored).items()
        if (new := [path for path in paths if path in schema and path not in placed])
    }
    if not wanted:
        return
    taken = {path for paths in wanted.values() for path in paths}
    groups = earlier or [_without(group, taken) for group in fo.DatasetAppConfig.default_sidebar_groups(stored)]
    by_name = {group.name: group for group in groups}
    for name, paths in wanted.items():
        if name in by_name:
            by_name[name].paths = [*by_name[name].paths, *paths]
    made = [fo.SidebarGroupDocument(name=name, paths=paths) for name, paths in wanted.items() if name not in by_name]
    # FiftyOne's own first group are the tags.
    first = int(bool(groups) and groups[0].name == "tags")
    # What says where a picture lies comes after all that says what is in it.
    stored.app_config.sidebar_groups = [*groups[:first], *made, *groups[first:]]
    stored.save()


def _groups(stored: Any) -> dict[str, list[str]]:
    """The fields of each group."""
    runs = stored_info(stored)["runs"]
    groups = {"ground truth": [GROUND_TRUTH], "predictions": list(runs)}
    for run in runs.values():
        key = run["evaluation"]
        groups[f"errors and cost of {run_label(run)}"] = [f"{key}_{name}" for name in ("cost", "fp", "fn", "tp")]
    return {**groups, "findings of ingest": list(_AUDIT), "image": list(_IMAGE)}


def _without(group: Any, taken: set[str]) -> Any:
    return fo.SidebarGroupDocument(
        name=group.name, paths=[path for path in group.paths if path not in taken], expanded=group.name == "tags"
    )
