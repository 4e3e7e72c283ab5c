"""Pictures for a report: the frames of an example, and truth and predictions drawn over them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from dataflow.boxes import Size
from dataflow.images import RgbImage
from dataflow.prepared import PreparedDataset
from dataflow.records import Change, ImageRecord, Predictions
from dataflow.schema import example_image_id
from tfds_builders.pages.markup import Markup, el, jpeg_address, markup, plural
from trainers.evaluation.error_types import ImageErrors
from trainers.evaluation.frames import Frame, Role, aligned_pixels, to_example
from trainers.evaluation.matching import ImageMatches, Verdict

_LONG_SIDE = 640
_QUALITY = 82
_KINDS = {
    "tp": "right detection",
    "fp": "wrong detection",
    "fn": "missed object",
    "truth": "found object",
    "crowd": "does not count",
}


@dataclass(frozen=True)
class Panel:
    """One frame as a JPEG of moderate size, showing the pixels that boxes of an image of `size` refer to."""

    role: Role
    title: str
    jpeg: bytes
    size: Size


def read_panels(
    dataset: PreparedDataset, split: str, image_ids: Sequence[str]
) -> Iterator[tuple[str, tuple[Panel, ...]]]:
    """(image id, its frames) of the images named, in one pass over the split, in the order of the shards."""
    wanted = set(image_ids)
    for position, parsed in dataset.examples(split):
        image_id = example_image_id(parsed, dataset.layout, position)
        if image_id in wanted:
            example = to_example(parsed, dataset.layout, position)
            yield (
                image_id,
                tuple(
                    _panel(frame.role, _title(frame), aligned_pixels(frame, example), example.record.size)
                    for frame in example.frames
                ),
            )


def _title(frame: Frame) -> str:
    if frame.homography is not None:
        return f"{frame.role}, aligned with after"
    return "difference" if frame.role == "diff" else frame.role


def _panel(role: Role, title: str, pixels: RgbImage, size: Size) -> Panel:
    """Pixels made smaller where they are large, as JPEG."""
    height, width = pixels.shape[:2]
    scale = _LONG_SIDE / max(height, width)
    if scale < 1:
        shape = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = np.asarray(cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA), np.uint8)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done
    return Panel(role, title, bytes(data), size)


@dataclass(frozen=True)
class _Box:
    """A box to draw: style (a class of the page's CSS), xyxy px, what to write at it and when pointed at."""

    style: str
    xyxy: tuple[float, float, float, float]
    label: str
    hint: str


def draw_panel(
    panel: Panel,
    record: ImageRecord,
    predictions: Predictions,
    matches: ImageMatches,
    names: Sequence[str],
    *,
    errors: ImageErrors | None = None,
    picture: str = "",
    again: bool = False,
) -> Markup:
    """A frame as an `<svg>` element with its picture inside and the boxes over it.

    `matches` is what to show: detections it has `CUT` are left out; `errors` say what kind each error is. A `picture`
    that has an id in the page can be shown `again` without being there twice.
    """
    height, width = panel.size
    text_size = max(height, width) / 36
    boxes = [_draw_box(box, text_size) for box in _boxes(record, predictions, (matches, errors), names)]
    label = f"{panel.title} of {record.image_id} with {plural(matches.count(Verdict.TP), 'right detection')}, "
    label += f"{matches.count(Verdict.FP):,} wrong and {plural(matches.count(Verdict.FN), 'missed object')}"
    if again:
        shown = el("use", href=f"#{picture}")
    else:
        sides = {"width": width, "height": height}
        address = jpeg_address(panel.jpeg)
        shown = el("image", id=picture or None, **sides, preserveAspectRatio="none", href=address)
    box = f"0 0 {width} {height}"
    return el("svg", shown, boxes, class_="panel", viewBox=box, role="img", aria_label=label)


def switches(roles: Sequence[Role], chosen: str) -> Markup:
    """The legend of boxes, which also switches them on and off, and which frame is shown where there are several."""
    boxes = [
        el("label", el("input", type="checkbox", value=kind, checked=True), el("i", class_=f"k-{kind}"), name)
        for kind, name in _KINDS.items()
    ]
    labels = el("label", el("input", type="checkbox", value="labels", checked=True), "labels")
    return el("div", boxes, labels, _frame_choice(roles, chosen), class_="keys boxes")


def _frame_choice(roles: Sequence[Role], chosen: str) -> Markup | None:
    if len(roles) < 2:
        return None
    options = [
        el(
            "label",
            el("input", type="radio", name="frame", value=role, checked=role == chosen),
            "difference" if role == "diff" else role,
        )
        for role in ("all", *roles)
    ]
    return el("fieldset", el("legend", "frame"), options, class_="which")


def _boxes(
    record: ImageRecord, predictions: Predictions, judged: tuple[ImageMatches, ImageErrors | None], names: Sequence[str]
) -> Iterator[_Box]:
    """What to draw, what matters most last and so on top."""
    matches, errors = judged
    objects = record.objects
    many = len(names) > 1
    for i, verdict in enumerate(matches.object_verdicts.tolist()):
        name = names[objects.category_ids[i]]
        change = "" if objects.changes is None else f", {Change(int(objects.changes[i])).name.lower()}"
        style, what = {
            Verdict.TP: ("truth", "found"),
            Verdict.FN: ("fn", "missed"),
            Verdict.IGNORED: ("crowd", "region that does not count"),
        }[Verdict(verdict)]
        if errors is not None and errors.objects[i] not in (None, "missed"):
            what += f" (a {errors.objects[i]} error comes near)"
        label = name if verdict == Verdict.FN and many else ""
        yield _Box(style, _corners(objects.boxes[i]), label, f"{name}{change}: {what}")
    order = np.argsort(predictions.scores, kind="stable")
    for i in order.tolist():
        verdict = Verdict(int(matches.verdicts[i]))
        if verdict is Verdict.CUT:
            continue
        name = names[predictions.category_ids[i]]
        score = f"{predictions.scores[i]:.2f}"
        overlap = "" if np.isnan(matches.ious[i]) else f", overlap {matches.ious[i]:.2f}"
        style, what = {
            Verdict.TP: ("tp", "right"),
            Verdict.FP: ("fp", "wrong"),
            Verdict.IGNORED: ("crowd", "does not count"),
        }[verdict]
        if errors is not None and errors.detections[i] is not None:
            suspected = "" if errors.causes[i] is None else f", suspected: {errors.causes[i]}"
            what += f" ({errors.detections[i]}{suspected})"
        label = f"{name} {score}" if many else score
        yield _Box(style, _corners(predictions.boxes[i]), label, f"{name}, score {score}{overlap}: {what}")


def _corners(box: Any) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (round(float(value), 2) for value in box)
    return x0, y0, x1, y1


def _draw_box(box: _Box, text_size: float) -> Markup:
    """A rectangle on a dark halo, so that it shows on any picture, and its label above (or, at the top, inside)."""
    x0, y0, x1, y1 = box.xyxy
    shape = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
    y = y0 - text_size * 0.3 if y0 > text_size * 1.3 else y0 + text_size
    text = el("text", box.label, x=x0, y=y, font_size=text_size) if box.label else None
    drawn = markup(el("rect", class_="halo", **shape), el("rect", **shape), text)
    return el("g", el("title", box.hint), drawn, class_=box.style)
