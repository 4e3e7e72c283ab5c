"""Batches of images of similar shape, so that less of them is padding."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dataflow.boxes import Size

Indices = npt.NDArray[np.int64]


def group_by_shape(sizes: Sequence[Size], batch_size: int) -> list[Indices]:
    """Images cut into batches so that those of a batch are alike in shape.

    Of two cuts the one with less padding is taken: along their aspect ratios, which is best where they are resized to
    one edge, or halved again and again along the side whose lengths differ most, which is best where they keep their
    sizes. Inside of a batch images keep their order, and batches come in the order of their first images: where all
    are of one shape, all stay where they are. The last batch may be smaller.

    Args:
        sizes: (height, width) px of the resized images, in the order in which they would come.
        batch_size: images in a batch.
    """
    sides = np.log(np.array(sizes, np.float64).reshape(-1, 2))
    by_aspect = np.argsort(sides[:, 0] - sides[:, 1], kind="stable")
    row = [by_aspect[start : start + batch_size] for start in range(0, len(sides), batch_size)]
    batches = min(row, _halved(np.arange(len(sides)), sides, batch_size), key=lambda cut: padded_share(sizes, cut))
    # What is left over is the smallest batch, and comes last.
    return sorted(map(np.sort, batches), key=lambda batch: (len(batch) < batch_size, batch[0]))


def _halved(images: Indices, sides: npt.NDArray[np.float64], batch_size: int) -> list[Indices]:
    if len(images) <= batch_size:
        return [images] if len(images) else []
    spreads = np.ptp(sides[images], axis=0)
    order = images[np.argsort(sides[images, int(np.argmax(spreads))], kind="stable")]
    middle = -(-len(images) // batch_size // 2) * batch_size
    return _halved(order[:middle], sides, batch_size) + _halved(order[middle:], sides, batch_size)


def group_of(step: int, group: int, batch_size: int, epoch: int) -> tuple[int, int]:
    """The steps, first and behind the last, whose batches are cut together, among which is `step`.

    Groups of at most `group` batches begin with each epoch of `epoch` examples and do not cross its border; a batch
    that does stands alone. So the first `epoch` examples of the stream are those of the first epoch, and so on.
    """
    number = step * batch_size // epoch
    if (step + 1) * batch_size > (number + 1) * epoch:
        return step, step + 1
    first = -(-number * epoch // batch_size)
    start = step - (step - first) % group
    return start, min(start + group, (number + 1) * epoch // batch_size)


def padded_share(sizes: Sequence[Size], batches: Sequence[Indices]) -> float:
    """Area of the canvases over area of the images, where each batch is padded to its largest height and width."""
    sides = np.array(sizes, np.int64).reshape(-1, 2)
    canvases = sum(len(batch) * int(sides[batch].max(axis=0).prod()) for batch in batches)
    images = sum(int(sides[batch].prod(axis=1).sum()) for batch in batches)
    return canvases / max(1, images)
