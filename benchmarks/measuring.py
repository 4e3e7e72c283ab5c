"""Measuring: each contender in a process of its own, in turns, and what came out as one JSON object."""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # A benchmark is a script; it measures the checkout that it lies in.


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", action="store_true", help="print the result as JSON and nothing else")
    made.add_argument("--rounds", type=int, default=3, help="times that each contender runs (default 3)")
    made.add_argument("--one", help=argparse.SUPPRESS)
    return made


def run_here(work: Callable[[], Mapping[str, Any]]) -> None:
    """Run one contender here, and print its seconds (wall and CPU, children's too), peak memory, and more."""
    before = _peak()
    cpu, wall = _cpu(), time.perf_counter()
    more = work()
    figures = {"wall_s": time.perf_counter() - wall, "cpu_s": _cpu() - cpu, "peak_mb": _peak(), "before_mb": before}
    print(json.dumps({**figures, **more}))


def in_turns(script: Path, contenders: list[str], rounds: int, arguments: list[str]) -> dict[str, dict[str, float]]:
    """Medians of each contender, which run one after the other, again and again, each in a fresh process."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for round_ in range(rounds):
        for name in contenders:
            command = [sys.executable, str(script), "--one", name, *arguments]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(f"round {round_ + 1}: {name}: {found[name][-1]['wall_s']:.2f} s", file=sys.stderr)
    return {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}


def report(name: str, rows: dict[str, dict[str, float]], ratios: dict[str, float], as_json: bool, **more: Any) -> None:
    """Print a table (unless only JSON is wanted) and, last, the one object."""
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    result = {
        "benchmark": name,
        "rows": [{"name": key, **{k: round(v, 4) for k, v in row.items()}} for key, row in rows.items()],
        "ratios": {key: round(value, 3) for key, value in ratios.items()},
        "machine": machine,
        **more,
    }
    if not as_json:
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        print(f"{'':32}" + "".join(f"{column:>14}" for column in columns))
        for key, row in rows.items():
            print(f"{key:32}" + "".join(f"{row[column]:14.3f}" if column in row else " " * 14 for column in columns))
    print(json.dumps(result))


def _cpu() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _peak() -> float:
    """Peak memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
