"""`gs://` and `s3://` in the manner of `pathlib`: places that are asked for, and ones whose folder was listed."""

import errno
import io
import os
import re
import stat
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Any, ClassVar, NamedTuple, cast

from dataflow.errors import UsageError
from dataflow.stores.object_stores import SCHEMES, file_system, list_objects, nanoseconds, told

# The most bytes that the name of an object may have, in both stores, and that of its bucket and a slash.
_LONGEST_NAME = 1024 + 64
_NO_NAME = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
# Steps of a name that no path keeps: empty ones, "." and "..".
_LOST_STEP = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")


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
        text = super().__str__()
        scheme, colon, _ = text.partition(":/")
        return text.replace(":/", "://", 1) if colon and scheme in SCHEMES else text

    def __fspath__(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"CloudPath({str(self)!r})"

    def __reduce__(self) -> Any:
        return CloudPath, (str(self),)

    @property
    def _key(self) -> str:
        """From the bucket on, without "..", which nothing leaves the bucket by."""
        key = "/".join(self.parts[1:])
        if ".." in self.parts:
            key = "/".join(self.resolve().parts[1:])
        is_place = len(self.parts) > 1 and self.parts[0].rstrip(":") in SCHEMES
        if not is_place or _NO_NAME.search(key) or len(key.encode()) > _LONGEST_NAME:
            raise _not_there(self)  # No object can be called so.
        return key

    @property
    def _store(self) -> Any:
        if len(self.parts) < 2 or self.parts[0].rstrip(":") not in SCHEMES:
            raise UsageError(f"{self} names no bucket", "write gs://BUCKET/FOLDER or s3://BUCKET/FOLDER")
        return file_system(self.parts[0].rstrip(":"), self.parts[1])

    def _info(self) -> dict[str, Any]:
        with told(str(self)):
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
        with told(str(self)):
            found = [entry["name"] for entry in self._store.ls(self._key, detail=True)]
        names = (key.strip("/").rpartition("/")[2] for key in sorted(found) if self._is_below(key))
        yield from (self / name for name in names)

    def _is_below(self, key: str) -> bool:
        return key.strip("/") != self._key

    def files(self) -> dict[str, Any]:
        """Every object below, by its path relative to this one: its status, as `stat` gives it."""
        found = _listing(self)
        return {name: found.status(place) for place, name in found.below(self._key)}

    def glob(self, pattern: str) -> Iterator["CloudPath"]:
        """What lies below and matches, step by step; `**` is any number of folders."""
        first, _, rest = pattern.partition("/")
        try:
            if first == "**":
                for folder, _, _ in self.walk():
                    yield from folder.glob(rest)
                return
            matches = [path for path in self.iterdir() if fnmatchcase(path.name, first)]
        except (FileNotFoundError, NotADirectoryError):
            return
        for path in matches:
            yield from path.glob(rest) if rest else (path,)

    def rglob(self, pattern: str) -> Iterator["CloudPath"]:
        """Every object below whose own name matches, in sorted order."""
        yield from listed_folder(self).rglob(pattern)

    def walk(self) -> Iterator[tuple["CloudPath", list[str], list[str]]]:
        """Each folder from this one on, the names of folders in it and those of objects, as `os.walk` does."""
        yield from listed_folder(self).walk()

    def open(self, mode: str = "r", **text: Any) -> IO[Any]:
        """Open to read: as bytes piece by piece, as text at once."""
        if mode == "rb":
            with told(str(self)):
                return cast(IO[Any], self._store.open(self._key, "rb"))
        if mode == "r":
            return io.TextIOWrapper(io.BytesIO(self.read_bytes()), **{"encoding": "utf-8"} | text)
        raise ValueError(f"{self}: objects are written whole; mode {mode!r}")

    def read_bytes(self) -> bytes:
        """The whole object."""
        with told(str(self)):
            return bytes(self._store.cat_file(self._key))

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The whole object as text."""
        return self.read_bytes().decode(encoding, errors)

    def write_bytes(self, data: bytes) -> int:
        """Put an object here, whole or not at all."""
        with told(str(self)):
            self._store.pipe_file(self._key, data)
        return len(data)

    def write_text(self, text: str, encoding: str = "utf-8", errors: str = "strict") -> int:
        """Put an object here, whole or not at all."""
        return self.write_bytes(text.encode(encoding, errors))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        try:
            self._info()
            with told(str(self)):
                self._store.rm_file(self._key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there once something is in it."""

    def resolve(self) -> "CloudPath":
        """Itself, without "..": stores have no links and no place where one is."""
        if ".." not in self.parts:
            return self
        below = os.path.normpath("/" + "/".join(self.parts[2:]))
        return type(self)(*self.parts[:2], *below.strip("/").split("/"))

    def absolute(self) -> "CloudPath":
        """Itself: stores have no place where one is."""
        return self

    def is_symlink(self) -> bool:
        """No: stores have no links."""
        return False

    def upload(self, file: Path) -> None:
        """Put a file of this machine here, whole or not at all."""
        with told(str(self)):
            self._store.put_file(str(file), self._key)

    def download(self, file: Path) -> None:
        """Get this object as a file of this machine, whole or not at all."""
        with partial_beside(file) as partial, told(str(self)):
            self._store.get_file(self._key, str(partial))

    def copy(self, target: "CloudPath") -> None:
        """Copy an object inside the store, without its bytes coming here."""
        with told(str(self)):
            self._store.cp_file(self._key, target._key)


def _not_there(path: CloudPath) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


class _Status(NamedTuple):
    """As much of `os.stat_result` as stores know."""

    st_size: int
    st_mtime_ns: int
    st_mode: int = stat.S_IFREG


_FOLDER = _Status(0, 0, stat.S_IFDIR)


def _status(info: dict[str, Any]) -> _Status:
    if info["type"] == "directory":
        return _FOLDER
    time: Any = info.get("mtime")
    return _Status(int(info.get("size") or 0), nanoseconds(time if hasattr(time, "timestamp") else None))


@contextmanager
def partial_beside(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` that becomes `path` when the block ends well."""
    partial = path.with_name(f".{path.name}.{os.urandom(16).hex()}")
    yield partial
    partial.replace(path)


@dataclass(frozen=True, eq=False)
class _Listing:
    """All objects below a folder, at some 120 bytes each: sorted keys (from the bucket on), sizes, times of change."""

    keys: list[str]
    sizes: "array[int]"
    times: "array[int]"

    def place(self, key: str) -> int | None:
        """Where an object is among all, or None."""
        place = bisect_left(self.keys, key)
        return place if place < len(self.keys) and self.keys[place] == key else None

    def range_of(self, folder: str) -> tuple[int, int]:
        """Where those below a folder begin and end. "0" comes next after "/"."""
        start = bisect_left(self.keys, f"{folder}/")
        return start, bisect_left(self.keys, f"{folder}0", start)

    def below(self, folder: str) -> Iterator[tuple[int, str]]:
        """Every object below a folder: its place, and its name relative to the folder."""
        for place in range(*self.range_of(folder)):
            yield place, self.keys[place][len(folder) + 1 :]

    def children(self, folder: str) -> Iterator[tuple[str, bool]]:
        """What lies directly below a folder, and whether that is a folder."""
        at, stop = self.range_of(folder)
        while at < stop:
            name, slash, _ = self.keys[at][len(folder) + 1 :].partition("/")
            yield name, bool(slash)
            at = self.range_of(f"{folder}/{name}")[1] if slash else at + 1

    def status(self, place: int) -> _Status:
        """As `Path.stat` gives it."""
        return _Status(self.sizes[place], self.times[place])


def _listing(folder: CloudPath) -> _Listing:
    """Ask the store for all below a folder."""
    keys, sizes, times = list[str](), array("q"), array("q")
    _, bucket, *steps = folder.resolve().parts
    with told(str(folder)):
        for key, size, time in list_objects(folder.parts[0].rstrip(":"), bucket, "/".join(steps)):
            keys.append(key)
            sizes.append(size)
            times.append(time)
    order = sorted(range(len(keys)), key=keys.__getitem__)
    sizes, times = (array("q", map(column.__getitem__, order)) for column in (sizes, times))
    keys.sort()
    return _Listing(keys, sizes, times)


class _ListedPath(CloudPath):
    """A place as one listing showed it: what is there, how large and how old costs no request, only contents do.

    What lies outside the folder that was listed is not there. On its way to another process it becomes a `CloudPath`.
    """

    __slots__ = ()
    listing: ClassVar[_Listing]

    def _info(self) -> dict[str, Any]:
        listing, key = self.listing, self._key
        if (place := listing.place(key)) is not None:
            return {"type": "file", "status": listing.status(place)}
        start, stop = listing.range_of(key)
        if start == stop:
            raise _not_there(self)
        return {"type": "directory", "status": _FOLDER}

    def stat(self) -> Any:
        """`st_size` (bytes) and `st_mtime_ns`."""
        return self._info()["status"]

    def iterdir(self) -> Iterator[CloudPath]:
        """What lies directly below, in sorted order."""
        yield from (self / name for name, _ in self.listing.children(self._key))

    def files(self) -> dict[str, Any]:
        """Every object below, by its path relative to this one: its status, as `stat` gives it."""
        return {name: self.listing.status(place) for place, name in self.listing.below(self._key)}

    def rglob(self, pattern: str) -> Iterator[CloudPath]:
        """Every object below whose own name matches, in sorted order."""
        for _, name in self.listing.below(self._key):
            if fnmatchcase(name.rpartition("/")[2], pattern):
                yield self / name

    def walk(self) -> Iterator[tuple[CloudPath, list[str], list[str]]]:
        """Each folder from this one on, the names of folders in it and those of objects, as `os.walk` does."""
        found = list(self.listing.children(self._key))
        folders = [name for name, is_folder in found if is_folder]
        if found:
            yield self, folders, [name for name, is_folder in found if not is_folder]
        for name in folders:  # Less those that the caller has taken out.
            yield from (self / name).walk()


def listed_folder(folder: CloudPath) -> _ListedPath:
    """A folder with all that is below it, by one listing; see `listed`."""
    if isinstance(folder, _ListedPath):
        return folder
    listing = _listing(folder)
    lost = next((key for key in listing.keys if _LOST_STEP.search(key)), None)
    if lost is not None:
        raise UsageError(f"{folder.parts[0]}//{lost}: no path has this name", "rename the object")
    # Places that are made of this one know the same listing.
    cls = type("_ListedPath", (_ListedPath,), {"__slots__": (), "listing": listing})
    return cast(_ListedPath, cls(str(folder)))


def listed(path: Path) -> Path:
    """A source: a path of this machine as it is, one in a store with its whole folder listed, by a request a thousand.

    Of a file that is the folder it is in, or where that is called `annotations` the one above.

    Raises:
        UsageError: the store cannot be used, or an object has a name that no path can have.
    """
    if not isinstance(path, CloudPath) or isinstance(path, _ListedPath):
        return path
    if not path.is_file():
        return cast(Path, listed_folder(path))
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    return cast(Path, listed_folder(root) / path.relative_to(root))
