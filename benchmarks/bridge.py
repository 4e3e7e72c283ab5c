"""The bridge: photographs to padded batches of pixels, mask and boxes, beside the limit and its peers.

    python benchmarks/bridge.py [--images 512] [--source DIR | --dataset DIR]

- limit: each photograph, from memory, decoded by simplejpeg and resized by torch's uint8 antialiased bilinear resize as
  the pixels lie in memory, in one thread; no batch is made. The same by torchvision's `resize` of a (3, H, W) view in
  another row, which is what its users have.
- ours: batches of uint8 from TFRecord and from ArrayRecord, and of float32 normalised on the CPU; two threads.
- peers (`bridge_peers.py`): torch's DataLoader with Hugging Face's processor and with torchvision, TensorFlow alone,
  webdataset, LitData, Grain, and the wrapper that takes TensorFlow's examples one at a time; two workers. One whose
  package is not installed is named and left out.

All show the same photographs in random order, in batches of eight, at shortest and longest edge 480/640 and 800/1333:
made here (COCO's shapes, 4:2:0), found in `--source`, or those of a prepared dataset. `12mp` are photographs of
4000x3000, made here, to 800/1333. A batch of each contender is held against the photographs.

What is measured is the steady state (`bridge_steady.py`): CPU time of all processes of a contender, images/s and
memory, after start-up and the first six batches. Ratios are of CPU time per image, peers of float32 against our
float32, of uint8 against our uint8. `padded_over_real` is the area of the canvases over that of the images on them.
"""

import importlib.util
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import bridge_peers as peers
import numpy as np
from bridge_source import CASES, Case, make, prepared, read_photographs
from bridge_steady import BATCH, MEAN, STD, Padded, check, steady
from measuring import in_turns, parser, report, run_here

THREADS = 2
SMALL = ("480", "800")
ALL = ("480", "800", "12mp")
Edges = tuple[int, int]


def encoded(root: Path) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """The photographs in memory, again and again, with their (height, width)."""
    files = [(photo.file.read_bytes(), (photo.height, photo.width)) for photo in read_photographs(root)]
    while True:
        yield from files


def limit(root: Path, edges: Edges, way: str) -> Iterator[list[Any]]:
    """Decoded and resized photographs, eight by eight, on no canvas."""
    import simplejpeg
    import torch
    from torchvision.transforms.v2.functional import resize as torchvision_resize

    from dataflow.bridge.resize import ResizePolicy

    policy = ResizePolicy(*edges)

    def resized(data: bytes, size: tuple[int, int]) -> Any:
        pixels = torch.from_numpy(simplejpeg.decode_jpeg(data, "RGB"))
        target = policy.target_size(size)
        if way == "decode" or target == size:
            return pixels
        if way == "torchvision":
            return torchvision_resize(pixels.permute(2, 0, 1), list(target), antialias=True)
        # The batch's stride tells torch that channels are last: nothing is repacked.
        height, width = size
        image = pixels.as_strided((1, 3, height, width), (3 * height * width, 1, 3 * width, 3))
        return torch.nn.functional.interpolate(image, size=target, mode="bilinear", antialias=True)

    photographs = encoded(root)
    while True:
        yield [resized(*next(photographs)) for _ in range(BATCH)]


def ours(root: Path, edges: Edges, file_format: str, floats: bool) -> Iterator[Padded]:
    """The loader in training."""
    from dataflow.bridge.drawing import Normalisation
    from dataflow.bridge.loader import BatchLoader
    from dataflow.bridge.resize import ResizePolicy
    from dataflow.prepared import PreparedDataset

    dataset = PreparedDataset(prepared(root, file_format))
    made = Normalisation(MEAN, STD) if floats else None
    policy = ResizePolicy(*edges)
    for batch in BatchLoader(dataset, "train", policy, BATCH, training=True, threads=THREADS, normalisation=made):
        yield Padded(batch.pixel_values, batch.pixel_mask, [target.boxes for target in batch.targets])


