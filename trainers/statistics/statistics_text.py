"""The statistics of a dataset as lines for a terminal."""

from collections.abc import Iterator, Sequence

from dataflow.tallies import SIZES, Tally
from trainers.statistics.dataset_statistics import Statistics, median_of_bins
from trainers.statistics.dataset_warnings import find_warnings

_CLASSES, _WARNINGS = 12, 8
_NAME_WIDTH = 24


def statistics_lines(statistics: Statistics) -> Iterator[str]:
    """A table of splits, one of the most frequent classes, and what is odd."""
    total, names = statistics.total, statistics.categories.names
    shown = sum(count > 0 for count in total.class_objects.values())
    yield f"{statistics.name}: {total.images} images, {total.objects} objects of {shown} of {len(names)} classes"
    several = len(statistics.splits) > 1
    yield from _table(
        ("split", "images", "empty", "objects", "an image", *SIZES, "ignored"),
        [_split_row(split, tally) for split, tally in statistics.splits.items()]
        + ([_split_row("all", total)] if several else []),
    )
    order = sorted(range(len(names)), key=lambda index: (-total.class_objects[str(index)], index))
    rows = [
        (
            _cut(names[index]),
            *(str(tally.class_objects[str(index)]) for tally in statistics.splits.values()),
            *((str(total.class_objects[str(index)]),) if several else ()),
            str(total.class_images[str(index)]),
        )
        for index in order[:_CLASSES]
    ]
    yield from _table(("class", *statistics.splits, *(("all",) if several else ()), "images"), rows)
    if len(names) > _CLASSES:
        yield f"  and {len(names) - _CLASSES} more classes"
    yield from _about_sizes(total)
    found = find_warnings(statistics)
    yield from (f"  warning: {sentence}" for sentence in found[:_WARNINGS])
    if len(found) > _WARNINGS:
        yield f"  and {len(found) - _WARNINGS} more warnings"


def _split_row(split: str, tally: Tally) -> tuple[str, ...]:
    sizes = (sum(n for name, n in tally.class_sizes.items() if name.endswith(f" {size}")) for size in SIZES)
    mean = f"{tally.objects / max(1, tally.images):.2f}"
    return (split, str(tally.images), str(tally.empty), str(tally.objects), mean, *map(str, sizes), str(tally.ignored))


def _about_sizes(total: Tally) -> Iterator[str]:
    if side := median_of_bins(total.sides):
        yield f"  objects: half are larger than about {side:.0f} x {side:.0f} px"
    if total.image_sizes:
        (size, count), *_ = total.image_sizes.most_common(1)
        yield f"  images: {len(total.image_sizes)} sizes, most often {size} px ({count})"
    if total.models:
        changes = ", ".join(f"{change} {count}" for change, count in total.changes.most_common())
        yield f"  changes: {changes or 'none'}"
    if known := sum(total.displacements.values()):
        yield f"  displacement: {total.displaced_mpx / 1000 / known:.1f} px on average, of {known} moved objects"
    if total.tracks:
        yield f"  tracks: {len(total.tracks)}, in {sum(total.tracks.values()) / len(total.tracks):.1f} images each"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    for row in (head, *rows):
        first, *rest = (
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        yield "  " + "  ".join([first, *rest]).rstrip()


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 3] + "..."
