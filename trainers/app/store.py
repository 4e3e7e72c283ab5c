"""The FiftyOne store: a prepared dataset and any number of runs' predictions, to look at in FiftyOne's App.

One FiftyOne dataset per prepared dataset. Each image (or, where there are before/after pairs, each frame of a group)
is a sample with its truth in `ground_truth`; each run has its detections in a field of its own, and what became of
every box, as Shardbox matched them, in attributes named as FiftyOne's own evaluation names them: `KEY` ("tp", "fp",
"fn", or "ignored" for a crowd region and what matched it), `KEY_iou`, `KEY_id`, and per sample `KEY_tp`, `KEY_fp`,
`KEY_fn`. Every evaluation is registered, so that `dataset.to_evaluation_patches(KEY)` and the App know it.
Beyond these there are, at the score of the best F1, `KEY_error` and `KEY_cause` of a box, and `KEY_cost`, the AP50 that
an image costs. What the audit found is in `findings`; images that it kept out are samples with the tag `quarantined`.

Only modules of `trainers.app` import FiftyOne.
"""

import contextlib
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dataflow.errors import ShardboxError, UsageError
from dataflow.prepared import PreparedDataset
from trainers.app.database import connect, default_name, open_or_make, samples_of
from trainers.app.findings import add_quarantined, read_findings
from trainers.app.runs import add_run
from trainers.app.server import check_port, ended_soon
from trainers.app.sidebar import arrange
from trainers.app.truth import add_split
from trainers.app.views import CONFIDENT, save_views
from trainers.evaluation.evaluation import evaluate
from trainers.media import safe_name
from trainers.prediction.predictions import PredictionSet

import fiftyone as fo  # isort: skip  # After `database`, which keeps it from reporting that it is imported.
from fiftyone.core.service import ServiceListenTimeout  # isort: skip


@dataclass(frozen=True)
class StoreSummary:
    """What `store` left in FiftyOne."""

    name: str
    images: int
    """Images (or pairs) of the split."""
    samples: int
    """FiftyOne samples of the split: one per image, or one per frame of each pair."""
    added: int
    """How many images were not there before."""
    fields: Mapping[str, str]
    """The field of each run's detections, by run id; its evaluation key is `evaluation_key` of the field."""
    media: Path


def store(
    dataset: PreparedDataset,
    predictions: Collection[PredictionSet],
    *,
    split: str,
    name: str | None = None,
    media_dir: Path | None = None,
    overwrite: bool = False,
    labels: Sequence[str] | None = None,
) -> StoreSummary:
    """Put a split and what runs predicted for it into a persistent FiftyOne dataset, making or extending it.

    Storing the same again changes nothing but what Shardbox wrote itself: tags and edits made in the App stay. A
    store that was interrupted is finished by the next.

    Args:
        dataset: the prepared dataset.
        predictions: of any number of runs.
        split: the split; several may be stored one after another.
        name: of the FiftyOne dataset; by default that of `dataset` with the beginning of its fingerprint.
        media_dir: where image files go, in a directory named after the fingerprint; by default FiftyOne's
            `default_dataset_dir`.
        overwrite: delete what Shardbox stored under this name before.
        labels: what runs that are new here are called in the App; by default their ids.

    Raises:
        UsageError: the name holds something else, two runs have the same id, or predictions do not belong here.
        DataRefusedError: predictions lack images of the split, or have others.
        ShardboxError: there is no MongoDB, or the installed FiftyOne stores samples in a way that is not known.
    """
    dataset.check_split(split)
    run_ids = [p.run_id for p in predictions]
    if len(set(run_ids)) < len(run_ids):
        raise UsageError(f"two sets of predictions are of one run: {', '.join(run_ids)}", "give each run once")
    evaluations = [evaluate(dataset, p, split) for p in predictions]
    connect()
    stored = open_or_make(dataset, name or default_name(dataset), overwrite)
    media = (media_dir or Path(fo.config.default_dataset_dir) / "shardbox") / safe_name(dataset.fingerprint, 64)
    findings = read_findings(dataset)
    added = add_split(stored, dataset, split, findings, media)
    apart = add_quarantined(stored, dataset, findings, media)
    fields = {}
    for found, evaluation, label in zip(predictions, evaluations, labels or run_ids, strict=True):
        fields[found.run_id] = add_run(stored, dataset, found, evaluation, label)
    if added or apart or fields:
        save_views(stored)
        arrange(stored)
    samples = len(samples_of(stored, split))
    return StoreSummary(str(stored.name), dataset.splits[split], samples, added, fields, media)


def launch(name: str, *, address: str = "127.0.0.1", port: int = 5151, wait: bool = True) -> Any:
    """Open the App on a stored dataset, print its address, and stay until Ctrl-C (or, without `wait`, return).

    Args:
        name: of the FiftyOne dataset.
        address: to bind to; anything but a loopback address shows the images to the network.
        port: of the App.
        wait: stay until Ctrl-C; otherwise the caller keeps the returned session.

    Raises:
        UsageError: there is no such dataset, or the port is taken.
        ShardboxError: there is no MongoDB, or the server of the App takes too long to start.
    """
    connect()
    if not fo.dataset_exists(name):
        raise UsageError(f"there is no FiftyOne dataset {name!r}", "store it first with `shardbox browse`")
    check_port(address, port)
    with contextlib.redirect_stdout(io.StringIO()):  # While its server starts, FiftyOne says that there is none.
        try:
            session = fo.launch_app(fo.load_dataset(name), address=address, port=port, remote=True)
        except ServiceListenTimeout as error:
            what = f"FiftyOne's server did not listen on {address}:{port} in time"
            raise ShardboxError(what, "open the App again when this machine has less to do") from error
    view = f"?view={CONFIDENT}" if session.dataset.has_saved_view(CONFIDENT) else ""
    url = f"http://{address}:{port}/datasets/{quote(name, safe='')}{view}"
    print(f"The App shows {name} at {url} (Ctrl-C ends it)", flush=True)
    if wait:
        with contextlib.suppress(KeyboardInterrupt):
            session.wait(-1)
        with ended_soon():
            session.close()
    return session