@dataclass(frozen=True)
class Contender:
    """One way, for people by its title: `stream` of a folder of photographs and edges."""

    title: str
    stream: Callable[[Path, Edges], Iterator[Any]]
    floats: bool = True
    cases: tuple[str, ...] = SMALL
    needs: str = "torch"


CONTENDERS = {
    "decode": Contender("decode alone", partial(limit, way="decode"), False, ("12mp",)),
    "limit": Contender("limit", partial(limit, way="memory"), False),
    "limit_torchvision": Contender("limit, torchvision", partial(limit, way="torchvision"), False, needs="torchvision"),
    "ours_uint8": Contender("ours, TFRecord, uint8", partial(ours, file_format="tfrecord", floats=False), False, ALL),
    "ours_array_record": Contender(
        "ours, ArrayRecord, uint8", partial(ours, file_format="array_record", floats=False), False
    ),
    "ours_float": Contender("ours, TFRecord, float32", partial(ours, file_format="tfrecord", floats=True)),
    "torchvision_uint8": Contender(
        "DataLoader, torchvision, uint8", partial(peers.torchvision, floats=False), False, ALL, "torchvision"
    ),
    "torchvision_float": Contender(
        "DataLoader, torchvision, float32", partial(peers.torchvision, floats=True), needs="torchvision"
    ),
    "detr_processor": Contender(
        "DataLoader, DetrImageProcessor, float32",
        partial(peers.detr_processor, backend="torchvision"),
        needs="transformers",
    ),
    "detr_processor_pil": Contender(
        "DataLoader, DetrImageProcessorPil, float32", partial(peers.detr_processor, backend="pil"), needs="transformers"
    ),
    "webdataset": Contender("webdataset, torchvision, float32", peers.webdataset, needs="webdataset"),
    "litdata": Contender("LitData, torchvision, float32", peers.litdata, needs="litdata"),
    "grain": Contender("Grain, torchvision, float32", peers.grain, needs="grain"),
    "tensorflow": Contender("TensorFlow alone, float32", peers.tensorflow, needs="tensorflow"),
    "one_at_a_time": Contender("one TF example at a time, float32", peers.one_at_a_time, needs="tensorflow"),
}


def measure(key: str, folder: Path, seconds: float) -> dict[str, float]:
    """All cases of one contender in this process, the small ones first, each figure under its case and name."""
    found, seen = {}, []
    contender = CONTENDERS[key]
    for case in (CASES[name] for name in contender.cases if (folder / CASES[name].folder).exists()):
        root, edges = folder / case.folder, (case.shortest_edge, case.longest_edge)
        with closing(contender.stream(root, edges)) as stream:
            figures = steady(stream, case.least, seconds)
            seen.append((next(stream), root, edges))
        found |= {f"{case.name} {name}": value for name, value in figures.items()}
        if key == "ours_uint8" and case.name in SMALL:
            found[f"{case.name} padded"] = padded_over_real(contender.stream(root, edges), root)
    for batch, root, edges in seen:  # At the end, since memory that was freed makes later batches cheaper.
        if isinstance(batch, Padded):
            check(batch, root, edges)
    return found


