"""The bridge's peers: how others bring the same photographs into padded batches, as their documentation has it.

Each is a function of the folder that `bridge_source.make` laid out, and of the edges that images are resized to; it
gives an endless stream of `Padded`, in random order. Each has two workers, with one thread of torch each, which stay
alive from epoch to epoch.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bridge_source import prepared, read_photographs
from bridge_steady import BATCH, MEAN, STD, Padded

WORKERS = 2
GRAIN_BUFFER = 4 * BATCH
Edges = tuple[int, int]


def _forever(batches: Any) -> Iterator[Padded]:
    for epoch in itertools.repeat(batches):
        for batch in epoch:
            yield Padded(*batch)


def _data_loader(dataset: Any, collate: Callable[[list[Any]], Any]) -> Iterator[Padded]:
    from torch.utils.data import DataLoader

    loader = DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=True,
        collate_fn=collate,
    )
    return _forever(loader)


# What workers call is at the top level of the module, so that processes that are spawned find it.


def pad(samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any, list[Any]]:
    """Images (3, h, w) on a common canvas, as DETR's `nested_tensor_from_tensor_list` does it, with their boxes."""
    import torch

    images = [image for image, _ in samples]
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    pixels = torch.zeros((len(images), 3, height, width), dtype=images[0].dtype)
    mask = torch.zeros((len(images), height, width), dtype=torch.bool)
    for index, image in enumerate(images):
        pixels[index, :, : image.shape[1], : image.shape[2]].copy_(image)
        mask[index, : image.shape[1], : image.shape[2]] = True
    return pixels, mask, [boxes for _, boxes in samples]


class Transform:
    """torchvision's transforms v2 for detection: resized in uint8, then, for `floats`, normalised."""

    def __init__(self, edges: Edges, floats: bool) -> None:
        import torch
        from torchvision.transforms import v2

        resize = v2.Resize(edges[0], max_size=edges[1], antialias=True)
        normalise = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        self._transform = v2.Compose([resize, *(normalise if floats else [])])

    def __call__(self, image: Any, boxes: Any) -> tuple[Any, Any]:
        """(3, h, w) and boxes (N, 4) xyxy px of a decoded image (3, H, W) uint8 and its boxes."""
        from torchvision import tv_tensors

        size = image.shape[-2:]
        known = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)
        return self._transform(tv_tensors.Image(image), known)

    def encoded(self, data: bytes, boxes: Any) -> tuple[Any, Any]:
        """The same of an encoded one."""
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
        return self(pixels, boxes)


class TorchvisionFiles:
    """A map-style dataset of JPEG files, read and decoded by torchvision."""

    def __init__(self, root: Path, edges: Edges, floats: bool) -> None:
        self._photographs = read_photographs(root)
        self._transform = Transform(edges, floats)

    def __len__(self) -> int:
        return len(self._photographs)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        from torchvision.io import ImageReadMode, decode_image

        photograph = self._photographs[index]
        return self._transform(decode_image(str(photograph.file), mode=ImageReadMode.RGB), photograph.boxes)


def torchvision(root: Path, edges: Edges, floats: bool) -> Iterator[Padded]:
    return _data_loader(TorchvisionFiles(root, edges, floats), pad)


class PilFiles:
    """A map-style dataset of PIL images with annotations as `DetrImageProcessor` wants them."""

    def __init__(self, root: Path) -> None:
        self._photographs = read_photographs(root)

    def __len__(self) -> int:
        return len(self._photographs)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        from PIL import Image

        photograph = self._photographs[index]
        image = Image.open(photograph.file).convert("RGB")
        objects = [
            {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "category_id": 0, "iscrowd": 0}
            for x0, y0, x1, y1 in photograph.boxes.tolist()
        ]
        return image, {"image_id": index, "annotations": objects}


def _processed(processor: Any, samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any, Any]:
    images, annotations = zip(*samples, strict=True)
    encoding = processor(images=list(images), annotations=list(annotations), return_tensors="pt")
    return encoding["pixel_values"], encoding["pixel_mask"], [labels["boxes"] for labels in encoding["labels"]]


def detr_processor(root: Path, edges: Edges, backend: str) -> Iterator[Padded]:
    import transformers

    kind = transformers.DetrImageProcessor if backend == "torchvision" else transformers.DetrImageProcessorPil
    processor = kind(size={"shortest_edge": edges[0], "longest_edge": edges[1]})
    return _data_loader(PilFiles(root), partial(_processed, processor))


def webdataset(root: Path, edges: Edges) -> Iterator[Padded]:
    import webdataset as wds

    transform = Transform(edges, floats=True)
    tars = sorted(str(path) for path in (root / "tars").iterdir())
    dataset = (
        wds.WebDataset(tars, resampled=True, shardshuffle=False)  # Tars are drawn at random, with replacement.
        .shuffle(100)
        .to_tuple("jpg", "json")
        .map_tuple(None, _json_boxes)
        .map(partial(_transformed, transform))
        .batched(BATCH, collation_fn=pad, partial=False)
    )
    return _forever(wds.WebLoader(dataset, batch_size=None, num_workers=WORKERS, persistent_workers=True))


def _json_boxes(data: bytes) -> Any:
    return np.array(json.loads(data)["boxes"], np.float32).reshape(-1, 4)


