"""How a job scales: measured with one and two workers here, simulated for up to a thousand.

    python benchmarks/scaling.py [--measure [--rounds N]] [--json]

The simulation hands shards to workers as they become free, which is what Beam's runners do after the reshuffle. It
assumes: images cost what `--ms` says (docs/scale.md), a worker's speed is lognormal (`SPREAD`), a share of workers
straggles at a third of the speed, workers start one after another within `START_S`, and around the shards the launcher
plans and finishes alone, at what benchmarks/scale.py measures for an image. No failures, no network limit.
`--measure` prepares made photographs by Beam in processes, one and two of them, and predicts them with an untrained
detector: the same work (strong scaling), and twice the work for twice the workers (weak). Rounds are interleaved and
medians told. On a machine that others use two processes get twice the share of one, so that seconds flatter them: what
two workers cost more is in the CPU seconds, and so is an image, as the difference between the work and twice of it.
"""

import heapq
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import ROOT, parser, report

WORKERS = (1, 10, 100, 300, 1000)
SPREAD = 0.15  # sigma of the logarithm of a worker's speed
STRAGGLERS = 0.01  # of the workers, at a third of the speed
START_S = 180.0  # until the last worker of a cloud is up
PREDICTED = 400
PHOTOGRAPHS = {"ingest": 6000, "predict": PREDICTED}  # that are measured with, and twice as many
INGEST = ("--format", "yolo", "--name", "photographs", "--shards", "16", "--splits", "train=1")
LAUNCHER_MS = 0.030  # listing, planning, duplicates and the manifest, ms an image (benchmarks/scale.py)


def simulate(images: int, shards: int, workers: int, ms: float, seed: int = 0) -> dict[str, float]:
    """Seconds of the whole job and of its parts; efficiency is the share of paid worker time that computes."""
    rng = np.random.default_rng(seed)
    slow = np.where(rng.random(workers) < STRAGGLERS, 3.0, 1.0)
    pace = np.exp(rng.normal(0.0, SPREAD, workers)) * slow
    pace *= np.mean(1.0 / pace)  # Workers are as fast as the one that was measured, on average.
    # A hash deals images to shards: binomial, nearly Poisson.
    sizes = rng.multinomial(images, np.full(shards, 1.0 / shards))
    start = np.sort(rng.uniform(0.0, START_S, workers)) if workers > 1 else np.zeros(1)
    free = [(float(begin), number) for number, begin in enumerate(start)]
    heapq.heapify(free)
    end = 0.0
    for size in sizes:
        begin, number = heapq.heappop(free)
        done = begin + size * ms / 1e3 * pace[number]
        end = max(end, done)
        heapq.heappush(free, (done, number))
    work, launcher = images * ms / 1e3, images * LAUNCHER_MS / 1e3
    return {
        "shards": shards,
        "workers_s": end,
        "launcher_s": launcher,
        "total_s": end + launcher,
        "speed_up": (work + launcher) / (end + launcher),
        "efficiency": work / (end * workers),
    }


def measure(photographs: dict[str, int], rounds: int, folder: Path) -> dict[str, dict[str, float]]:
    """Medians of each job (`ingest` or `predict`, of so many photographs) by one and two workers."""
    seen: dict[str, list[dict[str, float]]] = {}
    for count in sorted({few * scale for few in photographs.values() for scale in (1, 2)}):
        make_photographs(folder / f"source-{count}", count)
    data = {few: folder / f"data-{few}" / "photographs" / "1.0.0" for few in (PREDICTED, 2 * PREDICTED)}
    for few, dataset in data.items():
        run(["ingest", str(folder / f"source-{few}"), *INGEST, "--out", str(dataset.parents[1])])
    run(["train", str(data[PREDICTED]), "--recipe", "dense_cnn_small", "--steps", "1", "--out", str(folder / "run")])
    for number in range(rounds):
        for workers, scale in ((1, 1), (2, 1), (2, 2)):
            for job, few in photographs.items():
                count, out = few * scale, folder / f"{job}-{number}-{workers}-{scale}"
                if job == "ingest":
                    words = ["ingest", str(folder / f"source-{count}"), *INGEST]
                else:
                    words = ["predict", str(data[count]), "--run", str(folder / "run"), "--split", "train"]
                options = [f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing"]
                name = f"{job}: {workers} workers, {count} images"
                row = run([*words, "--out", str(out), "--", *options])
                told = ", ".join(f"{key} {value:.1f}" for key, value in row.items())
                print(f"round {number + 1}: {name}: {told}", file=sys.stderr)
                seen.setdefault(name, []).append(row)
    return {name: {key: float(np.median([row[key] for row in rows])) for key in rows[0]} for name, rows in seen.items()}


def run(words: list[str]) -> dict[str, float]:
    """Seconds and CPU seconds of a command, its start left out of neither."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "trainers.cli", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - start, "cpu_s": cpu, "load": os.getloadavg()[0]}


def compared(job: str, few: int, rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """What two workers gain and cost, and what an image costs."""
    names = [(1, few), (2, few), (2, 2 * few)]
    one, strong, weak = (rows[f"{job}: {workers} workers, {count} images"] for workers, count in names)
    return {
        f"{job}_strong_speed_up_2_vs_1": one["seconds"] / strong["seconds"],
        f"{job}_weak_efficiency_2_vs_1": one["seconds"] / weak["seconds"],
        f"{job}_cpu_2_vs_1": strong["cpu_s"] / one["cpu_s"],
        f"{job}_cpu_ms_an_image": (weak["cpu_s"] - strong["cpu_s"]) / few * 1e3,
    }


def make_photographs(source: Path, count: int) -> None:
    """A YOLO source of JPEGs of about 90 kB: smooth noise, 640 x 480, each another."""
    import cv2

    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (source / name).mkdir(parents=True)
    (source / "classes.txt").write_text("thing\n")
    for number in range(count):
        coarse = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
        cv2.imwrite(str(source / "images" / f"{number:06d}.jpg"), cv2.resize(coarse, (640, 480)), [1, 90])
        (source / "labels" / f"{number:06d}.txt").write_text("0 0.5 0.5 0.4 0.4\n" * 7)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--ms", type=float, default=1.27, help="milliseconds an image on one core (default: ingest)")
    options.add_argument("--measure", action="store_true", help="measure one and two workers here, too")
    chosen = options.parse_args()
    rows: dict[str, dict[str, float]] = {}
    for images in (10**6, 10**8, 10**9):
        # Shards of 128 MiB: as many as ingest makes of photographs of 100 kB.
        for workers in WORKERS:
            shards = 2 ** max(0, int(np.ceil(np.log2(images * 1e5 / 2**27))))
            rows[f"{images:.0e} images, {workers} workers"] = simulate(images, shards, workers, chosen.ms)
    ratios = {f"speed_up_{name.replace(' ', '_').replace(',', '')}": row["speed_up"] for name, row in rows.items()}
    if chosen.measure:
        with tempfile.TemporaryDirectory() as name:
            measured = measure(PHOTOGRAPHS, chosen.rounds, Path(name))
        rows |= measured
        for job, few in PHOTOGRAPHS.items():
            ratios |= compared(job, few, measured)
    if not chosen.json:
        for name, row in rows.items():
            print(f"{name:40}" + "  ".join(f"{key} {value:,.2f}" for key, value in row.items()))
    report("scaling", rows, ratios, as_json=True)


if __name__ == "__main__":
    main()
