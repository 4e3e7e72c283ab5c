"""The statistics of a dataset as a page that people read: `stats.html`, one file that opens without a network."""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from dataflow.tallies import GRID, SCORE_BINS, SIZES, Tally
from tfds_builders.audit.markup import fill_page, html_text, plural
from trainers.dataset_statistics import STATISTICS, Statistics, median_of_bins
from trainers.dataset_warnings import find_warnings
from trainers.histograms import Bars, draw_bars, draw_heat, log_bars
from trainers.statistics_json import statistics_json

PAGE = "stats.html"
_CLASSES, _OPEN_CLASSES, _TOGETHER, _IMAGE_SIZES, _COLOURS = 100, 20, 14, 8, 4
_KINDS = {"images": "images", "pairs": "before/after pairs", "differences": "difference images"}


def write_statistics(statistics: Statistics, directory: Path) -> None:
    """Write `stats.json` and `stats.html`. The page is bounded: a hundred classes, the fourteen most frequent pairs."""
    content = json.dumps(statistics_json(statistics), indent=1, ensure_ascii=False, allow_nan=False)
    (directory / STATISTICS).write_text(content + "\n", encoding="utf-8")
    total = statistics.total
    sections = (
        _header(statistics, total),
        "<main>",
        _warnings(statistics),
        _splits(statistics, total),
        _classes(statistics, total),
        _objects(total),
        _images(statistics, total),
        _together(statistics, total),
        _changes(statistics, total),
        _copies(statistics),
        "</main>",
        f"<footer><p>All numbers are in {STATISTICS} beside this page. Regions to ignore are counted as such and as "
        "nothing else; small is below 32² px of area, large from 96² px on, as COCO has it.</p></footer>",
    )
    page = fill_page(
        files("trainers").joinpath(PAGE).read_text(encoding="utf-8"),
        title=f"Statistics of {html_text(statistics.name)}",
        body="\n".join(section for section in sections if section),
    )
    (directory / PAGE).write_text(page, encoding="utf-8")


def _header(statistics: Statistics, total: Tally) -> str:
    classes = len(statistics.categories)
    cards = [
        (f"{total.images:,}", _KINDS[statistics.kind]),
        (f"{total.objects:,}", "objects"),
        (f"{classes:,}", "class" if classes == 1 else "classes"),
        (f"{total.objects / max(1, total.images):.1f}", "objects an image"),
        (f"{total.empty:,}", "images without objects"),
    ]
    if total.ignored:
        cards.append((f"{total.ignored:,}", "regions to ignore"))
    if total.tracks:
        cards.append((f"{len(total.tracks):,}", "tracks"))
    drawn = "".join(f"<div><b>{value}</b><span>{what}</span></div>" for value, what in cards)
    return (
        f'<header><p class="eyebrow">Statistics</p><h1>{html_text(statistics.name)}</h1>'
        f'<div class="box sum">{drawn}</div></header>'
    )


def _warnings(statistics: Statistics) -> str:
    found = find_warnings(statistics)
    if not found:
        return ""
    items = "".join(f'<li class="w">{html_text(sentence)}</li>' for sentence in found)
    return _box(f"What is odd ({len(found)})", f'<ul class="warn">{items}</ul>')


def _splits(statistics: Statistics, total: Tally) -> str:
    every = {**statistics.splits, **({"all": total} if len(statistics.splits) > 1 else {})}
    head = ("split", "images", "without objects", "objects", "an image", *SIZES, "ignored", "scenes")
    rows = [
        (
            html_text(split),
            f"{tally.images:,}",
            f"{tally.empty:,}",
            f"{tally.objects:,}",
            f"{tally.objects / max(1, tally.images):.2f}",
            *(_share(_of_size(tally, size), tally.objects) for size in SIZES),
            f"{tally.ignored:,}",
            f"{len(tally.scenes):,}",
        )
        for split, tally in every.items()
    ]
    return _box("Splits", _table(head, rows))


