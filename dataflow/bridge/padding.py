"""How large the canvas is that the resized images of a batch are padded to, at the bottom and on the right."""

from collections.abc import Sequence
from dataclasses import dataclass

from dataflow.boxes import Size
from dataflow.errors import UsageError


@dataclass(frozen=True)
class PadToLargest:
    """The largest height and the largest width of the batch, each rounded up to a multiple of `multiple_of` px.

    A multiple is for networks that want whole strides or patches. `DetrImageProcessor` pads so by default, with 1.

    Raises:
        UsageError: a multiple below one pixel.
    """

    multiple_of: int = 1

    def __post_init__(self) -> None:
        if self.multiple_of < 1:
            raise UsageError(f"padding to a multiple of {self.multiple_of} px", "give at least one pixel")

    def canvas_size(self, sizes: Sequence[Size]) -> Size:
        """(height, width) px of the canvas for resized images of `sizes` (height, width) px, at least one."""
        height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
        return self._rounded_up(height), self._rounded_up(width)

    def _rounded_up(self, length: int) -> int:
        return -(-length // self.multiple_of) * self.multiple_of


@dataclass(frozen=True)
class PadToSize:
    """The same `height` x `width` px for every batch: `pad_size` of Hugging Face.

    Raises:
        UsageError: a side below one pixel.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise UsageError(f"padding to {self.height} x {self.width} px", "give sides of at least one pixel")

    def canvas_size(self, sizes: Sequence[Size]) -> Size:
        """(height, width) px of the canvas, whatever the `sizes` (height, width) px of the resized images.

        Whether each of them fits is for the caller to see to, who knows which image it is.
        """
        return self.height, self.width


Padding = PadToLargest | PadToSize
"""Any of the policies."""
TO_LARGEST = PadToLargest()
"""The default: no more than the batch needs."""
