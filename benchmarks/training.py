"""What data cost a training: images/s of real steps, and the share of their time that the device waits for data.

    python benchmarks/training.py                                  a small DETR, on whatever device there is
    python benchmarks/training.py --recipe detr_r50 --workers 8    DETR-R50 at 800/1333, eight images a step, on a GPU

The same detector takes the same steps on the same photographs, which come from

- `ours`: the loader, as bytes that are normalised on the device;
- `detr_processor`: a DataLoader with workers and Hugging Face's `DetrImageProcessor`, as its documentation has it;
- `ready`: batches of ours that are on the device already, which is how fast it could be.

Weights are random: they cost as much as others. On a GPU it computes in bfloat16, and what it waits is the time between
the end of a step and the beginning of the next one, by its own clock, copying included. On a CPU it is the time that
the next batch takes to come, while the same cores also decode.
"""

import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge_source import make, prepared
from bridge_steady import BATCH
from measuring import in_turns, parser, report, run_here

WARM_UP = 3
READY = 4
"""Batches that `ready` takes in turn."""


@dataclass(frozen=True)
class Case:
    """A detector and the size of its images: which configuration, and the edges that images are resized to."""

    config: Callable[[], Any]
    edges: tuple[int, int]
    trains_early_layers: bool


def _r50() -> Any:
    """The shape of `facebook/detr-resnet-50`, which nothing is loaded from."""
    from transformers import DetrConfig, ResNetConfig

    return DetrConfig(backbone_config=ResNetConfig(out_features=["stage4"]))


def _small() -> Any:
    from trainers.detectors.detr_configs import small_detr_config

    return small_detr_config()


CASES = {"detr_small": Case(_small, (256, 416), True), "detr_r50": Case(_r50, (800, 1333), False)}
Inputs = dict[str, Any]


def ours(root: Path, case: Case, workers: int, device: Any) -> Iterator[Inputs]:
    from dataflow.bridge.batches import normalise
    from dataflow.bridge.loader import BatchLoader
    from dataflow.bridge.resize import ResizePolicy
    from dataflow.prepared import PreparedDataset
    from trainers.recipes.recipe import IMAGENET_MEAN, IMAGENET_STD

    loader = BatchLoader(
        PreparedDataset(prepared(root, "tfrecord")),
        "train",
        ResizePolicy(*case.edges),
        BATCH,
        training=True,
        threads=workers,
    )
    for batch in loader:
        inputs = (batch.pin_memory() if device.type == "cuda" else batch).to(device, non_blocking=True).inputs()
        pixels = normalise(inputs["pixel_values"], inputs["pixel_mask"], IMAGENET_MEAN, IMAGENET_STD)
        yield inputs | {"pixel_values": pixels}


def detr_processor(root: Path, case: Case, workers: int, device: Any) -> Iterator[Inputs]:
    import bridge_peers
    import torch

    bridge_peers.WORKERS = workers
    with closing(bridge_peers.detr_processor(root, case.edges, "torchvision")) as stream:
        for batch in stream:
            labels = [
                {"boxes": boxes.to(device), "class_labels": torch.zeros(len(boxes), dtype=torch.int64, device=device)}
                for boxes in batch.boxes
            ]
            yield {
                "pixel_values": batch.pixels.to(device, non_blocking=True),
                "pixel_mask": batch.mask.to(device, non_blocking=True),
                "labels": labels,
            }


def ready(root: Path, case: Case, workers: int, device: Any) -> Iterator[Inputs]:
    with closing(ours(root, case, workers, device)) as stream:
        batches = list(itertools.islice(stream, READY))
    yield from itertools.cycle(batches)


CONTENDERS = {"ours": ours, "detr_processor": detr_processor, "ready": ready}


class Training:
    """A detector, and steps of its training."""

    def __init__(self, case: Case, device: Any) -> None:
        import torch

        from dataflow.records import Categories
        from trainers.detectors.detr import build_detr

        torch.manual_seed(0)
        self.device = device
        self.model, _ = build_detr(
            Categories(("thing",)), None, case.config, train_early_layers=case.trains_early_layers
        )
        self.model.to(device).train()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=1e-5)
        self.trained = trained

    def step(self, inputs: Inputs) -> None:
        """Forward, backward and update. The loss is looked at, as training does, to stop where it is no number."""
        import torch

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self.model(**inputs).loss
        assert bool(torch.isfinite(loss))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 0.1)
        self.optimiser.step()
        self.optimiser.zero_grad()


