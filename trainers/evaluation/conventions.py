"""What mean average precision leaves open, and how the usual tools settle it.

The same detections get other figures from other tools, because each settles a dozen questions in its own way. A
`Convention` is one set of answers; `PRESETS` are those of four tools and of Pascal VOC.
`trainers.evaluation.convention_figures` computes the figures under any of them.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

Figure = Literal["AP", "AP50", "AP75", "APs", "APm", "APl"]
FIGURES: tuple[Figure, ...] = ("AP", "AP50", "AP75", "APs", "APm", "APl")
Tool = Literal["pycocotools", "torchmetrics", "fiftyone", "ultralytics", "voc"]


class Most(NamedTuple):
    """How many detections count at most, by falling score."""

    number: int
    of: Literal["image and class", "image"]


_HUNDRED = Most(100, "image and class")


@dataclass(frozen=True)
class Convention:
    """One way to mean average precision. The defaults are pycocotools' (Lin et al. 2014)."""

    crowd: Literal["ignored", "ignored by overlap", "objects", "left out"] = "ignored"
    """A region to ignore excuses the detections that lie in it, or (VOC's `difficult`) only those that overlap it as
    they would an object; or it counts as an object like any other; or is not there."""
    max_detections: Most | None = _HUNDRED
    score_cut: float = 0.0
    """Detections below this score are left out beforehand."""
    matching: Literal["best free object", "best object"] = "best free object"
    """A detection whose best object is taken gets the next best, or is wrong at once (VOC, Everingham et al. 2010)."""
    interpolation: Literal["101 points", "101 points, trapezoids", "continuous", "11 points"] = "101 points"
    """The area under precision over recall: mean of the envelope at 101 recalls; trapezoids between 101 values that
    are interpolated linearly; the exact area under the envelope (VOC 2010); its mean at 11 recalls (VOC 2007)."""
    boxes: Literal["exact", "detections rounded", "detections truncated", "all rounded", "inclusive", "shifted"] = (
        "exact"
    )
    """Corners of boxes as they are, made whole numbers, one pixel wider and higher, or detections 1 px to the right
    and down (taken as 1-based)."""
    ids: Literal["right", "first object lost", "classes one up", "classes one down"] = "right"
    """Annotation ids from 0 (pycocotools takes a match with id 0 for none), or class ids of detections shifted."""
    ties: Literal["as given", "right first"] = "as given"
    """The order of equal scores of different images: of the images, or what is right before what is wrong."""
    classes: Literal["mean", "mean, absent as 0", "as one"] = "mean"
    """The mean of classes that have objects, of all classes that are named, or all taken as one class."""
    thresholds: Literal["double", "single"] = "double"
    """Precision in which the thresholds of overlap and recall are kept."""
    areas: Literal["annotated", "of boxes"] = "annotated"
    """What decides the size of an object, which matters to APs, APm and APl alone."""

    def differences(self, other: "Convention") -> tuple[str, ...]:
        """The names of the fields in which two conventions differ."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name))


PRESETS: dict[Tool, Convention] = {
    "pycocotools": Convention(),
    # Without `iscrowd` in its targets, which its documentation calls optional; areas likewise.
    "torchmetrics": Convention(crowd="objects", thresholds="single", areas="of boxes"),
    "fiftyone": Convention(ties="right first"),
    # Its validator: confidence 0.001, 300 detections an image; its labels have no crowd regions.
    "ultralytics": Convention(
        crowd="left out",
        max_detections=Most(300, "image"),
        score_cut=0.001,
        matching="best object",
        interpolation="101 points, trapezoids",
    ),
    "voc": Convention(
        crowd="ignored by overlap",
        max_detections=None,
        matching="best object",
        interpolation="continuous",
        boxes="inclusive",
        areas="of boxes",
    ),
}

_SUBJECTS = {
    "crowd": "regions to ignore",
    "max_detections": "detections at most",
    "score_cut": "lowest score",
    "matching": "a detection may find",
    "interpolation": "area under the curve",
    "boxes": "boxes",
    "ids": "ids",
    "ties": "equal scores",
    "classes": "classes",
    "thresholds": "thresholds",
    "areas": "sizes of objects",
}
_WORDS: dict[Any, str] = {
    None: "no limit",
    "objects": "count as objects",
    "first object lost": "annotation id 0, which never matches",
    "classes one up": "detections' class ids one too high",
    "classes one down": "detections' class ids one too low",
    "inclusive": "one pixel wider and higher",
    "shifted": "detections shifted by one pixel",
    "double": "in double precision",
    "single": "in single precision",
    "best object": "the object it overlaps most, taken or not",
    "best free object": "the free object it overlaps most",
    "as one": "taken as one",
    "mean": "mean of those with objects",
    "mean, absent as 0": "mean, those without objects as 0",
    "right": "right",
}


def describe(field: str, value: Any) -> str:
    """A field of a convention and its value in words."""
    words = f"{value.number} of each {value.of}" if isinstance(value, Most) else _WORDS.get(value, str(value))
    return f"{_SUBJECTS[field]}: {words}"


def alternatives(base: Convention, figures: tuple[Figure, ...]) -> list[tuple[str, Any]]:
    """(field, value) of the usual differences from `base`, leaving out those that cannot change `figures`."""
    most = (None, *(Most(n, "image and class") for n in (1, 10, 100, 300)), Most(100, "image"), Most(300, "image"))
    cuts = (0.0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5)
    values: dict[str, tuple[Any, ...]] = {
        "crowd": ("ignored", "ignored by overlap", "objects", "left out"),
        "max_detections": most,
        "score_cut": cuts,
        "matching": ("best free object", "best object"),
        "interpolation": ("101 points", "101 points, trapezoids", "continuous", "11 points"),
        "boxes": ("exact", "detections rounded", "detections truncated", "all rounded", "inclusive", "shifted"),
        "ids": ("right", "first object lost", "classes one up", "classes one down"),
        "ties": ("as given", "right first"),
        "classes": ("mean", "mean, absent as 0", "as one"),
        "thresholds": ("double", "single"),
    }
    if any(figure in ("APs", "APm", "APl") for figure in figures):
        values["areas"] = ("annotated", "of boxes")
    return [(field, value) for field, options in values.items() for value in options if getattr(base, field) != value]
