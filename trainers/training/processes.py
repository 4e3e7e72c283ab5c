"""Training in several processes, started by `torchrun` or `accelerate launch`: who this one is, and what all know."""

import os
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState


def begin() -> None:
    """Find the others, where this is one of several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        PartialState(cpu=not torch.cuda.is_available())


def many() -> bool:
    """Whether there are others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_first() -> bool:
    """Whether this is the process that writes."""
    return not many() or dist.get_rank() == 0


def wait() -> None:
    """Go on when all have come here."""
    if many():
        dist.barrier()


def summed(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """The sums over all processes, which must give the same names."""
    if not many():
        return values
    names = sorted(values)
    total = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return dict(zip(names, total.tolist(), strict=True))


def gathered(items: list[Any]) -> list[Any]:
    """The items of all processes, in the order of these."""
    if not many():
        return items
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def told(value: Any) -> Any:
    """What the first process has, in all of them."""
    if not many():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
