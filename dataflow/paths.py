"""Places: paths of this machine, and `gs://` and `s3://` in the manner of `pathlib`.

`location` makes either of what a user wrote. A path of this machine is a plain `pathlib.Path` and costs nothing more
than one. An object store has no directories and no renames, but an object appears whole or not at all; so what is
written there is made ready here and put there by one request.
"""

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePath, PurePosixPath
from types import SimpleNamespace
from typing import IO, Any, cast

from dataflow.errors import MissingExtraError, UsageError

SCHEMES = ("gs", "s3")
REQUESTS = 16
"""Requests to an object store that are on their way at the same time."""


def location(text: str | os.PathLike[str]) -> Path:
    """The place that a user named: a `Path`, or for `gs://` and `s3://` a `CloudPath`, which is used like one."""
    if isinstance(text, PurePath):
        return cast(Path, text)
    if str(text).partition("://")[0] in SCHEMES and "://" in str(text):
        return cast(Path, CloudPath(str(text)))
    return Path(text)


def is_cloud(path: PurePath) -> bool:
    """Whether a place is in an object store."""
    return isinstance(path, CloudPath)


class CloudPath(PurePosixPath):
    """A place in an object store, with as much of `pathlib.Path` as we use.

    A folder is there as long as something is in it. Methods raise FileNotFoundError where there is no such object, and
    UsageError where the store cannot be used: no package, no credentials, no such bucket.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def __fspath__(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"CloudPath({str(self)!r})"

    def __reduce__(self) -> Any:
        return CloudPath, (str(self),)

    @property
    def _key(self) -> str:
        return "/".join(self.parts[1:])

    @property
    def _store(self) -> Any:
        if len(self.parts) < 2:
            raise UsageError(f"{self} names no bucket", "write gs://BUCKET/FOLDER or s3://BUCKET/FOLDER")
        return _file_system(self.parts[0].rstrip(":"), self.parts[1])

    def _info(self) -> dict[str, Any]:
        with _told(self):
            return self._store.info(self._key)  # type: ignore[no-any-return]

    def exists(self) -> bool:
        """Whether an object has this name, or there is something below it."""
        try:
            return bool(self._info())
        except FileNotFoundError:
            return False

    def is_file(self) -> bool:
        """Whether an object has this name."""
        try:
            return bool(self._info()["type"] == "file")
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Whether there is something below it."""
        try:
            return bool(self._info()["type"] == "directory")
        except FileNotFoundError:
            return False

    def stat(self) -> Any:
        """`st_size` (bytes) and `st_mtime_ns`, as far as the store knows it."""
        return _status(self._info())

    def iterdir(self) -> Iterator["CloudPath"]:
        """What lies directly below, in sorted order."""
        with _told(self):
            found = [entry["name"] for entry in self._store.ls(self._key, detail=True)]
        names = (key.strip("/").rpartition("/")[2] for key in sorted(found) if self._is_below(key))
        yield from (self / name for name in names)

    def _is_below(self, key: str) -> bool:
        return key.strip("/") != self._key

    def files(self) -> dict[str, Any]:
        """Every object below, by its path relative to this one: its status, as `stat` gives it."""
        with _told(self):
            found = self._store.find(self._key, detail=True)
        start = len(self._key) + 1
        return {
            key.strip("/")[start:]: _status(info)
            for key, info in sorted(found.items())
            if info["type"] == "file" and self._is_below(key) and not key.endswith("/")
        }

    def glob(self, pattern: str) -> Iterator["CloudPath"]:
        """What lies below and matches, step by step (no `**`)."""
        first, _, rest = pattern.partition("/")
        try:
            matches = [path for path in self.iterdir() if fnmatchcase(path.name, first)]
        except (FileNotFoundError, NotADirectoryError):
            return
        for path in matches:
            yield from path.glob(rest) if rest else (path,)

    def open(self, mode: str = "r", **text: Any) -> IO[Any]:
        """Open to read: as bytes piece by piece, as text at once."""
        if mode == "rb":
            with _told(self):
                return cast(IO[Any], self._store.open(self._key, "rb"))
        if mode == "r":
            return io.TextIOWrapper(io.BytesIO(self.read_bytes()), **{"encoding": "utf-8"} | text)
        raise ValueError(f"{self}: objects are written whole; mode {mode!r}")

    def read_bytes(self) -> bytes:
        """The whole object."""
        with _told(self):
            return bytes(self._store.cat_file(self._key))

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The whole object as text."""
        return self.read_bytes().decode(encoding, errors)

    def write_bytes(self, data: bytes) -> int:
        """Put an object here, whole or not at all."""
        with _told(self):
            self._store.pipe_file(self._key, data)
        return len(data)

    def write_text(self, text: str, encoding: str = "utf-8", errors: str = "strict") -> int:
        """Put an object here, whole or not at all."""
        return self.write_bytes(text.encode(encoding, errors))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        try:
            self._info()
            with _told(self):
                self._store.rm_file(self._key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there once something is in it."""

    def resolve(self) -> "CloudPath":
        """Itself: stores have no links and no place where one is."""
        return self

    def upload(self, file: Path) -> None:
        """Put a file of this machine here, whole or not at all."""
        with _told(self):
            self._store.put_file(str(file), self._key)

    def download(self, file: Path) -> None:
        """Get this object as a file of this machine, whole or not at all."""
        with _partial_beside(file) as partial, _told(self):
            self._store.get_file(self._key, str(partial))

    def copy(self, target: "CloudPath") -> None:
        """Copy an object inside the store, without its bytes coming here."""
        with _told(self):
            self._store.cp_file(self._key, target._key)


