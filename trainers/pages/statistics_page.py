"""The statistics of a dataset as a page that people read: `stats.html`, one file that opens without a network."""

import json
from collections.abc import Mapping
from pathlib import Path

from dataflow.tallies import GRID, SCORE_BINS, SIZES, Tally
from tfds_builders.pages.markup import Content, Markup, el, markup, plural
from tfds_builders.pages.page import Card, Section, cards, note, page
from tfds_builders.pages.tables import Cell, Shade, count, scrolling, shaded, share, table, words
from trainers.pages.histograms import Bars, draw_bars, draw_heat, log_bars
from trainers.statistics.dataset_statistics import STATISTICS, Statistics, median_of_bins
from trainers.statistics.dataset_warnings import find_warnings
from trainers.statistics.statistics_json import statistics_json

PAGE = "stats.html"
_CLASSES, _OPEN_CLASSES, _TOGETHER, _IMAGE_SIZES, _COLOURS = 100, 20, 14, 8, 4
_KINDS = {"images": "images", "pairs": "before/after pairs", "differences": "difference images"}


def write_statistics(statistics: Statistics, directory: Path) -> None:
    """Write `stats.json` and `stats.html`. The page is bounded: a hundred classes, the fourteen most frequent pairs."""
    content = json.dumps(statistics_json(statistics), indent=1, ensure_ascii=False, allow_nan=False)
    (directory / STATISTICS).write_text(content + "\n", encoding="utf-8")
    total = statistics.total
    sections = (
        _warnings(statistics),
        _splits(statistics, total),
        _classes(statistics, total),
        _objects(total),
        _images(statistics, total),
        _together(statistics, total),
        _changes(total),
        _copies(statistics),
    )
    foot = el(
        "p",
        f"All numbers are in {STATISTICS} beside this page. Regions to ignore are counted as such and as nothing else; "
        "small is below 32² px of area, large from 96² px on, as COCO has it.",
    )
    text = page("statistics", statistics.name, _headline(statistics, total), sections, foot)
    (directory / PAGE).write_text(text, encoding="utf-8")


def _headline(statistics: Statistics, total: Tally) -> Markup:
    classes = len(statistics.categories)
    shown = [
        Card(_KINDS[statistics.kind], f"{total.images:,}"),
        Card("objects", f"{total.objects:,}", f"{total.objects / max(1, total.images):.1f} an image"),
        Card("class" if classes == 1 else "classes", f"{classes:,}"),
        Card("without objects", f"{total.empty:,}", "images"),
    ]
    if total.ignored:
        shown.append(Card("regions to ignore", f"{total.ignored:,}"))
    if total.tracks:
        mean = sum(total.tracks.values()) / len(total.tracks)
        shown.append(Card("tracks", f"{len(total.tracks):,}", f"each in {mean:.1f} images on average"))
    return cards(shown)


def _warnings(statistics: Statistics) -> Section | None:
    found = find_warnings(statistics)
    if not found:
        return None
    listed = el("ul", [el("li", sentence) for sentence in found], class_="warned")
    return Section("odd", f"What is odd ({len(found)})", listed, "What is odd")


def _splits(statistics: Statistics, total: Tally) -> Section:
    every = {**statistics.splits, **({"all": total} if len(statistics.splits) > 1 else {})}
    heads = ("split", "images", "without objects", "objects", "an image", *SIZES, "ignored", "scenes")
    rows = [
        [
            words(split),
            count(tally.images),
            count(tally.empty),
            count(tally.objects),
            Cell(f"{tally.objects / max(1, tally.images):.2f}"),
            *(Cell(share(_of_size(tally, size), tally.objects)) for size in SIZES),
            count(tally.ignored),
            count(len(tally.scenes)),
        ]
        for split, tally in every.items()
    ]
    return Section("splits", "Splits", table("splits", heads, rows, sorts=False), "Splits")


