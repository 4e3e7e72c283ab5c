"""The statistics of a dataset in JSON's types: `stats.json`."""

from collections.abc import Mapping
from typing import Any

from dataflow.tallies import SCORE_BINS, SIZES, Tally
from trainers.statistics.dataset_statistics import FORMAT_VERSION, Statistics, median_of_bins, shared_scenes
from trainers.statistics.dataset_warnings import find_warnings


def statistics_json(statistics: Statistics) -> dict[str, Any]:
    """All that was counted, by split and in all, and what is odd about it.

    Histograms are lists of `[from, to, count]`, in px, ratios or scores.
    """
    names = statistics.categories.names
    copies = statistics.copies
    return {
        "format_version": FORMAT_VERSION,
        "dataset": statistics.name,
        "fingerprint": statistics.fingerprint,
        "kind": statistics.kind,
        "categories": [{"id": index, "name": name} for index, name in enumerate(names)],
        "warnings": list(find_warnings(statistics)),
        "splits": {split: _numbers(tally, names) for split, tally in statistics.splits.items()},
        "total": _numbers(statistics.total, names),
        "scenes_in_several_splits": shared_scenes(statistics),
        "copies": {
            "images": copies.images,
            "across_splits": copies.across_splits,
            "shown": [[{"split": split, "image_id": name} for split, name in group] for group in copies.shown],
        },
    }


def _numbers(tally: Tally, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "images": tally.images,
        "images_without_objects": tally.empty,
        "objects": tally.objects,
        "ignored_regions": tally.ignored,
        "truncated": tally.truncated,
        "boxes_without_area": tally.without_area,
        "sizes": {size: sum(tally.class_sizes[f"{i} {size}"] for i in range(len(names))) for size in SIZES},
        "classes": {
            name: {
                "objects": tally.class_objects[str(index)],
                "images": tally.class_images[str(index)],
                **{size: tally.class_sizes[f"{index} {size}"] for size in SIZES},
            }
            for index, name in enumerate(names)
        },
        "together": [
            {"classes": [names[int(index)] for index in pair.split()], "images": count}
            for pair, count in tally.class_pairs.most_common()
        ],
        "objects_in_image": dict(sorted(_whole(tally.objects_in_image).items())),
        "image_sizes": dict(tally.image_sizes.most_common()),
        "box_width_px": octaves(tally.widths),
        "box_height_px": octaves(tally.heights),
        "box_side_px": octaves(tally.sides),
        "box_side_px_median": median_of_bins(tally.sides),
        "box_aspect": octaves(tally.aspects),
        "where": tally.heat.tolist(),
        "scenes": len(tally.scenes),
        "tracks": len(tally.tracks),
        "images_of_a_track": sum(tally.tracks.values()) / len(tally.tracks) if tally.tracks else None,
        **({"changes": _changes(tally)} if tally.models else {}),
    }


def _changes(tally: Tally) -> dict[str, Any]:
    moved = sum(tally.displacements.values())
    return {
        "objects": dict(sorted(tally.changes.items())),
        "displacement_px": octaves(tally.displacements),
        "displacement_px_mean": tally.displaced_mpx / 1000 / moved if moved else None,
        "displacement_known": moved,
        "alignment_score": [
            [score / SCORE_BINS, (score + 1) / SCORE_BINS, tally.scores[str(score)]]
            for score in range(SCORE_BINS)
            if tally.scores[str(score)]
        ],
        "alignment_models": dict(tally.models.most_common()),
    }


def octaves(counts: Mapping[str, int]) -> list[list[float]]:
    """`[from, to, count]` of each quarter octave from the first that holds something to the last; `none` is 0 to 0."""
    bins = _whole({name: count for name, count in counts.items() if name != "none"})
    still = [[0.0, 0.0, counts["none"]]] if "none" in counts else []
    if not bins:
        return still
    span = range(min(bins), max(bins) + 1)
    return [*still, *([2 ** (k / 4), 2 ** ((k + 1) / 4), bins.get(k, 0)] for k in span)]


def _whole(counts: Mapping[str, int]) -> dict[int, int]:
    return {int(name): count for name, count in counts.items()}