def _classes(statistics: Statistics, total: Tally) -> str:
    names, splits = statistics.categories.names, list(statistics.splits)
    order = sorted(range(len(names)), key=lambda index: (-total.class_objects[str(index)], index))
    largest = max([1, *total.class_objects.values()])
    several = len(splits) > 1
    rows = []
    for index in order[:_CLASSES]:
        key = str(index)
        count = total.class_objects[key]
        pieces = "".join(
            f'<i class="k{min(place, _COLOURS - 1)}" style="--p:{100 * tally.class_objects[key] / max(1, count):.2f}%" '
            f'title="{html_text(split)}: {tally.class_objects[key]:,}"></i>'
            for place, (split, tally) in enumerate(statistics.splits.items())
        )
        bar = f'<div class="bar" style="--w:{100 * count / largest:.2f}%">{pieces}</div>'
        by_split = (f"{tally.class_objects[key]:,}" for tally in statistics.splits.values()) if several else ()
        by_size = (_share(total.class_sizes[f"{key} {size}"], count) for size in SIZES)
        images = f"{total.class_images[key]:,}"
        rows.append((html_text(names[index]), bar if count else "", f"{count:,}", *by_split, images, *by_size))
    head = ("class", "", "objects", *(map(html_text, splits) if several else ()), "images", *SIZES)
    colours = "".join(
        f'<span style="--k:var(--c{min(place, _COLOURS - 1)})">{html_text(split)}</span>'
        for place, split in enumerate(splits)
    )
    rest = rows[_OPEN_CLASSES:]
    folded = f"<details><summary>{len(rest)} more classes</summary>{_table(head, rest)}</details>" if rest else ""
    more = len(names) - _CLASSES
    note = f'<p class="soft">and {more} more classes, in {STATISTICS}</p>' if more > 0 else ""
    keys = f'<div class="keys2">{colours}</div>' if several else ""
    return _box("Classes", f"{keys}{_table(head, rows[:_OPEN_CLASSES])}{folded}{note}")


def _objects(total: Tally) -> str:
    if not total.objects:
        return ""
    median = median_of_bins(total.sides) or 0.0
    side = log_bars("objects by the root of their box's area", total.sides, "px", (32.0, 96.0))
    parts = (
        ("How large objects are", draw_bars(side), f"The root of a box's area, px; the median is about {median:.0f}."),
        ("Width of boxes", draw_bars(log_bars("objects by width", total.widths, "px")), "px"),
        ("Shape", draw_bars(log_bars("objects by shape", total.aspects, "", (1.0,))), "Width over height."),
        ("Height of boxes", draw_bars(log_bars("objects by height", total.heights, "px")), "px"),
    )
    drawn = "".join(f'<div><h3>{what}</h3>{plot}<p class="soft">{note}</p></div>' for what, plot, note in parts)
    return _box("Objects", f'<div class="pair">{drawn}</div>')


def _images(statistics: Statistics, total: Tally) -> str:
    counts = {int(count): images for count, images in total.objects_in_image.items()}
    rows = [(size, f"{count:,}", _share(count, total.images)) for size, count in _common(total.image_sizes)]
    more = len(total.image_sizes) - _IMAGE_SIZES
    note = f'<p class="soft">and {more} other sizes</p>' if more > 0 else ""
    parts = [
        f"<div><h3>Objects in an image</h3>{draw_bars(_few(counts))}"
        f'<p class="soft">at most {max(counts, default=0):,}</p></div>',
        f"<div><h3>Sizes of images, px</h3>{_table(('width x height', 'images', ''), rows)}{note}</div>",
    ]
    if total.objects:
        width, height = map(int, _common(total.image_sizes)[0][0].split(" x "))
        peak = int(total.heat.max())
        text = f"Of {total.objects:,} objects at most {peak:,} touch one cell of {GRID} x {GRID} of their image."
        parts.append(
            f"<div><h3>Where objects are</h3>{draw_heat(total.heat, width / height)}<p class='soft'>{text}</p></div>"
        )
    if total.tracks:
        mean = sum(total.tracks.values()) / len(total.tracks)
        told = f"{plural(len(total.tracks), 'track')}, each in {mean:.1f} images on average."
        parts.append(f"<div><h3>Tracks</h3><p>{told}</p></div>")
    return _box(_KINDS[statistics.kind].capitalize(), f'<div class="pair">{"".join(parts)}</div>')