def _classes(statistics: Statistics, total: Tally) -> Section:
    names, splits = statistics.categories.names, list(statistics.splits)
    several = len(splits) > 1
    order = sorted(range(len(names)), key=lambda index: (-total.class_objects[str(index)], index))
    rows = [_class_row(statistics, total, index) for index in order[:_CLASSES]]
    heads = ("class", "share", "objects", *(splits if several else ()), "images", *SIZES)
    rest, more = rows[_OPEN_CLASSES:], len(names) - _CLASSES
    legend = [el("span", el("i", class_=f"k{min(place, _COLOURS - 1)}"), split) for place, split in enumerate(splits)]
    content = markup(
        el("div", legend, class_="legend") if several else None,
        table("classes", heads, rows[:_OPEN_CLASSES]),
        el("details", el("summary", f"{len(rest)} more classes"), table("more classes", heads, rest)) if rest else None,
        note(f"and {more} more classes, in {STATISTICS}") if more > 0 else None,
    )
    return Section("classes", "Classes", content, "Classes")


def _class_row(statistics: Statistics, total: Tally, index: int) -> list[Cell]:
    """A class: its objects as a bar of the splits' pieces and as counts, its images, and its sizes."""
    key, of = str(index), total.class_objects[str(index)]
    largest = max([1, *total.class_objects.values()])
    pieces = [
        el(
            "i",
            class_=f"k{min(place, _COLOURS - 1)}",
            style=f"--p:{100 * tally.class_objects[key] / max(1, of):.2f}%",
            title=f"{split}: {tally.class_objects[key]:,}",
        )
        for place, (split, tally) in enumerate(statistics.splits.items())
    ]
    bar = el("div", pieces, class_="stack", style=f"--v:{100 * of / largest:.2f}%") if of else None
    several = len(statistics.splits) > 1
    return [
        words(statistics.categories.names[index]),
        Cell("", of, drawn=bar),
        count(of),
        *(count(tally.class_objects[key]) for tally in statistics.splits.values() if several),
        count(total.class_images[key]),
        *(Cell(share(n, of), n / of if of else None) for n in (total.class_sizes[f"{key} {size}"] for size in SIZES)),
    ]


def _objects(total: Tally) -> Section | None:
    if not total.objects:
        return None
    median = median_of_bins(total.sides) or 0.0
    side = log_bars("objects by the root of their box's area", total.sides, "px", (32.0, 96.0))
    said = f"The root of a box's area, px; the median is about {median:.0f}. Lines: small to 32, large from 96."
    parts = (
        _part("How large objects are", draw_bars(side), said),
        _part("Width of boxes", draw_bars(log_bars("objects by width", total.widths, "px")), "px"),
        _part("Shape", draw_bars(log_bars("objects by shape", total.aspects, "", (1.0,))), "Width over height."),
        _part("Height of boxes", draw_bars(log_bars("objects by height", total.heights, "px")), "px"),
    )
    return Section("objects", "Objects", el("div", parts, class_="pair"), "Objects")


def _part(title: str, drawn: Content, said: str = "") -> Markup:
    return el("div", el("h3", title), drawn, note(said) if said else None)


def _images(statistics: Statistics, total: Tally) -> Section:
    counts = {int(number): images for number, images in total.objects_in_image.items()}
    rows = [[words(size), count(n), Cell(share(n, total.images), n)] for size, n in _common(total.image_sizes)]
    more = len(total.image_sizes) - _IMAGE_SIZES
    sizes = table("sizes of images", ("width x height", "images", "share"), rows)
    parts = [
        _part("Objects in an image", draw_bars(_few(counts)), f"at most {max(counts, default=0):,}"),
        _part("Sizes of images, px", sizes, f"and {plural(more, 'other size')}" if more > 0 else ""),
    ]
    if total.objects:
        width, height = map(int, _common(total.image_sizes)[0][0].split(" x "))
        peak = int(total.heat.max())
        said = f"Of {total.objects:,} objects at most {peak:,} touch one cell of {GRID} x {GRID} of their image."
        parts.append(_part("Where objects are", draw_heat(total.heat, width / height), said))
    return Section("images", _KINDS[statistics.kind].capitalize(), el("div", parts, class_="pair"), "Images")


