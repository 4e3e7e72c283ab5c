"""How the App shows a stored dataset: the views that are saved with it, and its colours."""

from typing import Any

import fiftyone as fo

from trainers.fiftyone_database import GROUND_TRUTH, stored_info

CONFIDENT = "confident"
"""Name of the saved view that the App opens on."""
_COLOURS = {
    "tp": ("#19c58f", "#3b7f6c"),
    "fp": ("#ff5a36", "#ff5a36"),
    "fn": ("#e0ad00", "#e0ad00"),
    "ignored": ("#8d887e", "#8d887e"),
}
"""Of detections and of objects in the App, by what became of them; the report uses like colours."""


def save_views(stored: Any) -> None:
    """Save, or bring up to date, the views of all runs that are stored."""
    view = stored.view()
    for field, run in stored_info(stored)["runs"].items():
        view = view.filter_labels(field, {"$gte": ["$$this.confidence", run.get("score", 0.0)]}, only_matches=False)
    _save(stored, CONFIDENT, view, "What counts at the score of each run's best F1")


def _save(stored: Any, name: str, view: Any, description: str) -> None:
    stored.save_view(name, view, description=description, overwrite=True)


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
