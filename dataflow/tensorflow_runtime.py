"""The one place that imports TensorFlow: safely beside torch, quiet, and off the accelerator."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from dataflow.errors import MissingExtraError


def load_tensorflow() -> Any:
    """The `tensorflow` module, imported so that torch works beside it and no GPU is claimed.

    TensorFlow and triton each register the same LLVM options; the process aborts when triton, which torch loads
    for its optimisers and many models, comes second. So triton, where there is one, is imported first. The GPUs
    are hidden from TensorFlow because it would take all their memory, and here it only reads files.

    Raises:
        MissingExtraError: TensorFlow is not installed.
    """
    with contextlib.suppress(ImportError):  # torch for CPUs alone comes without triton, and needs none.
        importlib.import_module("triton")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet():
        try:
            tensorflow = importlib.import_module("tensorflow")
        except ModuleNotFoundError as error:
            if error.name != "tensorflow":
                raise
            raise MissingExtraError("tensorflow", "train") from error
        # Too late where the caller's own TensorFlow has started its devices: then the GPUs are the caller's choice.
        with contextlib.suppress(RuntimeError):
            tensorflow.config.set_visible_devices([], "GPU")
    return tensorflow


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep standard error from what TensorFlow's native code says as it starts, unless its log level asks for it.

    TensorFlow 2.21 writes some lines before it has looked at TF_CPP_MIN_LOG_LEVEL, to the descriptor itself.
    """
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] != "3" or "tensorflow" in sys.modules:
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
