"""To which size an image is resized before it is padded into a batch."""

from dataclasses import dataclass

from dataflow.boxes import Size
from dataflow.errors import UsageError


@dataclass(frozen=True)
class ResizePolicy:
    """Keep the aspect ratio: the shorter side becomes `shortest_edge` px unless the longer would pass `longest_edge`.

    This is DETR's rule (Carion et al. 2020, section 4), computed as Hugging Face's `DetrImageProcessor` computes it,
    so that a batch made here has the values that a published checkpoint was trained on.
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

        The result is that of `DetrImageProcessor`, which rounds the shorter side and truncates the longer one, and
        leaves an image alone whose shorter side rounds to what it is (100x641 at 480/640 stays 641 long). The one
        exception: a side never vanishes. Where an extreme shape (2000x1 at 480/640) gives 0 there, it is 1 here.
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
