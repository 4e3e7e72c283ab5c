"""Memory stays where it is while the dataset grows tenfold."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dataflow.images import encode_jpeg
from tests.factories import pixels, write

ROOT = Path(__file__).parents[2]
# Prepares a source in a process of its own, and prints its peak memory, kB.
INGEST = """
import json, resource, sys
from pathlib import Path
from tests.factories import prepare
from tfds_builders.formats.yolo import open_yolo
dataset = prepare(open_yolo(Path(sys.argv[1])), Path(sys.argv[2]))
print(json.dumps([sum(dataset.splits.values()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def make_source(root: Path, count: int) -> Path:
    """`count` photographs of 30 kB: 50 pictures, each encoded again in many qualities, and marked so that no two files
    are the same."""
    pictures = [pixels(240, 320, seed=seed) for seed in range(50)]
    encoded = [encode_jpeg(picture, quality) for picture in pictures for quality in (70, 75, 80, 85)]
    write(root / "data.yaml", "train: images/train\nval: images/val\nnames: [a, b, c]\n")
    for index in range(count):
        folder = "val" if index % 5 == 0 else "train"
        comment = b"\xff\xfe\x00\x0a" + index.to_bytes(8, "big")
        data = encoded[index % len(encoded)]
        write(root / "images" / folder / f"{index:06d}.jpg", data[:2] + comment + data[2:])
        write(root / "labels" / folder / f"{index:06d}.txt", "0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.1 0.1\n")
    return root


def peak_of(source: Path, out: Path, count: int) -> int:
    command = [sys.executable, "-c", INGEST, str(source), str(out)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
    prepared, peak = json.loads(done.stdout.splitlines()[-1])
    assert prepared == count
    return int(peak)


@pytest.mark.slow
def test_ten_times_the_images_in_the_same_memory(tmp_path: Path) -> None:
    small = peak_of(make_source(tmp_path / "small", 2_000), tmp_path / "out", 2_000)
    large = peak_of(make_source(tmp_path / "large", 20_000), tmp_path / "more", 20_000)
    print(f"peak: {small / 1024:.0f} MB for 2,000 images, {large / 1024:.0f} MB for 20,000")
    assert large <= 1.2 * small
