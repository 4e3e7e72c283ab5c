"""What all tests share: hypothesis without deadlines, since a busy machine is no bug, and with moderate effort.

Examples are drawn anew in every run, but for the gate, which must judge a change by what it changes: there (`CI`) they
are the same from run to run.
"""

import contextlib
import gc
import os

from hypothesis import settings

# Before TensorFlow, which tests load by themselves, too: the other order aborts the process once torch needs triton.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

settings.register_profile("shardbox", deadline=None, max_examples=60, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("shardbox")


def pytest_collection_finish() -> None:
    """What is imported by now stays to the end. The garbage collector, which Hugging Face's `Trainer` calls after every
    training, need not look at it each time: that was more than a quarter of what tests of training took."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """At the end of all, everything may go, or libraries tell of leaks."""
    gc.unfreeze()
