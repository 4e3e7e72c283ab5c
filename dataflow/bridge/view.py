"""What a detector sees of an example: its image, the after frame stacked with its difference, or both frames.

A dataset of differences holds the difference; of a dataset of pairs it is made here, on the way into a batch, by the
same functions, so that the values are those that `shardbox diff` stores as PNG (JPEG changes them a little).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from dataflow.bridge.pair_augmentation import PairAugmentation, augment_pair
from dataflow.errors import UsageError
from dataflow.images import RgbImage
from dataflow.pairs.aligned_pair import AlignedPair, align_pair, carry_objects, lay_over
from dataflow.pairs.frame import Frame
from dataflow.pairs.image_diff import DIFF_MODES, DiffMode, checked_pair
from dataflow.pairs.registration import Alignment, AlignmentError, Method
from dataflow.prepared import PreparedDataset
from dataflow.records import Objects, no_objects
from dataflow.schema import Kind

Inputs = Literal["image", "stack", "frames"]
INPUTS: tuple[Inputs, ...] = get_args(Inputs)
_INGEST = "ingest pairs of frames (mot, virat or pairs), or leave the option out"


@dataclass(frozen=True)
class View:
    """What a detector is shown, and how it is made of a pair.

    `inputs`: `image` is the dataset's image or, where it holds pairs, their difference; `stack` the after frame and
    then the difference; `frames` the before frame, drawn in the after frame, and then that. Each is one or two RGB
    images, so 3 or 6 channels. `mode` and `align` (see `shardbox diff`) may be left open, None, for `settled` to fill
    in.

    Raises:
        UsageError: a value that does not exist.
    """

    inputs: Inputs = "image"
    mode: DiffMode | None = None
    align: Method | None = None

    def __post_init__(self) -> None:
        choices: Mapping[str, tuple[Any, ...]] = {
            "inputs": INPUTS,
            "mode": (None, *DIFF_MODES),
            "align": (None, *get_args(Method)),
        }
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise UsageError(f"a view with {name} {value!r}", f"choose from {', '.join(map(str, allowed))}")

    @property
    def images(self) -> int:
        """How many RGB images a detector gets."""
        return 1 if self.inputs == "image" else 2

    @property
    def channels(self) -> int:
        """How many channels these are."""
        return 3 * self.images

    def __str__(self) -> str:
        shown = {
            "image": "images" if self.mode is None else "differences",
            "stack": "after frames with their differences",
            "frames": "before and after frames",
        }[self.inputs]
        made = [*([f"mode {self.mode}"] if self.mode else []), *([f"align {self.align}"] if self.align else [])]
        return f"{shown} ({', '.join(made)})" if made else shown

    def to_json(self) -> dict[str, Any]:
        """Its fields, in JSON's types."""
        return asdict(self)

    def settled(self, dataset: PreparedDataset) -> "View":
        """The view of a dataset, with nothing left open.

        Raises:
            UsageError: the dataset cannot be seen so, or was made differently.
        """
        if dataset.layout.kind == "images":
            if self.inputs != "image" or self.mode is not None or self.align not in (None, "none"):
                raise UsageError(f"{dataset.path} holds single images: there is no difference to see", _INGEST)
            return View("image", None, "none")
        if self.inputs == "frames" and self.mode is not None:
            raise UsageError("both frames (--input frames) have no difference mode", "leave out --mode")
        return self._of_pairs(dataset) if dataset.layout.kind == "pairs" else self._of_differences(dataset)

    def _of_pairs(self, dataset: PreparedDataset) -> "View":
        if self.align not in (None, "none") and not dataset.layout.knows_frames:
            remedy = "ingest the pairs again"
            raise UsageError(f"{dataset.path} does not say which boxes are of the before frame", remedy)
        mode = None if self.inputs == "frames" else self.mode or default_mode(dataset)
        return View(self.inputs, mode, self.align or "none")

    def _of_differences(self, dataset: PreparedDataset) -> "View":
        made = dataset.manifest.get("options", {})
        stored = View(self.inputs, None if self.inputs == "frames" else made.get("mode"), made.get("align", "none"))
        for name in ("mode", "align"):
            wanted, has = getattr(self, name), getattr(stored, name)
            if wanted is not None and wanted != has:
                raise UsageError(
                    f"{dataset.path} holds differences of {name} {has!r}, not {wanted!r}",
                    "give the dataset of pairs instead, or make it with `shardbox diff`",
                )
        return stored


