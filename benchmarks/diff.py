"""Differences: pairs of frames in memory to difference images in memory, beside the floor and three libraries.

    python benchmarks/diff.py [--frames 200] [--source DIR]

- decoding: both frames of each pair decoded by our decoder.
- floor: both frames of each pair decoded and an image of the output encoded, by our decoder and encoder; nothing else.
  Floor once: the same, but each frame of the sequence is decoded once.
- shardbox: what a worker of `shardbox diff` does with the pairs that it has read, on pairs that share no frame, on a
  sequence (in which they do), and on the sequence aligned by features. Moving: of the same scene seen by a camera that
  moves (of frames made here only).
- PIL, OpenCV, TF: pair by pair, as their users write it.

All make |after - before| as JPEG of quality 95 without chroma subsampling, from frames i and i + 10 of a sequence: made
here (a photograph, things that move before it, noise; about 90 kB each), or read from the folder of a MOT scene.

Ratios are of CPU time; wall time, frames decoded and the size of the output stand beside. One thread each, every
contender in a process of its own, after a few pairs that are not counted, in turns.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from measuring import in_turns, parser, report, run_here

SIZE = (576, 768)
GAP = 10
WARM_UP = 5
MOVING = "moving"
Pair = tuple[bytes, bytes]
P = TypeVar("P")


def make_source(root: Path, count: int, shaken: bool) -> None:
    """`count` frames of a scene, from a camera that stands still or, `shaken`, moves."""
    from dataflow.images import encode_jpeg
    from dataflow.pairs.camera_motion import random_movement, shake
    from trainers.commands.scenes import load_photographs

    rng = np.random.default_rng(0)
    pictures = [cv2.resize(p, SIZE[::-1], interpolation=cv2.INTER_AREA) for p in load_photographs()[:4]]
    background, things = pictures[0], pictures[1:]
    starts, speeds = rng.uniform(0, 500, (12, 2)), rng.uniform(-4, 4, (12, 2))
    root.mkdir(parents=True)
    for number in range(count):
        frame = background.copy()
        for index, (start, speed) in enumerate(zip(starts, speeds, strict=True)):
            x, y = (start + number * speed).astype(int) % (SIZE[1] - 30, SIZE[0] - 60)
            frame[y : y + 60, x : x + 30] = things[index % len(things)][y : y + 60, 2 * index : 2 * index + 30]
        noise = cv2.GaussianBlur(rng.normal(0, 4, frame.shape), (0, 0), 0.7)
        frame = np.clip(frame + noise, 0, 255).astype(np.uint8)
        seen = shake(frame, random_movement(rng), sharp=False).pixels if shaken else frame
        (root / f"{number:06d}.jpg").write_bytes(encode_jpeg(seen, 84))


def read_pairs(source: Path) -> list[Pair]:
    """Frame i and frame i + `GAP` of all frames."""
    folder = source / "img1" if (source / "img1").is_dir() else source
    frames = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    return list(zip(frames, frames[GAP:], strict=False))


def unshared(pairs: Sequence[Pair]) -> list[Pair]:
    """The same pictures, each frame a file of its own: a comment tells them apart."""

    def marked(data: bytes, number: int) -> bytes:
        return data[:2] + b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big") + data[2:]

    return [(marked(a, 2 * i), marked(b, 2 * i + 1)) for i, (a, b) in enumerate(pairs)]


def measure(pairs: Sequence[P], make: Callable[[Sequence[P]], Iterator[bytes]], decoded: Callable[[], int]) -> None:
    """Run a contender: `make` turns pairs into encoded differences, `decoded` says how many frames it has decoded."""
    cv2.setNumThreads(1)
    sum(map(len, make(pairs[:WARM_UP])))
    before = decoded()

    def work() -> dict[str, Any]:
        size = sum(map(len, make(pairs)))
        return {"frames": decoded() - before, "pairs": len(pairs), "kb_out": size / len(pairs) / 1000}

    run_here(work)


class Counted:
    """A decoder that counts."""

    def __init__(self, decode: Callable[..., Any]) -> None:
        self.calls = 0
        self._decode = decode

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        return self._decode(*arguments)


def floor(pairs: Sequence[Pair], once: bool) -> None:
    from dataflow.images import decode_rgb, encode_jpeg
    from tfds_builders.differences import keep_freed_memory

    decode = Counted(decode_rgb)
    # Differences to encode; a few, since all of them would fill the memory.
    ready = [cv2.absdiff(decode_rgb(b, 1), decode_rgb(a, 1)) for a, b in pairs[:: max(1, len(pairs) // 16)]]
    keep_freed_memory()

    def make(pairs: Sequence[Pair]) -> Iterator[bytes]:
        seen: set[bytes] = set()
        for index, pair in enumerate(pairs):
            for frame in pair:
                if not once or frame not in seen:
                    decode(frame, 1)
                seen.add(frame)
            yield encode_jpeg(ready[index % len(ready)])

    measure(pairs, make, lambda: decode.calls)


def decoding(pairs: Sequence[Pair]) -> None:
    from dataflow.images import decode_rgb
    from tfds_builders.differences import keep_freed_memory

    decode = Counted(decode_rgb)
    keep_freed_memory()

    def make(pairs: Sequence[Pair]) -> Iterator[bytes]:
        for pair in pairs:
            for frame in pair:
                decode(frame, 1)
            yield b""

    measure(pairs, make, lambda: decode.calls)


def shardbox(pairs: Sequence[Pair], align: Any) -> None:
    from dataflow.records import FramePair, ImageRecord, no_objects
    from tfds_builders import differences

    counted = differences.decode_rgb = Counted(differences.decode_rgb)  # type: ignore[assignment]
    loader = differences.DifferenceLoader(Path(), "absolute", "jpeg", align)

    def record(name: str, data: bytes) -> ImageRecord:
        return ImageRecord(name, data, *SIZE, no_objects(), "scene", "benchmark", name, orientation=1)

    def make(pairs: Sequence[FramePair]) -> Iterator[bytes]:
        for outcome in loader.outcomes(pairs, threads=1):
            assert outcome.example is not None, outcome.findings
            yield outcome.example["image"]

    records = [FramePair(f"{i}", record("a", a), record("b", b), no_objects()) for i, (a, b) in enumerate(pairs)]
    measure(records, make, lambda: counted.calls)


def pil(pairs: Sequence[Pair]) -> None:
    import io

    from PIL import Image, ImageChops

    opened = Counted(Image.open)

    def make(pairs: Sequence[Pair]) -> Iterator[bytes]:
        for pair in pairs:
            before, after = (opened(io.BytesIO(data)) for data in pair)
            out = io.BytesIO()
            ImageChops.difference(after, before).save(out, "JPEG", quality=95, subsampling=0)
            yield out.getvalue()

    measure(pairs, make, lambda: opened.calls)


def opencv(pairs: Sequence[Pair]) -> None:
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        95,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    decode = Counted(cv2.imdecode)

    def make(pairs: Sequence[Pair]) -> Iterator[bytes]:
        for pair in pairs:
            before, after = (decode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in pair)
            yield cv2.imencode(".jpg", cv2.absdiff(after, before), options)[1].tobytes()

    measure(pairs, make, lambda: decode.calls)


def tensorflow(pairs: Sequence[Pair]) -> None:
    from dataflow.tensorflow_runtime import load_tensorflow

    tf = load_tensorflow()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    decode = Counted(tf.io.decode_jpeg)

    def make(pairs: Sequence[Pair]) -> Iterator[bytes]:
        for pair in pairs:
            before, after = (tf.cast(decode(data), tf.int16) for data in pair)
            change = tf.cast(tf.abs(after - before), tf.uint8)
            yield tf.io.encode_jpeg(change, quality=95, chroma_downsampling=False).numpy()

    measure(pairs, make, lambda: decode.calls)


CONTENDERS: dict[str, Callable[[Sequence[Pair]], None]] = {
    "decoding": decoding,
    "floor": lambda pairs: floor(pairs, once=False),
    "floor once": lambda pairs: floor(pairs, once=True),
    "shardbox, nothing shared": lambda pairs: shardbox(unshared(pairs), "none"),
    "shardbox, sequence": lambda pairs: shardbox(pairs, "none"),
    "shardbox, sequence aligned": lambda pairs: shardbox(pairs, "features"),
    "shardbox, moving": lambda pairs: shardbox(pairs, "none"),
    "shardbox, moving aligned": lambda pairs: shardbox(pairs, "features"),
    "PIL": pil,
    "OpenCV": opencv,
    "TF": tensorflow,
}


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--frames", type=int, default=200, help="frames that are made (default 200)")
    options.add_argument("--source", type=Path, help="the folder of a MOT scene to use instead of made frames")
    options.add_argument("--shake", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.one == "make":
        make_source(chosen.source, chosen.frames, chosen.shake)
        return
    if chosen.one:
        moving = chosen.source.with_name(MOVING) if MOVING in chosen.one else chosen.source
        CONTENDERS[chosen.one](read_pairs(moving))
        return
    folder = Path(tempfile.mkdtemp(prefix="shardbox-bench-"))
    try:
        source = chosen.source or folder / "frames"
        if chosen.source is None:
            # In a process of its own: a child's peak memory begins with what its parent has.
            script = [sys.executable, __file__, "--one", "make", "--frames", str(chosen.frames), "--source"]
            subprocess.run([*script, str(source)], check=True)
            subprocess.run([*script, str(source.with_name(MOVING)), "--shake"], check=True)
        contenders = [name for name in CONTENDERS if chosen.source is None or MOVING not in name]
        rows = in_turns(Path(__file__), contenders, chosen.rounds, ["--source", str(source)])
    finally:
        shutil.rmtree(folder)
    cpu = {name: row["cpu_s"] for name, row in rows.items()}
    ours, sequence = cpu["shardbox, nothing shared"], cpu["shardbox, sequence"]
    decode = cpu["decoding"] / rows["decoding"]["frames"]

    def added(name: str) -> float:
        return (cpu[f"{name} aligned"] - cpu[name]) / rows[name]["pairs"] / decode

    aligned = {name: added(f"shardbox, {name}") for name in ("sequence", MOVING) if f"shardbox, {name}" in cpu}
    ratios = {
        "shardbox_vs_floor": ours / cpu["floor"],
        "shardbox_sequence_vs_floor_once": sequence / cpu["floor once"],
        **{f"aligning_a_pair_{name}_in_decodes": value for name, value in aligned.items()},
        **{f"{name}_vs_shardbox": cpu[name] / ours for name in ("PIL", "OpenCV", "TF")},
        **{f"{name}_vs_shardbox_sequence": cpu[name] / sequence for name in ("PIL", "OpenCV", "TF")},
        "decode_ms": 1000 * decode,
    }
    report("diff", rows, ratios, chosen.json)


if __name__ == "__main__":
    main()
