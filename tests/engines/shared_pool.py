"""Beam's worker pool for the several task managers, or executors, of a test's cluster, which are all on this machine.

    python -m tests.engines.shared_pool --service_port=PORT

A worker is known by a name, and each task manager gives its own the same names: where the first of them has done its
share of a job and lets its worker go, Beam's pool ends that of another. This one ends none by its name. Workers end by
themselves when the connection to their task manager does, and all when the pool does. (Elsewhere each task manager has
a pool of its own, docs/runners.md.)
"""

from typing import Any

from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.worker import worker_pool_main


def _let_be(*_: Any) -> Any:
    return beam_fn_api_pb2.StopWorkerResponse()


if __name__ == "__main__":
    worker_pool_main.BeamFnExternalWorkerPoolServicer.StopWorker = _let_be
    worker_pool_main.main()
