"""To which size an image is resized before it is padded into a batch.

Every policy has one method, `target_size`, and gives the sizes of Hugging Face's `DetrImageProcessor` with the setting
that it names, so that a batch made here has the values that a checkpoint of that setting was trained on. The one
exception: a side never vanishes. Where an extreme shape gives 0 there, it is 1 here.
"""

from dataclasses import dataclass

from dataflow.boxes import Size
from dataflow.errors import UsageError


@dataclass(frozen=True)
class ResizePolicy:
    """Keep the aspect ratio: the shorter side becomes `shortest_edge` px unless the longer would pass `longest_edge`.

    This is DETR's rule (Carion et al. 2020, section 4): `{"shortest_edge", "longest_edge"}` of Hugging Face.

    Raises:
        UsageError: no edge, or a longest edge below the shortest.
    """

    shortest_edge: int
    longest_edge: int

    def __post_init__(self) -> None:
        if not 0 < self.shortest_edge <= self.longest_edge:
            raise UsageError(
                f"a resize policy of shortest edge {self.shortest_edge} and longest edge {self.longest_edge} px",
                "give a shortest edge of at least one pixel and a longest edge no shorter than that",
            )

    def target_size(self, size: Size) -> Size:
        """(height, width) px of an image of `size` (height, width) px after resizing.

        Hugging Face rounds the shorter side and truncates the longer one, and leaves an image alone whose shorter side
        rounds to what it is (100x641 at 480/640 stays 641 long).
        """
        shorter, longer = min(size), max(size)
        shortest = float(self.shortest_edge)
        if longer / shorter * self.shortest_edge > self.longest_edge:
            shortest = self.longest_edge * shorter / longer
        new_shorter = round(shortest)
        if new_shorter == shorter:
            return size
        # The longer side follows the shorter one before rounding; the order of the operations decides the last pixel.
        new_longer = int(shortest * longer / shorter)
        new_shorter, new_longer = max(new_shorter, 1), max(new_longer, 1)
        return (new_shorter, new_longer) if size[0] <= size[1] else (new_longer, new_shorter)


@dataclass(frozen=True)
class FixedSize:
    """Stretch every image to `height` x `width` px, whatever its shape: `{"height", "width"}` of Hugging Face.

    Raises:
        UsageError: a side below one pixel.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise UsageError(f"a fixed size of {self.height} x {self.width} px", "give sides of at least one pixel")

    def target_size(self, size: Size) -> Size:
        """(height, width) px of an image of `size` (height, width) px after resizing: always the same."""
        return self.height, self.width


@dataclass(frozen=True)
class LongestEdge:
    """Keep the aspect ratio: the longer side becomes `longest_edge` px.

    This is `{"max_height", "max_width"}` of Hugging Face, both the same.

    Raises:
        UsageError: an edge below one pixel.
    """

    longest_edge: int

    def __post_init__(self) -> None:
        if self.longest_edge < 1:
            raise UsageError(f"a longest edge of {self.longest_edge} px", "give at least one pixel")

    def target_size(self, size: Size) -> Size:
        """(height, width) px of an image of `size` (height, width) px after resizing.

        Hugging Face truncates both sides. Where the division is not exact the longer one may so be a pixel short: 77 px
        become 639 at a longest edge of 640.
        """
        scale = self.longest_edge / max(size)
        return max(int(size[0] * scale), 1), max(int(size[1] * scale), 1)


@dataclass(frozen=True)
class KeepSize:
    """Leave images as they are: `do_resize=False` of Hugging Face."""

    def target_size(self, size: Size) -> Size:
        """`size`, (height, width) px."""
        return size


Resize = ResizePolicy | FixedSize | LongestEdge | KeepSize
"""Any of the policies."""
