"""How the App shows a stored dataset: the views that are saved with it, and its colours."""

from collections.abc import Iterator, Mapping
from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F

from trainers.app.database import GROUND_TRUTH, all_slices, run_label, stored_info

CONFIDENT = "confident"
"""Name of the saved view that the App opens on."""
SUSPECTS = "label suspects"
QUARANTINED = "quarantined"
"""Tag of the samples whose image was kept out of the dataset, and name of the view that shows them."""
# COCO's small, medium and large, in px2.
_SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}
_COLOURS = {
    "tp": ("#19c58f", "#3b7f6c"),
    "fp": ("#ff5a36", "#ff5a36"),
    "fn": ("#e0ad00", "#e0ad00"),
    "ignored": ("#8d887e", "#8d887e"),
}
"""Of detections and of objects in the App, by what became of them; the report uses like colours."""


def save_views(stored: Any) -> None:
    """Save, or bring up to date, the views of what is stored; those that would show nothing are left out."""
    # What earlier versions stored has no such scores until the same run is stored again.
    runs = {field: run for field, run in stored_info(stored)["runs"].items() if "sure" in run}
    if runs:
        _save(stored, CONFIDENT, _confident(stored, runs), "What counts at the score of each run's best F1")
        _save(stored, SUSPECTS, _suspects(stored, runs), "Where sure detections of any run disagree with the truth")
    for field, run in runs.items():
        for name, (view, description) in _run_views(stored, field, run):
            _save(stored, f"{run_label(run)}: {name}", view, description)
    apart = all_slices(stored).match_tags(QUARANTINED)
    _save(stored, QUARANTINED, apart, "Images that were kept out of the dataset, with the findings that say why")


def _save(stored: Any, name: str, view: Any, description: str) -> None:
    if stored.has_saved_view(name):
        stored.delete_saved_view(name)
    if len(view):
        stored.save_view(name, view, description=description)


def _confident(stored: Any, runs: Mapping[str, Any]) -> Any:
    """All samples, without detections below the score of each run's best F1.

    Average precision wants a hundred detections an image, most of them hopeless; a person looking wants those that
    count, as the report shows them.
    """
    view = stored.match_tags(QUARANTINED, bool=False)
    for field, run in runs.items():
        view = view.filter_labels(field, F("confidence") >= run["score"], only_matches=False)
    return view


def _suspects(stored: Any, runs: Mapping[str, Any]) -> Any:
    """Samples where detections that are surer than half of a run's right ones have another class than the object they
    are on, or that are surer than nine tenths of them are on none; with these detections alone.
    """
    view = stored.exists(next(iter(runs)))
    for field, run in runs.items():
        error = F(f"{run['evaluation']}_error")
        other_class = (error == "classification") & (F("confidence") >= run["sure"])
        nowhere = (error == "background") & (F("confidence") >= run["very_sure"])
        view = view.filter_labels(field, other_class | nowhere, only_matches=False)
    any_left = [F(f"{field}.detections").length() > 0 for field in runs]
    return view.match(F.any(any_left))


def _run_views(stored: Any, field: str, run: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, str]]]:
    """The views of one run, each with its name and description."""
    key = run["evaluation"]
    confident = stored.exists(field).filter_labels(field, F("confidence") >= run["score"], only_matches=False)
    worst = confident.match(F(f"{key}_cost") > 0).sort_by(f"{key}_cost", reverse=True)
    yield "worst images", (worst, "By the AP50 that an image costs")
    wrong = stored.exists(field).filter_labels(field, (F(key) == "fp") & (F("confidence") >= run["sure"]))
    highest = F(f"{field}.detections").map(F("confidence")).max()
    surest = wrong.sort_by(highest, reverse=True)
    yield "confident false positives", (surest, "Wrong detections that are surer than half of the right ones")
    for size, (least, most) in _SIZES.items():
        missed = (F(f"{key}_error") == "missed") & (F("area") >= least) & (F("area") < most)
        view = confident.filter_labels(f"{GROUND_TRUTH}", missed)
        yield f"missed, {size}", (view, f"Objects of {least:g} to {most:g} px2 that no detection is near")
    moved = confident.filter_labels(field, F(f"{key}_cause") == "camera-motion")
    yield "camera motion", (moved, "Wrong detections that a movement of the camera may explain")


def colour(stored: Any, field: str, key: str) -> None:
    """Have the App colour a run's detections, and the truth, by what became of them in that run."""
    scheme = stored.app_config.color_scheme or fo.ColorScheme(color_by="value", fields=[])
    others = [entry for entry in scheme.fields or [] if entry["path"] not in (field, GROUND_TRUTH)]
    scheme.fields = others + [
        {
            "path": path,
            "colorByAttribute": key,
            "valueColors": [{"value": name, "color": colours[side]} for name, colours in _COLOURS.items()],
        }
        for side, path in enumerate((field, GROUND_TRUTH))
    ]
    stored.app_config.color_scheme = scheme
    stored.save()