def padded_over_real(stream: Iterator[Padded], root: Path) -> float:
    """Area of canvases over that of the images on them, of an epoch of batches."""
    padded = real = 0
    for _, batch in zip(range(len(read_photographs(root)) // BATCH), stream, strict=False):
        padded += batch.mask.numel()
        real += int(batch.mask.sum())
    return padded / real


def random_padded_over_real(root: Path, case: Case) -> float:
    """The same of batches put together at random, the mean of twenty epochs."""
    from dataflow.bridge.resize import ResizePolicy

    policy = ResizePolicy(case.shortest_edge, case.longest_edge)
    sizes = np.array([policy.target_size((photo.height, photo.width)) for photo in read_photographs(root)])
    rng, found = np.random.default_rng(0), []
    for _ in range(20):
        batches = rng.permutation(sizes)[: len(sizes) // BATCH * BATCH].reshape(-1, BATCH, 2)
        found.append(BATCH * batches.max(axis=1).prod(axis=1).sum() / batches.prod(axis=2).sum())
    return statistics.mean(found)


def ratios_of(found: dict[str, dict[str, float]], folder: Path) -> dict[str, float]:
    """CPU per image, one over the other, of contenders that ran; and what padding adds."""
    compared = [(mine, floor) for mine in ("ours_uint8", "ours_float") for floor in ("limit", "limit_torchvision")]
    for key, contender in CONTENDERS.items():
        mine = "ours_float" if contender.floats else "ours_uint8"
        if key != mine and not key.startswith("limit"):
            compared.append((key, mine))
    ratios = {}
    for case in CASES:
        cpu = {key: row[f"{case} cpu_ms"] for key, row in found.items() if f"{case} cpu_ms" in row}
        ratios |= {f"{a}_vs_{b}_{case}": cpu[a] / cpu[b] for a, b in compared if a in cpu and b in cpu}
        padded = found.get("ours_uint8", {}).get(f"{case} padded")
        if padded is not None:
            ratios[f"padded_over_real_ours_{case}"] = padded
            ratios[f"padded_over_real_random_{case}"] = random_padded_over_real(folder / "photographs", CASES[case])
    return ratios


def installed() -> list[str]:
    """The contenders whose packages are there; the others are named."""
    found = []
    for key, contender in CONTENDERS.items():
        if importlib.util.find_spec(contender.needs) is None:
            print(f"{contender.title} is left out: pip install {contender.needs}", file=sys.stderr)
        else:
            found.append(key)
    return found


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--images", type=int, default=512, help="photographs that are made (default 512)")
    options.add_argument("--large", type=int, default=24, help="photographs of 12 megapixels (default 24; 0: none)")
    options.add_argument("--seconds", type=float, default=1.0, help="that each is measured at least (default 1)")
    given = options.add_mutually_exclusive_group()
    given.add_argument("--source", type=Path, help="a folder of JPEGs to use instead of made ones")
    given.add_argument("--dataset", type=Path, help="a prepared dataset whose photographs and boxes to use instead")
    options.add_argument("--only", action="append", choices=CONTENDERS, help="a contender to run (again for more)")
    options.add_argument("--folder", type=Path, help="where the photographs are kept, to use them again")
    chosen = options.parse_args()
    if chosen.one == "make":
        make(chosen.folder, chosen.images, chosen.large, chosen.source, chosen.dataset)
        return
    if chosen.one:
        run_here(lambda: measure(chosen.one, chosen.folder, chosen.seconds))
        return
    temporary = Path(tempfile.mkdtemp(prefix="shardbox-bench-"))
    try:
        folder = chosen.folder or temporary / "kept"
        if not folder.exists():
            script = [sys.executable, __file__, "--one", "make", "--folder", str(temporary / "made"), *_made_of(chosen)]
            # In a process of its own: a child's peak memory begins with what its parent has.
            subprocess.run(script, check=True)
            shutil.move(temporary / "made", folder)
        keys = [key for key in installed() if not chosen.only or key in chosen.only]
        arguments = ["--folder", str(folder), "--seconds", str(chosen.seconds)]
        found = in_turns(Path(__file__), keys, chosen.rounds, arguments)
        ratios = ratios_of(found, folder)
    finally:
        shutil.rmtree(temporary)
    columns = ("cpu_ms", "images_per_s", "peak_mb", "images")
    rows = {
        f"{case} {CONTENDERS[key].title}": {column: found[key][f"{case} {column}"] for column in columns}
        for case in CASES
        for key in keys
        if f"{case} cpu_ms" in found[key]
    }
    report("bridge", rows, ratios, chosen.json)


def _made_of(chosen: Any) -> list[str]:
    given = {"images": chosen.images, "large": chosen.large, "source": chosen.source, "dataset": chosen.dataset}
    return [text for name, value in given.items() if value is not None for text in (f"--{name}", str(value))]


if __name__ == "__main__":
    main()
