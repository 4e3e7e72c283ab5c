"""Where the images of a YOLO source are: what data.yaml says, folders of images, and lists of image paths.

A `data.yaml` names, for each split, folders (`train: images/train`, Roboflow's `../train/images`), lists
(`train: train.txt`, a path a line) or several of both. Paths of another machine are followed by their end, where that
exists below the source: that is a guess, and a finding.
"""

import codecs
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from dataflow.errors import UsageError
from dataflow.findings import Code, Finding
from dataflow.records import RecordError
from dataflow.stores.cloud_paths import is_cloud
from dataflow.stores.paths import location
from tfds_builders.sources.classes import Classes, named_classes, numbered_classes
from tfds_builders.sources.photo import inside_root

DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml")
SPLIT_KEYS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
# Keys of data.yaml that name no split. Any other one that leads to images does.
OTHER_KEYS = frozenset({"path", "names", "nc", "download", "kpt_shape", "flip_idx", "kpt_names", "channels", "colors"})


@dataclass(frozen=True)
class Place:
    """A folder of images or a list of image paths, as a posix path relative to the source's root.

    `split` is None where several splits name it: its images are split by scene then.
    """

    path: str
    split: str | None
    is_list: bool = False
    key: str = ""
    """The key of data.yaml that names it."""


@dataclass(frozen=True)
class Layout:
    """What data.yaml says: `base` is the folder that its relative paths start from."""

    root: Path
    base: Path
    classes: Classes
    places: tuple[Place, ...]
    findings: tuple[Finding, ...]


def read_description(path: Path, names: Sequence[str], may_leave: bool) -> Layout:
    """The layout that a data.yaml describes; its `path` may lead out of its own folder when `may_leave`.

    Raises:
        UsageError: it is no such file, names no classes, or leads to no images.
    """
    described = _read_yaml(path)
    classes = named_classes(names) if names else _classes(described, path)
    base = path.parent
    if described.get("path") and _is_folder(base / str(described["path"])):
        base = base / str(described["path"])
    outside = not inside_root(path.parent, base)
    if outside and not may_leave:
        raise UsageError(
            f"{path}: `path: {described['path']}` leads out of {path.parent}", f"give {path.name} itself as the source"
        )
    root = base if outside else path.parent
    entries = [(key, entry, _find_place(root, base, key, entry)) for key, entry in _entries(described)]
    findings: list[Finding] = []
    for number, (key, entry, place) in enumerate(entries):
        if place is None and key in SPLIT_KEYS:
            taken = {other.path for _, _, other in entries if other}
            guess = _guess_place(root, key, entry, taken)
            entries[number] = (key, entry, guess)
            findings.append(_not_there(path.name, key, entry, guess, root))
    places = [place for _, _, place in entries if place is not None]
    if not places:
        raise UsageError(f"{path} leads to no folder of images", "write `train: images/train` relative to the file")
    once, twice = _distinct(places, path.name)
    return Layout(root, base, classes, once, (*findings, *twice))


def classes_of_lines(path: Path) -> Classes:
    """The classes of a classes.txt, a name a line; lines without a name are passed over.

    Raises:
        UsageError: it names none, or is no text.
    """
    lines = [(number, line.strip()) for number, line in enumerate(_read_text(path).splitlines(), 1) if line.strip()]
    return _numbered([name for _, name in lines], path, [number for number, _ in lines])


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start}", "save the file as UTF-8") from error


def _read_yaml(path: Path) -> Mapping[str, Any]:
    text = _read_text(path)
    try:
        described = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-99-99.
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UsageError(f"{place}: not YAML ({getattr(error, 'problem', error)})", "mend the file") from error
    if not isinstance(described, Mapping):
        raise UsageError(f"{path} holds no keys", "write train, val and names into it")
    if "kpt_shape" in described:
        # A line of five numbers and points would be taken for a polygon.
        raise UsageError(f"{path}: kpt_shape says that the labels hold keypoints", "export boxes or segments instead")
    return described


def _classes(described: Mapping[str, Any], path: Path) -> Classes:
    names = described.get("names")
    count = described.get("nc")
    if isinstance(names, Mapping):
        by_id = {int(key): name for key, name in names.items() if str(key).isdecimal()}
        missing = sorted(set(range(len(names))) - by_id.keys())
        if missing:
            raise UsageError(f"{path}: class {missing[0]} has no name", "give every class from 0 on a name")
        names = [by_id[key] for key in sorted(by_id)]
    if not isinstance(names, list) or not names:
        raise UsageError(f"{path} names no classes", "add `names:`, or pass --names a,b,c")
    for index, name in enumerate(names):
        if not isinstance(name, str | int | float) or isinstance(name, bool):
            # YAML takes an unquoted `no`, `on` or `~` for False, True and nothing.
            raise UsageError(f"{path}: the name of class {index} reads as {name!r}", "write it in quotes")
    if isinstance(count, int) and count != len(names):
        raise UsageError(f"{path}: nc is {count} but there are {len(names)} names", "make them agree")
    return _numbered([str(name).strip() for name in names], path, [f"/names/{i}" for i in range(len(names))])


