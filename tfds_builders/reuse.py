"""What an update need not do again: shards whose inputs are the same as they were."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

from dataflow.beam.jobs import ShardJob, results_so_far
from dataflow.shards import ShardKey, ShardResult, parse_result
from dataflow.stores.cloud_paths import is_cloud
from dataflow.stores.paths import REQUESTS, copy_object
from tfds_builders.directory import write_text

INPUTS = "inputs.json"
_DIGESTS = ".inputs.json"


def input_digests(job: ShardJob, signature: str) -> dict[ShardKey, str]:
    """SHA-256 (hex) of all that decides what a shard will hold: `signature`, the loader's options, and its lines."""
    what = f"{signature}\0{job.shard_format!r}\0{job.outcomes!r}\n"
    digests = {}
    for key, lines in job.inputs.items():
        digest = hashlib.sha256(what.encode("utf-8", "surrogatepass"))
        for line in lines:
            digest.update(line.encode("ascii"))
            digest.update(b"\n")
        digests[key] = digest.hexdigest()
    return digests


def save_inputs(directory: Path, digests: Mapping[ShardKey, str], results: Sequence[ShardResult]) -> None:
    """Leave `inputs.json` beside the shards, by which a later update knows what it may keep."""
    entries = [
        {"inputs": digests[ShardKey(result.split, result.index, result.of)], "result": asdict(result)}
        for result in results
    ]
    write_text(directory / INPUTS, json.dumps({"shards": entries}, ensure_ascii=True))


def same_shards(target: Path, digests: Mapping[ShardKey, str]) -> list[ShardResult]:
    """The results of those shards of the dataset at `target` that would come out the same."""
    path = target / INPUTS
    if not path.is_file():
        return []
    kept = []
    for entry in json.loads(path.read_text(encoding="ascii"))["shards"]:
        result = parse_result(entry["result"])
        key = ShardKey(result.split, result.index, result.of)
        if digests.get(key) == entry["inputs"] and (target / result.file).is_file():
            kept.append(result)
    return kept


def save_digests(directory: Path, digests: Mapping[ShardKey, str]) -> None:
    """Leave in an unfinished directory what its shards are made of, for `finished_shards`."""
    content = [[key.split, key.index, key.of, digest] for key, digest in digests.items()]
    write_text(directory / _DIGESTS, json.dumps(content))


def forget_digests(directory: Path) -> None:
    """Remove what `save_digests` left."""
    (directory / _DIGESTS).unlink()


def finished_shards(work: Path, digests: Mapping[ShardKey, str]) -> list[ShardResult]:
    """The results of those shards in an unfinished directory that are whole, and made of what they should be."""
    if not (work / _DIGESTS).exists():
        return []
    made = {ShardKey(*key): digest for *key, digest in json.loads((work / _DIGESTS).read_text(encoding="ascii"))}
    found = []
    for result in results_so_far(work):
        key = ShardKey(result.split, result.index, result.of)
        # A shard takes its name before its result does.
        if key in digests and made.get(key) == digests[key]:
            found.append(result)
    return found


def without_shards(job: ShardJob, kept: Sequence[ShardResult]) -> ShardJob:
    """The job without the shards that are there already."""
    keys = {ShardKey(result.split, result.index, result.of) for result in kept}
    done = sum(result.count + len(result.quarantined) for result in kept)
    inputs = {key: lines for key, lines in job.inputs.items() if key not in keys}
    return replace(job, inputs=inputs, expected=job.expected - done)


def take_shards(target: Path, directory: Path, results: Sequence[ShardResult]) -> None:
    """The files of these shards, in another directory: the same file where the file system can, else a copy."""
    if is_cloud(directory):
        with ThreadPoolExecutor(REQUESTS) as pool:
            list(pool.map(lambda result: copy_object(target / result.file, directory / result.file), results))
        return
    for result in results:
        try:
            os.link(target / result.file, directory / result.file)
        except OSError:
            shutil.copyfile(target / result.file, directory / result.file)
