"""The random states of a training: of Python, numpy and torch."""

from transformers import set_seed

from dataflow.errors import UsageError

MOST_SEED = 2**31 - 1
"""What numpy takes is twice that; stages and processes have seeds of their own above the run's."""
_RANK_SEED = 1_000_003


def check_seed(seed: int) -> int:
    """`seed` itself.

    Raises:
        UsageError: numpy would not take it, or not what follows from it.
    """
    if not 0 <= seed <= MOST_SEED:
        raise UsageError(f"the seed is {seed}", f"give a whole number from 0 to {MOST_SEED}")
    return seed


def begin_at(seed: int, process: int = 0) -> None:
    """Let what is drawn from now on follow from the seed; in each process it is something else.

    Raises:
        UsageError: see `check_seed`.
    """
    set_seed(check_seed(seed) + _RANK_SEED * process)