def _numbered(names: Sequence[str], path: Path, lines: Sequence[int | str]) -> Classes:
    """Classes numbered from 0; `lines` say where each name stands."""
    try:
        classes = numbered_classes(list(enumerate(names)), path.name)
    except RecordError as error:
        raise UsageError(f"{path}: {error.message}", error.remedy) from error
    placed = [
        replace(finding, line=lines[number]) for number, finding in zip(classes.twice, classes.findings, strict=True)
    ]
    return replace(classes, findings=tuple(placed))


def _entries(described: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, path) of every path that data.yaml may mean as images: splits in their usual order, others after them."""
    others = [key for key in described if isinstance(key, str) and key not in SPLIT_KEYS and key not in OTHER_KEYS]
    for key in (*SPLIT_KEYS, *others):
        value = described.get(key)
        for entry in value if isinstance(value, list) else [value] if value else []:
            if key in SPLIT_KEYS or isinstance(entry, str):
                yield key, str(entry)


def _find_place(root: Path, base: Path, key: str, entry: str) -> Place | None:
    """An entry of data.yaml below the root, or None."""
    plain = entry.replace("\\", "/")
    without_up = plain
    while without_up.startswith("../"):  # Some exporters write `../train/images` for `train/images`.
        without_up = without_up[3:]
    found = (_place(root, key, base / spelt) for spelt in dict.fromkeys((entry, plain, without_up)))
    return next(filter(None, found), None)


def _guess_place(root: Path, key: str, entry: str, taken: Collection[str]) -> Place | None:
    """The place that the end of an entry leads to, such as that of a path of another machine.

    Not one that is `taken`: a missing `valid/images` is not the `images` that are trained on.
    """
    found = (_place(root, key, root / tail) for tail in tails(entry))
    return next((place for place in found if place and place.path not in taken), None)


def _place(root: Path, key: str, path: Path) -> Place | None:
    is_list = path.suffix == ".txt" and _is_file(path)
    if not (is_list or _is_folder(path)) or not inside_root(root, path):
        return None
    # Links inside the source keep their own names: labels are looked for beside those.
    relative = Path(os.path.relpath(path, root))
    if ".." in relative.parts:
        relative = path.resolve().relative_to(root.resolve())
    return Place(relative.as_posix(), SPLIT_KEYS.get(key, key), is_list, key)


def _not_there(file: str, key: str, entry: str, place: Place | None, root: Path) -> Finding:
    value = f"`{key}: {entry}` is no folder or list of images below {root.name or root}"
    remedy = f"add the folder or delete `{key}` from {file}"
    if place is not None:
        value, remedy = f"{value}; {place.path} is taken for it", f"write `{key}: {place.path}`"
    return Finding(Code.SPLIT_MISSING, "warning", file, value, remedy, f"/{key}")


def _distinct(places: Iterable[Place], file: str) -> tuple[tuple[Place, ...], list[Finding]]:
    """Places once each; one that several splits name belongs to none of them."""
    named: dict[str, list[Place]] = {}
    for place in places:
        named.setdefault(place.path, []).append(place)
    once, findings = [], []
    for path, same in named.items():
        keys = list(dict.fromkeys(place.key for place in same))
        shared = len({place.split for place in same}) > 1
        once.append(replace(same[0], split=None) if shared else same[0])
        if shared:
            value, remedy = f"{' and '.join(keys)} are both {path}", "nothing to do: its images are split by scene"
            findings.append(Finding(Code.LISTED_TWICE, "warning", file, value, remedy, f"/{keys[-1]}"))
    return tuple(once), findings


def label_path(image_path: str) -> str:
    """The label counterpart of an image path: its last `images` folder becomes `labels`; else the path itself."""
    parts = image_path.split("/")
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return "/".join(parts)


def label_file(image: str) -> str:
    """The label file of an image."""
    return f"{stem(label_path(image))}.txt"


def stem(file: str) -> str:
    """A path without the suffix of its file; faster than `PurePath`, for a million of them."""
    dot = file.rfind(".", file.rfind("/") + 2)  # A name that begins with a dot has no suffix for that.
    return file if dot < 0 else file[:dot]


def _is_file(path: Path) -> bool:
    """Whether a file is there; not where its name is longer than any can be, or its folder closed."""
    try:
        return path.is_file()
    except OSError:
        return False


def _is_folder(path: Path) -> bool:
    """The same of a folder."""
    try:
        return path.is_dir()
    except OSError:
        return False


def tails(path: str) -> Iterator[str]:
    """The ends of a path of this or another machine, longest first: `/a/b/c` gives `a/b/c`, `b/c`, `c`."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        yield "/".join(parts[start:])


@dataclass(frozen=True)
class Listed:
    """One line of a list of images. `file` is relative to the root; `problem` is why it cannot be read."""

    file: str
    list_file: str
    line: int
    split: str | None
    problem: Code | None = None


