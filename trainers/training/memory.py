"""How much memory a computation takes: of a GPU as torch counts it, of the process as Linux counts it."""

import re
from pathlib import Path

import torch

_CLEAR_REFS, _STATUS, _MEMINFO = (Path("/proc") / name for name in ("self/clear_refs", "self/status", "meminfo"))
_RESET_PEAK = "5"
"""What clears the peak of `VmHWM`, see proc_pid_clear_refs(5)."""


_NO_MEMORY = "DefaultCPUAllocator: "
"""What torch says first of memory that Linux does not give, in an error of no class of its own."""


def ran_out(error: RuntimeError) -> bool:
    """Whether an error of torch says that a GPU, or the machine, has no more memory to give."""
    return isinstance(error, torch.OutOfMemoryError) or _NO_MEMORY in str(error)


def reset_peak(device: torch.device) -> None:
    """Let the peak begin at what is held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text(_RESET_PEAK)


def peak_bytes(device: torch.device) -> int | None:
    """The most that was held since `reset_peak`; None where the system does not tell."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _kilobytes(_STATUS, "VmHWM")


def held_bytes(device: torch.device) -> int | None:
    """What is held now; None where the system does not tell."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _kilobytes(_STATUS, "VmRSS")


def free_bytes(device: torch.device) -> int | None:
    """What more can be had; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _kilobytes(_MEMINFO, "MemAvailable")


def _kilobytes(path: Path, name: str) -> int | None:
    if not path.exists():
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else None
