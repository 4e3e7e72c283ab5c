"""The pairs of a dataset of differences that came off worst, as a page: `diff.html`, one file without a network."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from dataflow.boxes import Size
from dataflow.findings import Code, Finding
from dataflow.images import RgbImage, decode_rgb
from dataflow.pairs.aligned_pair import align_pair, carry_objects
from dataflow.pairs.alignment_counts import SCORE_STEPS, WORST, AlignmentCounts, PairAlignment, merge_counts
from dataflow.pairs.frame import Frame
from dataflow.pairs.image_diff import difference
from dataflow.pairs.motion_models import Matrix, map_points
from dataflow.pairs.registration import AlignmentError, Method
from dataflow.prepared import PreparedDataset
from dataflow.records import FramePair, Objects
from dataflow.schema import example_image_id, example_to_pair
from dataflow.shards import ShardResult
from tfds_builders.audit.pictures import Corners, draw_boxes, make_thumbnail
from tfds_builders.differences import DifferenceLoader
from tfds_builders.pages.markup import Content, Markup, el, markup, path_text, plural
from tfds_builders.pages.page import Card, Section, cards, facts, note, page

CONTACT_SHEET: Final = "diff.html"
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
    """What is to be seen of a pair: its pictures, and how its frame moved."""

    pictures: tuple[Markup, ...]
    movement: str = ""


def write_contact_sheet(
    path: Path, name: str, pairs: PreparedDataset, loader: DifferenceLoader, results: Sequence[ShardResult]
) -> None:
    """Write the page of the pairs that came off worst: at most 24, refused ones first, then by score and change.

    It is bounded, whatever the dataset: only the shards of these pairs are read, and texts are cut at 600 characters.

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
    sections = (_scores(counts), _worst(loader.align, counts, [(entry, sights[entry.pair_id]) for entry in entries]))
    path.write_text(page("differences", name, _headline(loader.align, counts), sections, _foot()), encoding="utf-8")


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


def _picture(pixels: RgbImage, boxes: list[tuple[Corners, str]], caption: str) -> Markup:
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


def _headline(method: Method, counts: AlignmentCounts) -> Markup:
    summary = counts.summary()
    shown = [Card("differences", f"{counts.pairs:,}")]
    if method != "none":
        shown += [Card("refused", f"{counts.refused:,}", "could not be aligned")]
    if method != "none" and counts.aligned:
        shown += [Card("mean residual", f"{summary['mean_residual_px']:.2f} px", "of matched corners")]
        shown += [Card("mean score", f"{summary['mean_score']:.2f}", "1 is perfect")]
    if counts.pairs:
        shown += [Card("mean change", f"{summary['mean_change']:.1f}", "grey levels of 255")]
    models = ", ".join(f"{count:,} {_MODELS[model]}" for model, count in counts.models.items())
    said = "Nothing was aligned." if method == "none" else f"Aligned by {_METHODS[method]}: {models or 'none'}."
    return markup(el("p", said, class_="lead"), cards(shown))


def _scores(counts: AlignmentCounts) -> Section | None:
    """A bar for each step of the score, from the least that there is."""
    if not counts.scores:
        return None
    first = min(map(int, counts.scores))
    first -= first % 5
    values = [counts.scores.get(str(step), 0) for step in range(first, SCORE_STEPS)]
    highest = max(values)
    # What is there at all must be seen.
    bars = [el("i", style=f"--v:{max(4, 100 * n / highest) if n else 0:.1f}%") for n in values]
    label = f"distribution of {plural(counts.aligned, 'score')} from {first / SCORE_STEPS:.1f} to 1"
    ends = el("div", el("span", f"score {first / SCORE_STEPS:.1f}"), el("span", "1.0"), class_="ends")
    drawn = markup(el("div", bars, class_="bars", role="img", aria_label=label), ends)
    return Section("scores", "How well they align", drawn)


def _worst(method: Method, counts: AlignmentCounts, shown: Sequence[tuple[_Entry, _Sight]]) -> Section:
    if not shown:
        return Section("worst", "Pairs", el("p", "There is no pair to show."))
    order = (
        "Those that change most come first: where the camera moved, the whole picture lights up."
        if method == "none"
        else "Refused ones come first, then those of the least score."
    )
    legend = note(
        el("span", "where an object is", class_="swatch"), el("span", "where one was before", class_="swatch before")
    )
    title = f"The worst {len(shown)} of {plural(counts.pairs + counts.refused, 'pair')}"
    return Section("worst", title, markup(note(order), legend, [_pair(*item) for item in shown]), kind="")


def _pair(entry: _Entry, sight: _Sight) -> Markup:
    """One pair: what was found, and its pictures."""
    state, told = None, None
    found: list[tuple[str, Content]] = []
    if entry.refusal is not None:
        state = el("span", "refused", class_="state error")
        told = el("p", entry.refusal.value, el("em", entry.refusal.remedy), class_="told")
    if entry.found is not None:
        if entry.found.model is not None:
            found += [("score", f"{entry.found.score:.2f}"), ("residual", f"{entry.found.residual:.2f} px")]
            found += [("model", entry.found.model), ("the picture", sight.movement)]
        found.append(("change", f"{entry.found.change:.1f} grey levels"))
    head = el("div", el("h3", path_text(entry.pair_id)), state, note(entry.shard[0]), class_="head")
    kind = "sheet three" if len(sight.pictures) == 3 else "sheet"
    sheet = el("div", sight.pictures, class_=kind)
    return el("article", head, facts(found, flow=True) if found else None, told, sheet, class_="box")


def _foot() -> Markup:
    return el(
        "p",
        "Score: the mean correlation of the detail of both frames once aligned, from 0 to 1. Residual: root mean "
        "square distance of the matched corners from the movement that was found. Change: mean distance of the "
        f"difference from no change. At most {WORST} pairs and {_BOXES} boxes of each are shown; ",
        el("a", "manifest.json", href="manifest.json"),
        " has the counts, ",
        el("a", "audit.html", href="audit.html"),
        " every pair that was kept out.",
    )
