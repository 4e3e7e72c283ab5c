"""The libraries that speak with object stores: fsspec's file systems, listings, and errors that say what to do.

`gs://` goes by gcsfs, `s3://` by Arrow, which Beam brings along. Both try again by themselves when a store is busy or a
connection breaks, and raise when that has not helped.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any

from dataflow.errors import MissingExtraError, UsageError

SCHEMES = ("gs", "s3")
# Of a request to S3 where AWS_MAX_ATTEMPTS does not say: as many as gcsfs makes, half a minute in all.
_ATTEMPTS = 6
_PAGE = 1000
"""Objects in one answer to a listing of gs://, the most that it gives."""
Entry = tuple[str, int, int]
"""An object as a listing shows it: its key from the bucket on, its size in bytes, its time of change in ns."""


@lru_cache
def file_system(scheme: str, bucket: str) -> Any:
    """fsspec's file system for a bucket, which caches no listings: workers elsewhere write there, too."""
    if scheme == "gs":
        # Its search for zonal buckets wants another library's credentials, and complains at each call without them.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        try:
            from gcsfs import GCSFileSystem
        except ImportError as error:
            raise MissingExtraError("gcsfs", "cloud") from error
        return GCSFileSystem(use_listings_cache=False)
    return _s3(bucket)


def _s3(bucket: str) -> Any:
    """S3 by Arrow. (s3fs wants one exact release of botocore, FiftyOne another.)"""
    try:
        from fsspec.implementations.arrow import ArrowFSWrapper
        from pyarrow import fs
    except ImportError as error:
        raise MissingExtraError(error.name or "pyarrow", "cloud") from error

    class _S3(ArrowFSWrapper):  # type: ignore[misc]
        cachable = False

        def cp_file(self, path1: str, path2: str, **_: Any) -> None:
            self.fs.copy_file(path1, path2)

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region and not endpoint:
        with told(f"s3://{bucket}"):
            region = fs.resolve_s3_region(bucket)
    retries = fs.AwsStandardS3RetryStrategy(max_attempts=int(os.environ.get("AWS_MAX_ATTEMPTS", _ATTEMPTS)))
    return _S3(fs.S3FileSystem(region=region, endpoint_override=endpoint, connect_timeout=10, retry_strategy=retries))


def list_objects(scheme: str, bucket: str, folder: str) -> Iterator[Entry]:
    """All objects below a folder of a bucket ("" for the whole), by as few requests as their number allows.

    The empty objects by which some tools mark folders are left out.
    """
    store = file_system(scheme, bucket)
    found = _list_gs(store, bucket, folder) if scheme == "gs" else _list_s3(store, bucket, folder)
    return (entry for entry in found if not entry[0].endswith("/"))


def _list_gs(store: Any, bucket: str, folder: str) -> Iterator[Entry]:
    """Page by page, and of each object three fields only: gcsfs' own would hold some thirty of each, of all at once."""
    prefix = f"{folder}/" if folder else ""
    wanted = {"prefix": prefix, "maxResults": _PAGE, "fields": "nextPageToken,items(name,size,updated)"}
    token: dict[str, str] = {}
    while True:
        page = store.call("GET", "b/{}/o", bucket, json_out=True, **wanted, **token)
        for item in page.get("items", ()):
            yield f"{bucket}/{item['name']}", int(item.get("size", 0)), nanoseconds(_time(item.get("updated")))
        if not page.get("nextPageToken"):
            return
        token = {"pageToken": page["nextPageToken"]}


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _list_s3(store: Any, bucket: str, folder: str) -> Iterator[Entry]:
    from pyarrow.fs import FileSelector, FileType

    place = f"{bucket}/{folder}" if folder else bucket
    for info in store.fs.get_file_info(FileSelector(place, allow_not_found=True, recursive=True)):
        if info.type == FileType.File:
            yield info.path, int(info.size), nanoseconds(info.mtime)


def nanoseconds(time: datetime | None) -> int:
    """A time of change in nanoseconds since 1970, as fine as stores tell it; 0 for none."""
    return round(time.timestamp() * 1e6) * 1000 if time is not None else 0


_HINTS = {
    "bucket": ("NO_SUCH_BUCKET", "NoSuchBucket", "bucket does not exist", "Bucket not found", "PermanentRedirect"),
    "credentials": (
        "ACCESS_DENIED",
        "Anonymous",
        "credentials",
        "Forbidden",
        "INVALID_ACCESS_KEY_ID",
        "SIGNATURE_DOES_NOT_MATCH",
        "invalid_grant",
        "401",
        "403",
    ),
    "network": ("NETWORK_CONNECTION", "Could not connect", "Cannot connect", "Could not resolve"),
}
_REMEDIES = {
    "bucket": "create the bucket first, or mend its name",
    "credentials": "log in: `gcloud auth application-default login` or GOOGLE_APPLICATION_CREDENTIALS for gs://, "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) for s3://; and ask for the right to read and write",
    "network": "check the network, and AWS_ENDPOINT_URL or STORAGE_EMULATOR_HOST where they are set",
}


@contextmanager
def told(place: str) -> Iterator[None]:
    """What libraries raise about a place, as errors that say what to do."""
    try:
        yield
    except FileNotFoundError as error:
        # The words of a disk, so that findings are the same.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place) from error
    except (UsageError, MissingExtraError, NotADirectoryError):
        raise
    except Exception as error:  # Each library has exceptions of its own.
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        kind = next((kind for kind, signs in _HINTS.items() if any(sign in reason for sign in signs)), None)
        remedy = _REMEDIES.get(kind or "", "try again, or see what the object store says of it")
        raise UsageError(f"{place}: {reason}", remedy) from error
