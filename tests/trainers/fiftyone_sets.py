"""Datasets and predictions to store in FiftyOne."""

import numpy as np

from trainers.prediction.predictions import collect_predictions

# Powers of two: FiftyOne's relative boxes are then exact, and so are overlaps on a threshold.
SIZE = (64, 128)


def make(samples, seed=0, images=5, *, crowd=0.0, kind="images", splits=("validation",), **pair_fields):
    """A prepared dataset of random objects."""
    rng = np.random.default_rng(seed)
    by_split = {}
    for split in splits:
        made = []
        for i in range(images):
            objects = samples.objects(rng, int(rng.integers(0, 6)), SIZE, crowd=crowd)
            make_one = samples.record if kind == "images" else samples.pair
            fields = {} if kind == "images" else pair_fields
            made.append(make_one(f"{split}/{i}", objects, SIZE, **fields))
        by_split[split] = made
    return samples.dataset(by_split, kind=kind, name=f"tiny{seed}")


def run_of(samples, dataset, seed, run_id="My run-1", split="validation"):
    """Adversarial detections for every image of a split."""
    rng = np.random.default_rng(seed)
    made = [samples.detections(rng, record, run_id, n=6) for record in dataset.records(split)]
    return collect_predictions(made, run_id=run_id, dataset=dataset, split=split)


def labels_of(stored, field):
    """All labels of a field by id."""
    return {label.id: label for sample in stored for label in sample[field].detections}