def _transformed(transform: Transform, sample: tuple[bytes, Any]) -> tuple[Any, Any]:
    return transform.encoded(*sample)


def litdata(root: Path, edges: Edges) -> Iterator[Padded]:
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(str(root / "litdata"), shuffle=True, drop_last=True)
    loader = StreamingDataLoader(
        dataset,
        batch_size=BATCH,
        num_workers=WORKERS,
        persistent_workers=True,
        collate_fn=partial(_litdata_batch, Transform(edges, floats=True)),
    )
    return _forever(loader)


def _litdata_batch(transform: Transform, samples: Sequence[Any]) -> tuple[Any, Any, list[Any]]:
    return pad([transform(sample["image"], sample["boxes"]) for sample in samples])


def grain(root: Path, edges: Edges) -> Iterator[Padded]:
    import grain
    import tensorflow_datasets as tfds

    # TFDS's own source for Grain decodes by OpenCV, without TensorFlow.
    source = tfds.builder_from_directory(prepared(root, "array_record")).as_data_source("train")
    dataset = (
        grain.MapDataset.source(source)
        .seed(0)
        .shuffle()
        .repeat()
        .map(partial(_grain_sample, Transform(edges, floats=True)))
        # Sixteen threads and five hundred resized images ahead, the defaults, are for storage far away.
        .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=BATCH))
        .batch(BATCH, drop_remainder=True, batch_fn=_grain_batch)
        .mp_prefetch(grain.MultiprocessingOptions(num_workers=WORKERS))
    )
    return _forever(dataset)


def _grain_sample(transform: Transform, example: Any) -> tuple[Any, Any]:
    import torch

    image = example["image"]
    y0, x0, y1, x1 = np.array(example["objects"]["bbox"], np.float32).reshape(-1, 4).T
    boxes = np.stack([x0, y0, x1, y1], axis=1) * np.tile(image.shape[1::-1], 2).astype(np.float32)
    return transform(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1), boxes)


def _grain_batch(samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any, list[Any]]:
    """Numpy arrays, which Grain sends through shared memory."""
    pixels, mask, boxes = pad(samples)
    return pixels.numpy(), mask.numpy(), [values.numpy() for values in boxes]


def tensorflow(root: Path, edges: Edges) -> Iterator[Padded]:
    from dataflow.tensorflow_runtime import load_tensorflow

    tf = load_tensorflow()
    shortest, longest = (tf.constant(edge, tf.float32) for edge in edges)

    def example_to_padded(example: Any) -> Any:
        pixels = tf.io.decode_jpeg(example["image"], channels=3)
        shape = tf.cast(tf.shape(pixels)[:2], tf.float32)
        scale = tf.minimum(shortest / tf.reduce_min(shape), longest / tf.reduce_max(shape))
        size = tf.cast(tf.round(shape * scale), tf.int32)
        resized = tf.image.resize(pixels, size, antialias=True)
        normalised = (resized / 255.0 - tf.constant(MEAN)) / tf.constant(STD)
        return normalised, tf.ones(size, tf.bool), example["objects"]["bbox"]

    examples = _tfds_examples(root, decode=False)
    options = tf.data.Options()
    options.threading.private_threadpool_size = WORKERS
    batches = (
        examples.shuffle(256)
        .repeat()
        .map(example_to_padded, num_parallel_calls=tf.data.AUTOTUNE)
        .padded_batch(BATCH, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
    )
    return _forever(batches)


def _tfds_examples(root: Path, decode: bool) -> Any:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(prepared(root, "tfrecord"))
    decoders = None if decode else {"image": tfds.decode.SkipDecoding()}
    return builder.as_dataset("train", shuffle_files=True, decoders=decoders)


def one_at_a_time(root: Path, edges: Edges) -> Iterator[Padded]:
    """TensorFlow decodes; each example goes to torch by itself, and is resized and normalised there.

    All in the process that trains, where torch computes in as many threads as there are processors unless it is told
    otherwise, as it does in no worker of a DataLoader.
    """
    from dataflow.tensorflow_runtime import load_tensorflow

    load_tensorflow()
    import torch
    from torch.nn import functional
    from torch.utils.data import DataLoader, IterableDataset
    from torchvision.transforms.v2.functional import normalize, resize

    torch.set_num_threads(WORKERS)

    class Examples(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            for example in _tfds_examples(root, decode=True).shuffle(64).repeat().prefetch(WORKERS):
                image = torch.from_numpy(example["image"].numpy()).permute(2, 0, 1).to(torch.float32) / 255
                resized = resize(image, [edges[0]], max_size=edges[1], antialias=True)
                yield normalize(resized, MEAN, STD), torch.from_numpy(example["objects"]["bbox"].numpy())

    def collate(samples: Sequence[tuple[Any, Any]]) -> Any:
        height, width = (max(image.shape[side] for image, _ in samples) for side in (1, 2))
        margins = [(0, width - image.shape[2], 0, height - image.shape[1]) for image, _ in samples]
        images = [functional.pad(image, margin) for (image, _), margin in zip(samples, margins, strict=True)]
        masks = [functional.pad(torch.ones(image.shape[1:]), m) for (image, _), m in zip(samples, margins, strict=True)]
        return torch.stack(images), torch.stack(masks).bool(), [boxes for _, boxes in samples]

    return _forever(DataLoader(Examples(), batch_size=BATCH, collate_fn=collate))
