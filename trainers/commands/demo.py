"""The demonstration: every stage, by the very commands a user would type, on scenes with known truth."""

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dataflow.errors import UsageError
from trainers.commands.scenes import write_scenes

SCENES = 160
STEPS = 120
_MARK = ".shardbox-demo"


def run_demo(out: Path, run: Callable[[list[str]], dict[str, Any]]) -> dict[str, Any]:
    """Generate scenes below `out` and take them through all stages; `run` runs the words of one command.

    Raises:
        UsageError: `out` is there and no earlier demonstration.
    """
    if out.exists() and not (out / _MARK).is_file() and any(out.iterdir()):
        raise UsageError(f"{out} is there and holds something else", "choose another --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / _MARK).touch()
    start = time.monotonic()
    write_scenes(out / "scenes", SCENES)
    print(f"{SCENES} scenes of two frames each, by a camera that shakes a little: {out / 'scenes'}")

    def step(*words: object) -> dict[str, Any]:
        began = time.monotonic()
        line = [str(word) for word in words]
        print(f"\n$ shardbox {' '.join(line)}", flush=True)
        result = run(line)
        print(f"  ({time.monotonic() - began:.0f} s)")
        return result

    datasets = out / "datasets"
    step("ingest", out / "scenes", "--format", "mot", "--pair-gap", 1, "--out", datasets)
    step("diff", datasets / "scenes" / "1.0.0", "--out", datasets)
    differences = datasets / "scenes_absolute" / "1.0.0"
    step("train", differences, "--recipe", "dense_cnn_small", "--steps", STEPS, "--out", out / "run")
    step("predict", differences, "--run", out / "run", "--out", out / "predictions")
    evaluated = step("evaluate", differences, "--predictions", out / "predictions", "--out", out / "report")
    browse = ("browse", differences, "--predictions", out / "predictions")
    stored = step(*browse, "--no-app")
    print(f"\nAll stages took {time.monotonic() - start:.0f} s. On scenes the detector never saw:")
    print(f"  AP50 {evaluated['figures']['AP50']:.3f}, AP {evaluated['figures']['AP']:.3f}")
    print(f"Read {out / 'report' / 'report.html'}; browse the errors with")
    # As it was called: `make demo` has the command where the shell does not look.
    command = sys.argv[0] if Path(sys.argv[0]).name == "shardbox" else "shardbox"
    print(f"  {command} {' '.join(str(word) for word in browse)}")
    return {"figures": evaluated["figures"], "report": evaluated["report"], **stored}
