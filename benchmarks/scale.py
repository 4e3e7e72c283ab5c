"""A source of a million images, planned and simulated: everything that one machine does for all of them.

    python benchmarks/scale.py [--images 1000000]

No image is read. The references are made up (100 kB and a YOLO label each; with --objects COCO annotations travel
along); what is done with them is what `shardbox ingest` does: the listing (also that of an object store, made up), the
plan, its files, the graph of the job, what a runner shuffles, the results of the shards, the search for duplicates
among all images. docs/scale.md quotes the figures.
"""

import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from measuring import parser, report


def references(count: int, objects: int) -> list[Any]:
    """Made-up references, as the YOLO reader makes them, or the COCO reader with `objects` annotations each."""
    from tfds_builders.sources.source import Reference

    rows = ",".join(f'[{i},{{"category_id":{i},"bbox":[10.5,20.25,300.125,200.5],"area":1.5}}]' for i in range(objects))
    made = []
    for index in range(count):
        name = f"{index // 1000:06d}/{index:012d}"
        file = f"images/train/{name}.jpg"
        payload = {"source": 0, "number": index, "file": file, "rows": f"[{rows}]"} if objects else file
        made.append(Reference(name, name, 100_000, payload, file, None, f"100000.{index:019d} 300.{index:019d}"))
    return made


def stored(count: int) -> dict[str, float]:
    """A YOLO source of so many images in an object store: its listing, made up here, and what is planned by it."""
    from unittest.mock import patch

    from dataflow.stores import cloud_paths
    from tfds_builders.formats.yolo import open_yolo

    def made_up(_: str, bucket: str, folder: str) -> Iterator[tuple[str, int, int]]:
        for kind, suffix, size in (("images", "jpg", 100_000), ("labels", "txt", 300)):
            for index in range(count):
                name = f"{index // 1000:06d}/{index:012d}.{suffix}"
                yield f"{bucket}/{folder}/{kind}/{name}", size, 1_700_000_000_000_000_000 + index
        yield f"{bucket}/{folder}/classes.txt", 6, 0

    before, start = _resident_mb(), time.perf_counter()
    with patch.object(cloud_paths, "list_objects", made_up):
        listed = cloud_paths.listed_folder(cloud_paths.CloudPath("gs://bucket/source"))
    found = {"store_list_s": time.perf_counter() - start, "store_list_mb": _resident_mb() - before}
    start = time.perf_counter()
    listing = open_yolo(cast(Path, listed), ("thing",)).scan()
    assert len(listing.references) == count and not listing.findings
    return found | {"store_scan_s": time.perf_counter() - start, "store_scan_mb": _resident_mb() - before}


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def simulate(count: int, objects: int, folder: Path) -> dict[str, float]:
    """Seconds, bytes and counts of each step."""
    import apache_beam as beam

    from dataflow.beam.jobs import ShardJob, add_job, write_plan
    from dataflow.records import Categories
    from dataflow.shards import ShardFormat, ShardKey, ShardResult
    from tfds_builders.planning import PlanOptions, plan_shards
    from tfds_builders.reuse import input_digests, save_inputs
    from tfds_builders.sources.source import Checks, Loader
    from tfds_builders.whole_source import whole_source_findings

    found: dict[str, float] = {"images": count}
    made = references(count, objects)
    start = time.perf_counter()

    def step(name: str) -> None:
        nonlocal start
        found[f"{name}_s"] = time.perf_counter() - start
        start = time.perf_counter()

    step("list")
    plan = plan_shards(made, PlanOptions(), lambda asked: [() for _ in asked])
    found["shards"] = len(plan.inputs)
    step("plan")
    lines = {key: [reference.to_line() for reference in members] for key, members in plan.inputs.items()}
    categories = Categories(tuple(f"class {i}" for i in range(80)))
    job = ShardJob(ShardFormat("scale", categories, "images"), lines, Loader(None, Checks()), count)  # type: ignore[arg-type]
    found["plan_bytes"] = write_plan(job, folder)
    step("write_plan")
    digests = input_digests(job, "simulated")
    step("digests")
    pipeline = beam.Pipeline()
    add_job(pipeline, job, folder)
    found["graph_bytes"] = len(pipeline.to_runner_api().SerializeToString())
    coder = beam.coders.registry.get_coder(tuple[str, int, int])
    found["shuffle_bytes"] = sum(len(coder.encode((key.split, key.index, key.of))) for key in job.inputs)
    step("graph")
    rng = np.random.default_rng(0)
    results = []
    for key, members in plan.inputs.items():
        n = len(members)
        contents, looks = rng.bytes(8 * n).hex(), rng.bytes(16 * n).hex()
        file = job.shard_format.path(folder, key).name
        counts = {str(i): n for i in range(80)}
        results.append(ShardResult(key.split, key.index, key.of, file, n, 1, "0" * 32, (), (), contents, looks, counts))
    step("results")
    found["duplicates_found"] = len(list(whole_source_findings(plan.inputs, results, categories, False)))
    step("whole_source")
    save_inputs(folder, digests, results)
    found["inputs_json_bytes"] = (folder / "inputs.json").stat().st_size
    step("save_inputs")
    assert all(isinstance(key, ShardKey) for key in digests)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--images", type=int, default=1_000_000)
    options.add_argument("--objects", type=int, default=0, help="annotations an image that travel with its reference")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = stored(chosen.images) | simulate(chosen.images, chosen.objects, Path(folder))
    if not chosen.json:
        for name, value in found.items():
            print(f"{name:24}{value:16,.1f}")
    ratios = {
        "plan_bytes_per_image": found["plan_bytes"] / chosen.images,
        "graph_bytes_vs_dataflow_limit": found["graph_bytes"] / 10e6,
        "shuffle_bytes_per_image": found["shuffle_bytes"] / chosen.images,
    }
    report("scale", {f"{chosen.images} images": found}, ratios, as_json=True)


if __name__ == "__main__":
    main()