def default_mode(pairs: PreparedDataset) -> DiffMode:
    """The simplest difference that shows what the targets of a dataset of pairs tell apart.

    An absolute one shows the old and the new place of a moved object alike.
    """
    targets = pairs.manifest.get("options", {}).get("targets", "both")
    return "absolute" if targets == "both" else "signed"


class Seen(NamedTuple):
    """One or two images (H, W, 3) uint8, and the objects in their pixels.

    `refused`: why a pair could not be aligned, else empty. It shows no change then, and no objects. `damage`: what
    had to be passed over to decode it, else empty.
    """

    images: tuple[RgbImage, ...]
    objects: Objects
    refused: str = ""
    damage: str = ""


Homography = npt.NDArray[np.float64]
Show = Callable[[Sequence[RgbImage], Objects, Homography | None], Seen]
"""Decoded frames, the objects as stored and the movement as stored, to what is seen of them."""


@dataclass(frozen=True)
class Sight:
    """Which encoded frames of an example a view needs, by feature name, and what it makes of them."""

    frames: tuple[str, ...]
    show: Show
    compares: bool = False
    """Whether frames as the camera took them are compared here."""
    as_decoded: bool = False
    """Whether frames are shown as they are decoded, at whatever size that is."""


def sight_of(view: View, kind: Kind) -> Sight:
    """How a settled view looks at the examples of a kind of dataset."""
    if kind == "differences":
        if view.inputs == "frames":
            still = view.align == "none"
            return Sight(("before", "after"), _as_they_are if still else _laid_over, as_decoded=still)
        return Sight(("after", "image") if view.inputs == "stack" else ("image",), _as_they_are, as_decoded=True)
    if kind == "images":
        return Sight(("image",), _as_they_are, as_decoded=True)
    return Sight(("before", "image"), partial(show_pair, view=view), compares=True)


def augmented(show: Show, augmentation: PairAugmentation, rng: np.random.Generator) -> Show:
    """`show` of a before and an after frame that `augmentation` has changed first."""

    def show_changed(frames: Sequence[RgbImage], objects: Objects, homography: Homography | None) -> Seen:
        pair = augment_pair(frames[0], frames[1], objects, augmentation, rng)
        return show((pair.before, pair.after), pair.objects, homography)

    return show_changed


def _as_they_are(frames: Sequence[RgbImage], objects: Objects, _: Homography | None) -> Seen:
    return Seen(tuple(frames), objects)


def _laid_over(frames: Sequence[RgbImage], objects: Objects, homography: Homography | None) -> Seen:
    """The frames of a difference, as they were when it was made; its objects are where they should be."""
    before, after = checked_pair(frames[0], frames[1], None)
    pair = lay_over(before, after, Alignment(np.eye(3) if homography is None else homography, "homography", 1.0, 0.0))
    return Seen((pair.before, pair.after), objects)


def show_pair(frames: Sequence[RgbImage], objects: Objects, _: Homography | None, *, view: View) -> Seen:
    """What a settled view shows of a before and an after frame, with the objects carried to the after frame.

    Raises:
        SizeMismatchError: the frames differ in size.
    """
    before, after = frames
    try:
        pair = align_pair(Frame(before), Frame(after), view.align or "none")
    except AlignmentError as error:
        still = AlignedPair(after, after, Alignment(np.eye(3), "identity", 0.0, 0.0))
        return Seen(_inputs(still, view), no_objects(), error.message)
    carried = carry_objects(objects, pair.alignment.homography, pair.size)
    return Seen(_inputs(pair, view), carried)


def _inputs(pair: AlignedPair, view: View) -> tuple[RgbImage, ...]:
    if view.mode is None:
        return pair.before, pair.after
    change = pair.difference(view.mode)
    return (pair.after, change) if view.inputs == "stack" else (change,)
