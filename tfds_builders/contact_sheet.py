"""The pairs of a dataset of differences that came off worst, as a page: `diff.html`, one file without a network."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from dataflow.aligned_pair import align_pair, carry_objects
from dataflow.alignment_counts import SCORE_STEPS, WORST, AlignmentCounts, PairAlignment, merge_counts
from dataflow.boxes import Size
from dataflow.findings import Code, Finding
from dataflow.frame import Frame
from dataflow.image_diff import difference
from dataflow.images import RgbImage, decode_rgb
from dataflow.motion_models import Matrix, map_points
from dataflow.prepared import PreparedDataset
from dataflow.records import FramePair, Objects
from dataflow.registration import AlignmentError, Method
from dataflow.schema import example_image_id, example_to_pair
from dataflow.shards import ShardResult
from tfds_builders.audit.markup import fill_page, html_path, html_text, plural
from tfds_builders.audit.pictures import Corners, draw_boxes, make_thumbnail
from tfds_builders.differences import DifferenceLoader

CONTACT_SHEET: Final = "diff.html"
_TEMPLATE = "contact_sheet.html"
# Longer side of a picture.
_LEAST_PX, _MOST_PX = 320, 400
# More boxes than this would hide what they are around.
_BOXES = 40
_METHODS: Final[Mapping[str, str]] = {
    "phase": "phase correlation",
    "features": "features",
    "ecc": "features, refined by ECC",
}
_MODELS: Final = {
    "identity": "stood still",
    "translation": "shifted",
    "affine": "moved affinely",
    "homography": "moved in perspective",
}
# Movements below these are not worth a word: px, degrees, percent.
_LEAST_SHIFT, _LEAST_TURN, _LEAST_ZOOM = 0.05, 0.01, 0.01


@dataclass(frozen=True)
class _Entry:
    """A pair that is shown: the shard it is in, and what was found, or why it was refused."""

    shard: tuple[str, int]
    pair_id: str
    found: PairAlignment | None = None
    refusal: Finding | None = None


@dataclass(frozen=True)
class _Sight:
    """What is to be seen of a pair, as HTML: its pictures, and how its frame moved."""

    pictures: tuple[str, ...]
    movement: str = ""


def write_contact_sheet(
    path: Path, name: str, pairs: PreparedDataset, loader: DifferenceLoader, results: Sequence[ShardResult]
) -> None:
    """Write the page of the pairs that came off worst: at most 24, refused ones first, then by score and change.

    It is bounded, whatever the dataset: only the shards of these pairs are read, and texts are cut at 300 characters.

    Args:
        path: the file to write.
        name: the dataset's name.
        pairs: the dataset of pairs that `loader` read.
        loader: what made the differences; the pictures are made the same way.
        results: those of all shards, by split and index; shards of pairs have the same numbers.
    """
    counts = merge_counts(result.alignment for result in results if result.alignment is not None)
    entries = _entries(results)
    sights = {entry.pair_id: sight for entry, sight in _sights(pairs, loader, entries)}
    template = files("tfds_builders").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    sections = (
        _header(name, loader.align, counts),
        "<main>",
        _introduction(loader.align, counts, entries),
        *(_section(entry, sights[entry.pair_id]) for entry in entries),
        "</main>",
        _footer(),
    )
    page = fill_page(template, title=f"Differences of {html_text(name)}", body="\n".join(sections))
    path.write_text(page, encoding="utf-8")


def _entries(results: Sequence[ShardResult]) -> list[_Entry]:
    """The pairs to show. Refused ones leave at least half of the room to the others."""
    refused = [
        _Entry((result.split, result.index), finding.image_id, refusal=finding)
        for result in results
        for finding in result.findings
        if finding.code is Code.PAIR_UNALIGNED and finding.image_id is not None
    ]
    worst = [
        (pair.rank, _Entry((result.split, result.index), pair.pair_id, found=pair))
        for result in results
        if result.alignment is not None
        for pair in result.alignment.worst
    ]
    taken = [entry for _, entry in sorted(worst, key=lambda item: item[0])[:WORST]]
    refused = refused[: max(WORST // 2, WORST - len(taken))]
    return [*refused, *taken[: WORST - len(refused)]]


def _sights(
    pairs: PreparedDataset, loader: DifferenceLoader, entries: Sequence[_Entry]
) -> Iterator[tuple[_Entry, _Sight]]:
    """The pictures of each pair; a shard is read once, and no further than the last pair that is wanted of it."""
    for split, index in sorted({entry.shard for entry in entries}):
        wanted = {entry.pair_id: entry for entry in entries if entry.shard == (split, index)}
        for position, example in pairs.shard_examples(pairs.shards(split)[index]):
            entry = wanted.pop(example_image_id(example, pairs.layout, position), None)
            if entry is not None:
                yield entry, _look(example_to_pair(example, pairs.layout, position), loader)
            if not wanted:
                break


def _look(pair: FramePair, loader: DifferenceLoader) -> _Sight:
    before, after = (decode_rgb(frame.image, frame.orientation) for frame in (pair.before, pair.after))
    own = pair.objects
    unaligned = difference(before, after, loader.mode)
    frames = (
        _picture(before, _boxes(own, own.in_before), "before"),
        _picture(after, _boxes(own, ~own.in_before), "after"),
    )
    plain = _picture(unaligned, _boxes(own), "difference" if loader.align == "none" else "difference without alignment")
    try:
        aligned = align_pair(Frame(before), Frame(after), loader.align)
    except AlignmentError:
        return _Sight((*frames, plain))
    if loader.align == "none":
        return _Sight((*frames, plain))
    homography = aligned.alignment.homography
    carried = carry_objects(own, homography, aligned.size)
    stored = _picture(aligned.difference(loader.mode), _boxes(carried), "difference as stored")
    return _Sight((*frames, stored, plain), movement_in_words(homography, aligned.size))


def _boxes(objects: Objects, shown: npt.NDArray[np.bool_] | None = None) -> list[tuple[Corners, str]]:
    """Boxes of objects, those of the before frame marked; only those that are `shown` (N,) bool."""
    columns = zip(objects.boxes.tolist(), objects.in_before.tolist(), strict=True)
    marked = [((x0, y0, x1, y1), "before" if before else "") for (x0, y0, x1, y1), before in columns]
    kept = marked if shown is None else [box for box, keep in zip(marked, shown.tolist(), strict=True) if keep]
    return kept[:_BOXES]


def _picture(pixels: RgbImage, boxes: list[tuple[Corners, str]], caption: str) -> str:
    height, width = pixels.shape[:2]
    small = pixels
    # Halving first takes a tenth of the time of one step to any size.
    while max(small.shape) > _MOST_PX and max(small.shape) >= 2 * _LEAST_PX:
        half = max(1, small.shape[1] // 2), max(1, small.shape[0] // 2)
        small = np.asarray(cv2.resize(small, half, interpolation=cv2.INTER_AREA), np.uint8)
    return draw_boxes(make_thumbnail(small, (height, width), _MOST_PX), boxes, caption)


def movement_in_words(homography: Matrix, size: Size) -> str:
    """What a movement (3, 3) does at the centre of a frame of `size` (height, width): shift, turn, growth."""
    centre = np.array([size[1] / 2, size[0] / 2])
    around = np.array([[0, 0], [0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    moved, right, left, down, up = map_points(centre + around, homography)
    (shift_x, shift_y), across, along = moved - centre, right - left, down - up
    turn = math.degrees(math.atan2(across[1] - along[0], across[0] + along[1]))
    zoom = 100 * (math.sqrt(abs(across[0] * along[1] - across[1] * along[0])) - 1)
    shifts = [
        f"{abs(pixels):.1f} px {words[bool(pixels < 0)]}"
        for pixels, words in ((shift_x, ("right", "left")), (shift_y, ("down", "up")))
        if abs(pixels) >= _LEAST_SHIFT
    ]
    parts = [f"moved {' and '.join(shifts)}"] if shifts else []
    if abs(turn) >= _LEAST_TURN:
        parts.append(f"turned {abs(turn):.2f}° {'clockwise' if turn > 0 else 'counter-clockwise'}")
    if abs(zoom) >= _LEAST_ZOOM:
        parts.append(f"{'grew' if zoom > 0 else 'shrank'} by {abs(zoom):.2f} %")
    return ", ".join(parts) or "stood still"


def _header(name: str, method: Method, counts: AlignmentCounts) -> str:
    summary = counts.summary()
    figures = [(f"{counts.pairs:,}", "differences")]
    if method != "none":
        figures += [(f"{counts.refused:,}", "refused")]
        figures += [(f"{summary['mean_residual_px']:.2f} px", "mean residual")] if counts.aligned else []
        figures += [(f"{summary['mean_score']:.2f}", "mean score")] if counts.aligned else []
    figures += [(f"{summary['mean_change']:.1f}", "mean change, grey levels")] if counts.pairs else []
    drawn = "".join(f"<div><b>{figure}</b><span>{meaning}</span></div>" for figure, meaning in figures)
    models = ", ".join(f"{count:,} {_MODELS[model]}" for model, count in counts.models.items())
    said = "Nothing was aligned." if method == "none" else f"Aligned by {_METHODS[method]}: {models or 'none'}."
    return (
        f'<header><p class="eyebrow">Shardbox differences</p><h1>{html_text(name)}</h1><div class="box">'
        f'<div class="sum">{drawn}</div><p class="told">{said}</p>{_scores(counts)}</div></header>'
    )


def _scores(counts: AlignmentCounts) -> str:
    """A bar for each step of the score, from the least that there is."""
    if not counts.scores:
        return ""
    first = min(map(int, counts.scores))
    first -= first % 5
    values = [counts.scores.get(str(step), 0) for step in range(first, SCORE_STEPS)]
    highest = max(values)
    # What is there at all must be seen.
    bars = "".join(f'<i style="--h:{max(4, 100 * n / highest) if n else 0:.1f}%"></i>' for n in values)
    label = f"distribution of {plural(counts.aligned, 'score')} from {first / SCORE_STEPS:.1f} to 1"
    return (
        f'<h3>How well they align</h3><div class="bars" role="img" aria-label="{label}">{bars}</div>'
        f'<div class="ends"><span>score {first / SCORE_STEPS:.1f}</span><span>1.0</span></div>'
    )


def _introduction(method: Method, counts: AlignmentCounts, entries: Sequence[_Entry]) -> str:
    if not entries:
        return '<section class="box"><p>There is no pair to show.</p></section>'
    order = (
        "Those that change most come first: where the camera moved, the whole picture lights up."
        if method == "none"
        else "Refused ones come first, then those of the least score."
    )
    which = f"The worst {len(entries)} of {plural(counts.pairs + counts.refused, 'pair')}."
    return (
        f'<p class="soft">{which} {order}</p><p class="soft"><span class="key">where an object is</span>'
        '<span class="key before">where one was before</span></p>'
    )


def _section(entry: _Entry, sight: _Sight) -> str:
    """One pair: what was found, and its pictures."""
    state, told = "", ""
    facts: list[tuple[str, str]] = []
    if entry.refusal is not None:
        state = '<span class="chip error">refused</span>'
        told = f'<p class="told">{html_text(entry.refusal.value)} <em>{html_text(entry.refusal.remedy)}</em></p>'
    if entry.found is not None:
        found = entry.found
        if found.model is not None:
            facts += [("score", f"{found.score:.2f}"), ("residual", f"{found.residual:.2f} px")]
            facts += [("model", found.model), ("the picture", sight.movement)]
        facts.append(("change", f"{found.change:.1f} grey levels"))
    rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    listed = f'<dl class="facts">{rows}</dl>' if rows else ""
    return (
        f'<section class="box"><div class="head"><h2>{html_path(entry.pair_id)}</h2>'
        f'{state}<span class="soft">{html_text(entry.shard[0])}</span></div>'
        f"{listed}{told}{_sheet(sight)}</section>"
    )


def _sheet(sight: _Sight) -> str:
    kind = "sheet three" if len(sight.pictures) == 3 else "sheet"
    return f'<div class="{kind}">{"".join(sight.pictures)}</div>'


def _footer() -> str:
    return (
        "<footer><p>Score: the mean correlation of the detail of both frames once aligned, from 0 to 1. Residual: root "
        "mean square distance of the matched corners from the movement that was found. Change: mean distance of the "
        f"difference from no change. At most {WORST} pairs and {_BOXES} boxes of each are shown; "
        '<a href="manifest.json">manifest.json</a> has the counts, <a href="audit.html">audit.html</a> every pair that '
        "was kept out.</p></footer>"
    )
