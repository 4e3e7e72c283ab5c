"""What all tests share: hypothesis without deadlines, since a busy machine is no bug, and with moderate effort."""

import contextlib

from hypothesis import settings

# Before TensorFlow, which tests load by themselves, too: the other order aborts the process once torch needs triton.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

settings.register_profile("shardbox", deadline=None, max_examples=60, print_blob=True)
settings.load_profile("shardbox")
