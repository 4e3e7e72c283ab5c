"""A shape of LabelMe: its label, box, polygon and flags."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tfds_builders.sources.inspection import Declared
from tfds_builders.sources.outlines import Outline, box_of, outline_of

_POLYGONS = ("polygon", "rotation", "oriented_rectangle")


def name_of(shape: Any) -> str:
    """The label of a shape.

    Raises:
        ValueError: it is no shape, or has none.
    """
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str):
        raise ValueError("a shape without a label")
    return label.strip()


def outline_of_shape(shape: Mapping[str, Any]) -> Outline:
    """The box of a shape, and its polygon where it is one.

    Raises:
        ValueError: its points are none, or it has no area by its nature.
    """
    kind = shape.get("shape_type") or "polygon"  # The first versions drew nothing else, and wrote no shape_type.
    points = _points(shape.get("points"))
    if kind in _POLYGONS:
        return outline_of(points)
    if kind == "rectangle" and len(points) in (2, 4):
        return Outline(box_of(points))
    if kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        return Outline((x - radius, y - radius, x + radius, y + radius), area=_disc(radius))
    if kind == "mask" and len(points) == 2:  # Its last row and column belong to it.
        x0, y0, x1, y1 = box_of(points)
        return Outline((x0, y0, x1 + 1, y1 + 1))
    if kind in ("rectangle", "circle", "mask"):
        raise ValueError(f"a {kind} of {len(points)} points")
    raise ValueError(f"a shape of type {kind!r} has no box")


def _disc(radius: float) -> float | None:
    return math.pi * radius * radius if math.isfinite(radius) else None


def _points(value: Any) -> list[tuple[float, float]]:
    if not isinstance(value, list) or not value:
        raise ValueError("a shape without points")
    if not all(isinstance(point, list) and len(point) == 2 for point in value):
        raise ValueError("points that are not [x, y]")
    return [(_number(x), _number(y)) for x, y in value]


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"the coordinate {value!r} is no number"[:200])
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def has_flag(shape: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether one of the flags of these names is set."""
    flags = shape.get("flags")
    return isinstance(flags, dict) and any(flags.get(name) is True for name in names)


def declared_size(content: Mapping[str, Any] | None) -> Declared | None:
    """The size that a JSON gives, where it does."""
    height, width = (content.get(key) if content else None for key in ("imageHeight", "imageWidth"))
    if type(height) is int and type(width) is int and height > 0 and width > 0:
        return Declared((height, width), "/imageHeight")
    return None
