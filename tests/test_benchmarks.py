"""Benchmarks run, and print what they promise; what they measure is not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("name", "options", "ratios"),
    [
        ("ingest", ("--images", "40", "--rounds", "1"), {"tfds_vs_shardbox", "shardbox_vs_floor_speed"}),
        (
            "diff",
            ("--frames", "14", "--rounds", "1"),
            {"shardbox_vs_floor", "shardbox_sequence_vs_floor_once", "OpenCV_vs_shardbox"},
        ),
        (
            "bridge",
            ("--images", "32", "--large", "0", "--rounds", "1", "--seconds", "0", "--only=limit", "--only=ours_float"),
            {"ours_float_vs_limit_480", "ours_float_vs_limit_800"},
        ),
        (
            "evaluation",
            ("--images", "20", "--rounds", "1"),
            {"pycocotools_vs_shardbox", "cell_by_cell_vs_one_pass"},
        ),
        ("scale", ("--images", "2000", "--objects", "2"), {"plan_bytes_per_image", "shuffle_bytes_per_image"}),
    ],
)
def test_the_last_line_is_the_result(name: str, options: tuple[str, ...], ratios: set[str], tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["benchmark"] == name and result["rows"]
    assert ratios <= result["ratios"].keys() and all(result["ratios"][name] > 0 for name in ratios)