def _few(counts: Mapping[int, int]) -> Bars:
    """Images by their number of objects, in at most forty bars of equal width."""
    top = max(counts, default=0)
    width = top // 40 + 1
    values = [0] * (top // width + 1)
    for count, images in counts.items():
        values[count // width] += images
    step = max(1, len(values) // 8)
    names = [str(i * width) if width == 1 else f"{i * width} to {i * width + width - 1}" for i in range(len(values))]
    ticks = {i + 0.5: str(i * width) for i in range(0, len(values), step)}
    return Bars("images by their number of objects", values, names, ticks)


def _together(statistics: Statistics, total: Tally) -> str:
    if not total.class_pairs:
        return ""
    names = statistics.categories.names
    shown: list[int] = []
    for pair, _ in total.class_pairs.most_common():
        shown += [index for index in map(int, pair.split()) if index not in shown]
        if len(shown) >= _TOGETHER:
            break
    shown = sorted(shown[:_TOGETHER], key=lambda index: -total.class_images[str(index)])
    largest = max(total.class_pairs.values())

    def cell(a: int, b: int) -> str:
        if a == b:
            return '<td style="--p:0%">–</td>'
        count = total.class_pairs[f"{min(a, b)} {max(a, b)}"]
        return f'<td style="--p:{round(70 * count / largest)}%">{count or ""}</td>'

    head = "".join(f"<th>{html_text(names[index])}</th>" for index in shown)
    rows = "".join(f"<tr><th>{html_text(names[a])}</th>{''.join(cell(a, b) for b in shown)}</tr>" for a in shown)
    table = f'<div class="scroll"><table class="grid"><thead><tr><th></th>{head}</tr></thead>{rows}</table></div>'
    return _box("Classes that come together", f'<p class="soft">Images that show both.</p>{table}')


def _changes(statistics: Statistics, total: Tally) -> str:
    if not total.models:
        return ""
    order = sorted(total.changes.items(), key=lambda item: (-item[1], item[0]))
    rows = [(html_text(change), f"{count:,}", _share(count, total.objects)) for change, count in order]
    parts = [f"<div><h3>What became of objects</h3>{_table(('change', 'objects', ''), rows)}</div>"]
    if known := sum(total.displacements.values()):
        plot = draw_bars(log_bars("moved objects by displacement", total.displacements, "px"))
        mean = total.displaced_mpx / 1000 / known
        note = f"px between the middles of the two boxes of {plural(known, 'moved object')}; {mean:.1f} on average."
        parts.append(f"<div><h3>How far objects moved</h3>{plot}<p class='soft'>{note}</p></div>")
    scores = [total.scores[str(score)] for score in range(SCORE_BINS)]
    names = [f"{i / SCORE_BINS:.2f} to {(i + 1) / SCORE_BINS:.2f}" for i in range(SCORE_BINS)]
    ticks = {float(i): f"{i / SCORE_BINS:.1f}" for i in range(0, SCORE_BINS + 1, 4)}
    plot = draw_bars(Bars("pairs by alignment score", scores, names, ticks))
    models = ", ".join(f"{html_text(model)} {count:,}" for model, count in total.models.most_common())
    parts.append(
        f"<div><h3>Alignment score of pairs</h3>{plot}<p class='soft'>Movement of the camera: {models}.</p></div>"
    )
    return _box("Changes", f'<div class="pair">{"".join(parts)}</div>')


def _copies(statistics: Statistics) -> str:
    copies = statistics.copies
    if not copies.images:
        return ""
    items = "".join(
        f'<li class="w">{", ".join(f"{html_text(name)} ({html_text(split)})" for split, name in group[:6])}</li>'
        for group in copies.shown
    )
    text = f"{plural(copies.images, 'image')} with a copy, {copies.across_splits:,} of them in another split."
    return _box("Copies", f'<p class="soft">{text}</p><ul class="warn">{items}</ul>')


def _box(title: str, content: str) -> str:
    return f'<section class="box"><h2>{title}</h2>{content}</section>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of HTML; the first column a name, others numbers, one without a name a bar."""

    def kind(place: int) -> str:
        return "name" if place == 0 else "wide" if head[place] == "" and place == 1 else "n"

    def cells(tag: str, values: Sequence[str]) -> Iterator[str]:
        yield from (f'<{tag} class="{kind(place)}">{value}</{tag}>' for place, value in enumerate(values))

    body = "".join(f"<tr>{''.join(cells('td', row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{"".join(cells("th", head))}</tr></thead>{body}</table></div>'


def _common(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_IMAGE_SIZES]


def _of_size(tally: Tally, size: str) -> int:
    return sum(count for name, count in tally.class_sizes.items() if name.endswith(f" {size}"))


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.0f} %" if total else "–"