def _few(counts: Mapping[int, int]) -> Bars:
    """Images by their number of objects, in at most forty bars of equal width."""
    top = max(counts, default=0)
    width = top // 40 + 1
    values = [0] * (top // width + 1)
    for objects, images in counts.items():
        values[objects // width] += images
    step = max(1, len(values) // 8)
    names = [str(i * width) if width == 1 else f"{i * width} to {i * width + width - 1}" for i in range(len(values))]
    ticks = {i + 0.5: str(i * width) for i in range(0, len(values), step)}
    return Bars("images by their number of objects", values, names, ticks)


def _together(statistics: Statistics, total: Tally) -> Section | None:
    if not total.class_pairs:
        return None
    names = statistics.categories.names
    shown: list[int] = []
    for pair, _ in total.class_pairs.most_common():
        shown += [index for index in map(int, pair.split()) if index not in shown]
        if len(shown) >= _TOGETHER:
            break
    shown = sorted(shown[:_TOGETHER], key=lambda index: -total.class_images[str(index)])
    largest = max(total.class_pairs.values())

    def cell(a: int, b: int) -> Shade:
        n = total.class_pairs[f"{min(a, b)} {max(a, b)}"]
        return Shade("–") if a == b else Shade(f"{n:,}" if n else "", n / largest)

    rows = [(names[a], [cell(a, b) for b in shown]) for a in shown]
    listed = el("div", shaded([names[index] for index in shown], rows), class_="names")
    title = "Classes that come together"
    return Section("together", title, markup(note("Images that show both."), scrolling(title, listed)), "Together")


def _changes(total: Tally) -> Section | None:
    if not total.models:
        return None
    order = sorted(total.changes.items(), key=lambda item: (-item[1], item[0]))
    rows = [[words(change), count(n), Cell(share(n, total.objects), n)] for change, n in order]
    parts = [_part("What became of objects", table("changes", ("change", "objects", "share"), rows))]
    if known := sum(total.displacements.values()):
        plot = draw_bars(log_bars("moved objects by displacement", total.displacements, "px"))
        mean = total.displaced_mpx / 1000 / known
        said = f"px between the middles of the two boxes of {plural(known, 'moved object')}; {mean:.1f} on average."
        parts.append(_part("How far objects moved", plot, said))
    scores = [total.scores[str(score)] for score in range(SCORE_BINS)]
    names = [f"{i / SCORE_BINS:.2f} to {(i + 1) / SCORE_BINS:.2f}" for i in range(SCORE_BINS)]
    ticks = {float(i): f"{i / SCORE_BINS:.1f}" for i in range(0, SCORE_BINS + 1, 4)}
    plot = draw_bars(Bars("pairs by alignment score", scores, names, ticks))
    models = ", ".join(f"{model} {n:,}" for model, n in total.models.most_common())
    parts.append(_part("Alignment score of pairs", plot, f"Movement of the camera: {models}."))
    return Section("changes", "Changes", el("div", parts, class_="pair"), "Changes")


def _copies(statistics: Statistics) -> Section | None:
    copies = statistics.copies
    if not copies.images:
        return None
    items = [el("li", ", ".join(f"{name} ({split})" for split, name in group[:6])) for group in copies.shown]
    said = note(f"{plural(copies.images, 'image')} with a copy, {copies.across_splits:,} of them in another split.")
    return Section("copies", "Copies", markup(said, el("ul", items, class_="warned")), "Copies")


def _common(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_IMAGE_SIZES]


def _of_size(tally: Tally, size: str) -> int:
    return sum(count for name, count in tally.class_sizes.items() if name.endswith(f" {size}"))