def timed(stream: Iterator[Inputs], step: Callable[[Inputs], None], steps: int, device: Any) -> dict[str, float]:
    """Images/s of `steps` steps after a few that do not count, and the share of their time spent waiting for data."""
    clock = Clock(device)
    for inputs in itertools.islice(stream, WARM_UP):
        step(inputs)
    clock.settle()
    images, canvas, started = 0, 0, time.perf_counter()
    clock.ended()
    for _ in range(steps):
        inputs = next(stream)
        clock.begun()
        step(inputs)
        clock.ended()
        images += len(inputs["pixel_values"])
        canvas += inputs["pixel_mask"].numel()
    clock.settle()
    seconds = time.perf_counter() - started
    return {
        "images_per_s": images / seconds,
        "step_ms": 1000 * seconds / steps,
        "waiting": clock.waited() / seconds,
        "canvas_mpx": canvas / images / 1e6,
    }


class Clock:
    """Times between the end of a step and the beginning of the next, by the GPU's events or by this process's clock."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._ends: list[Any] = []
        self._begins: list[Any] = []

    def begun(self) -> None:
        self._begins.append(self._now())

    def ended(self) -> None:
        self._ends.append(self._now())

    def settle(self) -> None:
        """Wait until the device has done everything."""
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)

    def waited(self) -> float:
        """Seconds."""
        pairs = zip(self._ends, self._begins, strict=False)
        if self._device.type == "cuda":
            return sum(end.elapsed_time(begin) for end, begin in pairs) / 1000
        return sum(begin - end for end, begin in pairs)

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def measure(key: str, folder: Path, name: str, steps: int, workers: int) -> dict[str, float]:
    """One contender in this process."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    case = CASES[name]
    training = Training(case, device)
    with closing(CONTENDERS[key](folder / "photographs", case, workers, device)) as stream:
        return timed(stream, training.step, steps, device)


def ratios_of(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Images/s of one over the other."""
    rates = {key: row["images_per_s"] for key, row in found.items()}
    compared = (("ours", "detr_processor"), ("ours", "ready"), ("detr_processor", "ready"))
    return {f"{a}_vs_{b}": rates[a] / rates[b] for a, b in compared}


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--recipe", choices=CASES, default="detr_small", help="whose detector (default detr_small)")
    options.add_argument("--steps", type=int, default=12, help="steps that count, of each in each round (default 12)")
    options.add_argument("--workers", type=int, default=2, help="threads, or worker processes, for data (default 2)")
    options.add_argument("--images", type=int, default=128, help="photographs that are made (default 128)")
    given = options.add_mutually_exclusive_group()
    given.add_argument("--source", type=Path, help="a folder of JPEGs to use instead of made ones")
    given.add_argument("--dataset", type=Path, help="a prepared dataset whose photographs and boxes to use instead")
    options.add_argument("--folder", type=Path, help="where the photographs are kept, to use them again")
    chosen = options.parse_args()
    if chosen.one == "make":
        make(chosen.folder, chosen.images, 0, chosen.source, chosen.dataset)
        return
    if chosen.one:
        run_here(lambda: measure(chosen.one, chosen.folder, chosen.recipe, chosen.steps, chosen.workers))
        return
    temporary = Path(tempfile.mkdtemp(prefix="shardbox-bench-"))
    try:
        folder = chosen.folder or temporary / "kept"
        if not folder.exists():
            given_options = {"images": chosen.images, "source": chosen.source, "dataset": chosen.dataset}
            words = [w for k, v in given_options.items() if v is not None for w in (f"--{k}", str(v))]
            script = [sys.executable, __file__, "--one", "make", "--folder", str(temporary / "made"), *words]
            subprocess.run(script, check=True)
            shutil.move(temporary / "made", folder)
        arguments = ["--folder", str(folder), "--recipe", chosen.recipe, "--steps", str(chosen.steps)]
        arguments += ["--workers", str(chosen.workers)]
        found = in_turns(Path(__file__), list(CONTENDERS), chosen.rounds, arguments)
    finally:
        shutil.rmtree(temporary)
    columns = ("images_per_s", "step_ms", "waiting", "canvas_mpx", "peak_mb")
    rows = {key: {column: row[column] for column in columns} for key, row in found.items()}
    report("training", rows, ratios_of(found), chosen.json, device=_device(), recipe=chosen.recipe)


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    main()