def _status(info: dict[str, Any]) -> Any:
    time: Any = info.get("mtime")
    seconds = time.timestamp() if hasattr(time, "timestamp") else 0.0
    return SimpleNamespace(st_size=int(info.get("size") or 0), st_mtime_ns=round(seconds * 1e6) * 1000)


@lru_cache
def _file_system(scheme: str, bucket: str) -> Any:
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
    """S3 by Arrow, which Beam brings along. (s3fs wants one exact release of botocore, FiftyOne another.)"""
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
        with _told(CloudPath(f"s3://{bucket}")):
            region = fs.resolve_s3_region(bucket)
    return _S3(fs.S3FileSystem(region=region, endpoint_override=endpoint, connect_timeout=10))


_HINTS = {
    "bucket": ("NO_SUCH_BUCKET", "NoSuchBucket", "bucket does not exist", "Bucket not found", "PermanentRedirect"),
    "credentials": (
        "ACCESS_DENIED",
        "Anonymous",
        "credentials",
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
def _told(path: CloudPath) -> Iterator[None]:
    """What libraries raise, as errors that say what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(2, "no such object", str(path)) from error
    except (UsageError, MissingExtraError, NotADirectoryError):
        raise
    except Exception as error:  # Each library has exceptions of its own.
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        kind = next((kind for kind, signs in _HINTS.items() if any(sign in reason for sign in signs)), None)
        remedy = _REMEDIES.get(kind or "", "try again, or see what the object store says of it")
        raise UsageError(f"{path}: {reason}", remedy) from error


@contextmanager
def _partial_beside(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` that becomes `path` when the block ends well."""
    partial = path.with_name(f".{path.name}.{os.urandom(16).hex()}")
    yield partial
    partial.replace(path)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file of this machine to write, which takes the name (or place) `path` when the block ends well."""
    if not is_cloud(path):
        with _partial_beside(path) as partial:
            yield partial
        return
    with tempfile.TemporaryDirectory(prefix="shardbox-") as folder:
        local = Path(folder, path.name)
        yield local
        cast(CloudPath, path).upload(local)


@contextmanager
def local_file(path: Path) -> Iterator[Path]:
    """The file at `path` as one of this machine: itself, or a copy for as long as the block lasts."""
    if not is_cloud(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="shardbox-") as folder:
        local = Path(folder, path.name)
        cast(CloudPath, path).download(local)
        yield local


def objects_below(folder: Path) -> dict[str, Any]:
    """Every object below a folder of a store, by its path relative to it: its status, as `Path.stat` gives it."""
    try:
        return cast(CloudPath, folder).files()
    except FileNotFoundError:
        return {}


def copy_object(source: Path, target: Path) -> None:
    """Copy an object inside its store, without its bytes coming here."""
    cast(CloudPath, source).copy(cast(CloudPath, target))


def upload_files(folder: Path, target: Path, last: str = "") -> None:
    """Put what is in a folder of this machine below `target` in an object store, the file named `last` last."""
    names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
    with ThreadPoolExecutor(REQUESTS) as pool:
        list(
            pool.map(lambda name: cast(CloudPath, target / name).upload(folder / name), [n for n in names if n != last])
        )
    if last:
        cast(CloudPath, target / last).upload(folder / last)


def remove_tree(path: Path, last: str = "") -> None:
    """Remove a directory and all below it; the entry named `last` goes when all else has gone."""
    if not is_cloud(path) and not last:
        shutil.rmtree(path)
        return
    if not is_cloud(path):
        for entry in path.iterdir():
            if entry.name == last:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        (path / last).unlink(missing_ok=True)
        path.rmdir()
        return
    names = [name for name in objects_below(path) if name != last]
    with ThreadPoolExecutor(REQUESTS) as pool:
        list(pool.map(lambda name: (path / name).unlink(missing_ok=True), names))
    if last:
        (path / last).unlink(missing_ok=True)


def cache_directory() -> Path:
    """Where copies of objects are kept: `shardbox` below $XDG_CACHE_HOME, or ~/.cache; nothing there is deleted."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shardbox"


def cached_files(paths: Sequence[Path]) -> list[Path]:
    """These files as ones of this machine; objects are copied into the cache, each version of one once."""
    if not any(is_cloud(path) for path in paths):
        return list(paths)
    with ThreadPoolExecutor(REQUESTS) as pool:
        return list(pool.map(_cached, paths))


def _cached(path: Path) -> Path:
    if not is_cloud(path):
        return path
    status = path.stat()
    version = hashlib.sha256(f"{path}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()[:32]
    local = cache_directory() / version / path.name
    if not local.exists():
        local.parent.mkdir(parents=True, exist_ok=True)
        cast(CloudPath, path).download(local)
    return local


@contextmanager
def local_directory(path: Path) -> Iterator[Path]:
    """The directory at `path` as one of this machine: itself, or a copy of it for as long as the block lasts."""
    if not is_cloud(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="shardbox-") as folder:
        local = Path(folder, path.name)
        names = objects_below(path)
        if not names:
            raise UsageError(f"{path}: there is nothing", "check the path")
        for name in names:
            (local / name).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(REQUESTS) as pool:
            list(pool.map(lambda name: cast(CloudPath, path / name).download(local / name), names))
        yield local
