"""Where the Beam job of a build runs, and who finishes it."""

from dataclasses import dataclass
from pathlib import Path

from dataflow.beam.options import DEFAULT_RUNNER


@dataclass(frozen=True)
class Running:
    """Where a Beam job runs: a runner's name and the options that the user wrote after `--`.

    `words` are the command line, by which `shardbox finish` can do later what this launcher may not live to do. Then
    `unfinished` is the directory in which the job has left its shards, and nothing is run.
    """

    runner: str = DEFAULT_RUNNER
    arguments: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    unfinished: Path | None = None

    @property
    def outlives_launcher(self) -> bool:
        """Whether workers go on when the launcher is gone."""
        return self.runner in ("DataflowRunner", "FlinkRunner", "SparkRunner")

    @property
    def outlives_interruption(self) -> bool:
        """Whether the job goes on where somebody presses Ctrl-C; others are cancelled."""
        return self.runner == "DataflowRunner"
