"""Tasks on shards as a Beam job: `RunInference` over the numbers of shards.

`RunInference` brings what inference wants of Beam: a model that each process loads once and its threads share, and the
metrics of loading and inferring. Its elements are numbers of shards, and so are its results: images are read, batched
and predicted inside of it, so that batches are the same wherever a shard is done, and no `PredictionResult` carries its
input through the pipeline.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, RunInference

from dataflow.beam.jobs import METRICS, LostElementsError
from dataflow.beam.options import DEFAULT_RUNNER, check_runner
from dataflow.beam.pipelines import run_pipeline
from dataflow.beam.shard_tasks import ShardTask, raise_failures, save_failure
from dataflow.beam.worker_failures import failures_marked
from dataflow.errors import ShardboxError
from dataflow.progress import watch
from dataflow.stores.paths import location

_SHARDS = ".shards"


@dataclass(eq=False)
class _Loaded:
    """What the task loaded in this process, or why it could not."""

    value: Any = None
    error: ShardboxError | None = None
    lock: Any = field(default_factory=threading.Lock)


class _TaskHandler(ModelHandler[int, int, _Loaded]):  # type: ignore[misc]
    """A task as a model: what it loads is the model, a shard is an example."""

    def __init__(self, task: ShardTask) -> None:
        super().__init__(min_batch_size=1, max_batch_size=1)
        self._task = task

    def load_model(self) -> _Loaded:
        try:
            return _Loaded(self._task.load())
        except ShardboxError as error:
            return _Loaded(error=error)

    def run_inference(
        self, batch: Sequence[int], model: _Loaded, inference_args: dict[str, Any] | None = None
    ) -> Iterator[int]:
        for shard in batch:
            # One shard at a time in a process: each brings threads and batches of its own, and models keep state.
            with model.lock, failures_marked(f"shard {shard} could not be done"):
                self._attempt(shard, model)
            yield shard

    def _attempt(self, shard: int, model: _Loaded) -> None:
        try:
            if model.error is not None:
                raise model.error
            for count in self._task.write(shard, model.value):
                Metrics.counter(METRICS, "images").inc(count)
        except ShardboxError as error:
            save_failure(self._task.directory, shard, error)


def _listed(directory: str) -> Iterator[int]:
    yield from map(int, (location(directory) / _SHARDS).read_text(encoding="ascii").splitlines())


def run_on_beam(
    task: ShardTask,
    shards: Sequence[int],
    *,
    what: str,
    parts: Callable[[], int],
    runner: str | None,
    arguments: Sequence[str],
) -> None:
    """Do a task for each of these shards on a Beam runner (its own local one for None); see `run_tasks`.

    Raises:
        UsageError: see `check_runner`.
        WorkerFailedError, WorkerDiedError, EngineFailedError: see `run_pipeline`; the parts that are there stay.
        LostElementsError: the runner ended without doing every shard.
        ShardboxError: what the task raised.
    """
    runner = runner or DEFAULT_RUNNER
    check_runner(runner, arguments, task.paths)
    plan = task.directory / _SHARDS
    plan.write_text("".join(f"{shard}\n" for shard in shards), encoding="ascii")

    def steps(pipeline: beam.Pipeline) -> None:
        (
            pipeline
            | "plan" >> beam.Create([str(task.directory)])
            | "shards" >> beam.FlatMap(_listed)
            | "to all workers" >> beam.Reshuffle()
            | what >> RunInference(_TaskHandler(task))
        )

    with watch(what, len(shards), "shards", parts):
        run_pipeline(steps, runner, arguments, kept="the parts that were done are kept")
    plan.unlink()
    raise_failures(task.directory)
    if (done := parts()) != len(shards):
        raise LostElementsError(
            f"{runner} reported success but did {done} of {len(shards)} shards",
            "run it again, with fewer workers or another --runner: what was done is kept",
        )