class ListReader:
    """Reads lists of images. `findings` are about lists as a whole and about lines that repeat others.

    Only names are compared here; that links stay within the source is checked when an image is read.
    """

    def __init__(self, root: Path, base: Path) -> None:
        self.findings: list[Finding] = []
        self._root, self._base = root, base
        self._prefixes = tuple({f"{p.rstrip(os.sep)}{os.sep}" for p in (_absolute(root), os.path.realpath(root))})
        self._moved: set[str] = set()
        """Beginnings of paths of another machine, which stand for the root."""

    def read(self, places: Iterable[Place]) -> tuple[Listed, ...]:
        """Every image of the lists among `places` once, in the order of the lists."""
        listed: dict[str, Listed] = {}
        for place in places:
            if place.is_list:
                for item in self._read_list(place):
                    first = listed.setdefault(item.file, item)
                    if first is not item:
                        listed[item.file] = self._repeated(first, item)
        return tuple(listed.values())

    def _repeated(self, first: Listed, again: Listed) -> Listed:
        same = first.split == again.split
        value = f"{again.file} is listed at {first.list_file}:{first.line}, too"
        remedy = "keep one of the lines" if same else "keep one of the lines; until then its scene decides on its split"
        self.findings.append(Finding(Code.LISTED_TWICE, "warning", again.list_file, value, remedy, again.line))
        return first if same else replace(first, split=None)

    def _read_list(self, place: Place) -> Iterator[Listed]:
        try:
            data = (self._root / place.path).read_bytes()
        except OSError as error:
            value = error.strerror or str(error)
            self.findings.append(Finding(Code.SPLIT_MISSING, "warning", place.path, value, "make it a readable file"))
            return
        # Names of files may be no UTF-8: they are kept as the file system keeps them.
        texts = [os.fsdecode(line).strip() for line in data.removeprefix(codecs.BOM_UTF8).splitlines()]
        parent = (self._root / place.path).parent
        found = [self._find(text, parent) if text else None for text in texts]
        for number, (text, there) in enumerate(zip(texts, found, strict=True), 1):
            if there is not None:
                yield Listed(there.file, place.path, number, place.split)
            elif text:
                file, problem = self._missing(text, parent)
                yield Listed(file, place.path, number, place.split, problem)
        guessed = [(number, there) for number, there in enumerate(found, 1) if there is not None and there.is_guess]
        if guessed:
            number, there = guessed[0]
            value = (
                f"{len(guessed)} paths as {texts[number - 1]} lead nowhere; files as {there.file} are taken for them"
            )
            remedy = "write paths relative to the list, such as ./images/1.jpg"
            self.findings.append(Finding(Code.IMAGE_OUTSIDE_ROOT, "warning", place.path, value, remedy, number))

    def _find(self, text: str, parent: Path) -> "_There | None":
        """The file that a line means, or None where there is none."""
        for folder in dict.fromkeys((parent, self._base, self._root)):
            file = self._below_root(_joined(folder, text))
            if file is not None and self._is_file(file):
                return _There(file)
        moved = self._moved_file(text)
        if moved is not None and self._is_file(moved):
            return _There(moved, is_guess=True)
        plain = text.replace("\\", "/")
        for tail in tails(text):
            if self._is_file(tail):
                beginning = plain[: -len(tail)] if plain.endswith(tail) else ""
                if "/" in tail and beginning.strip("./"):  # A bare name does not say where its folder went.
                    self._moved.add(beginning)
                return _There(tail, is_guess=plain.removeprefix("./") != tail)
        return None

    def _moved_file(self, text: str) -> str | None:
        """Where a path of another machine leads when it was moved as others of the lists were."""
        plain = text.replace("\\", "/")
        for beginning in self._moved:
            if plain.startswith(beginning):
                return self._below_root(self._root / plain.removeprefix(beginning))
        return None

    def _missing(self, text: str, parent: Path) -> tuple[str, Code]:
        """A name for a file that is not there, and whether it would lie within the source."""
        spelt = (self._below_root(_joined(folder, text)) for folder in (parent, self._base))
        file = self._moved_file(text) or next(filter(None, spelt), None)
        return (file, Code.IMAGE_MISSING) if file else (next(tails(text), "_"), Code.IMAGE_OUTSIDE_ROOT)

    def _is_file(self, file: str) -> bool:
        return _is_file(self._root / file)

    def _below_root(self, path: Path) -> str | None:
        """A path (relative ones start from the working directory) relative to the root, or None outside it."""
        whole = _absolute(path)
        return next((whole[len(prefix) :] for prefix in self._prefixes if whole.startswith(prefix)), None)


@dataclass(frozen=True)
class _There:
    """A file that is there, relative to the root."""

    file: str
    is_guess: bool = False


def _joined(folder: Path, text: str) -> Path:
    """A line of a list as a path: from a folder on, unless it is whole."""
    whole = location(text)
    return whole if is_cloud(whole) else folder / text


def _absolute(path: Path) -> str:
    """Without `..`, but not through links: those inside a source keep their own names."""
    return os.path.normpath(path.absolute())
