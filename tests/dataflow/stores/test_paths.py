"""Places: what `pathlib` says of a folder is what a `CloudPath` says of the same objects."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from dataflow.errors import MissingExtraError, UsageError
from dataflow.stores import object_stores
from dataflow.stores.cloud_paths import CloudPath, is_cloud
from dataflow.stores.paths import (
    cached_files,
    copy_object,
    local_directory,
    local_file,
    location,
    objects_below,
    remove_tree,
    upload_files,
    whole_file,
)
from tests.object_stores import STORES, free_port, object_store

FILES = {"a.json": b"{}", "b.txt": "ä\r\nb\n".encode(), "sub/c.bin": bytes(range(256)) * 999, "sub/deep/d": b""}


@pytest.fixture(scope="module", params=sorted(STORES))
def root(request: pytest.FixtureRequest) -> Iterator[Path]:
    with object_store(request.param) as url:
        yield location(url)


@pytest.fixture
def both(root: Path, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """The same files as files and as objects."""
    folder = tmp_path / "folder"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    there = root / "tests" / request.node.name.partition("[")[0] / "folder"
    upload_files(folder, there)
    return folder, there


def test_what_a_user_writes_becomes_a_place() -> None:
    assert location("data/x") == Path("data/x") and type(location("data/x")) is type(Path())
    assert not is_cloud(location("gs:/x")) and not is_cloud(location("/s3/x"))
    place = location("gs://bucket/a//b/")
    assert is_cloud(place) and str(place) == "gs://bucket/a/b" and f"{place}" == os.fspath(place)
    assert str(place / "c") == "gs://bucket/a/b/c" and place.name == "b" and str(place.parent) == "gs://bucket/a"
    assert str(place.with_name("z")) == "gs://bucket/a/z"
    assert pickle.loads(pickle.dumps(place)) == place and location(place) is place


def test_questions_have_the_answers_of_pathlib(both: tuple[Path, Path]) -> None:
    folder, there = both
    for name in ("", "a.json", "sub", "sub/c.bin", "sub/deep", "nothing", "a.jso", "sub/nothing/x"):
        for question in ("exists", "is_file", "is_dir"):
            assert getattr(there / name, question)() == getattr(folder / name, question)(), (name, question)
    assert [path.name for path in there.iterdir()] == sorted(path.name for path in folder.iterdir())
    for pattern in ("*", "*.json", "*/*", "sub/*", "x*", "a.json"):
        found = [str(path.relative_to(there)) for path in there.glob(pattern)]
        assert [name.replace("://", ":/") for name in found] == sorted(
            str(path.relative_to(folder)) for path in folder.glob(pattern)
        )
    for name, data in FILES.items():
        assert (there / name).read_bytes() == data and (there / name).stat().st_size == len(data)
    assert (there / "b.txt").read_text() == "ä\r\nb\n"
    with (there / "b.txt").open(encoding="utf-8") as file, (folder / "b.txt").open(encoding="utf-8") as same:
        assert list(file) == list(same)
    with (there / "sub/c.bin").open("rb") as file:
        file.seek(1000)
        assert file.read(7) == FILES["sub/c.bin"][1000:1007]


def test_what_is_not_there_is_a_file_not_found_error(root: Path) -> None:
    nothing = root / "tests" / "nothing"
    for act in (nothing.read_bytes, nothing.stat, nothing.unlink, lambda: list(nothing.iterdir()), nothing.read_text):
        with pytest.raises(FileNotFoundError, match="nothing"):
            act()  # type: ignore[operator]
    nothing.unlink(missing_ok=True)
    assert objects_below(nothing) == {}


def test_objects_are_copied_listed_and_removed(both: tuple[Path, Path]) -> None:
    _, there = both
    assert {name: status.st_size for name, status in objects_below(there).items()} == {
        name: len(data) for name, data in FILES.items()
    }
    copy_object(there / "sub/c.bin", there / "other/e.bin")
    assert (there / "other/e.bin").read_bytes() == FILES["sub/c.bin"]
    removed: list[str] = []
    unlink = CloudPath.unlink

    def noted(path: CloudPath, missing_ok: bool = False) -> None:
        removed.append(path.name)
        unlink(path, missing_ok)

    with patch.object(CloudPath, "unlink", noted):
        remove_tree(there, last="a.json")
    assert removed[-1] == "a.json" and len(removed) == len(FILES) + 1
    assert objects_below(there) == {}


def test_a_file_that_fails_half_way_is_never_there(root: Path, tmp_path: Path) -> None:
    for folder in (root / "tests" / "half", tmp_path):
        with pytest.raises(ZeroDivisionError), whole_file(folder / "shard") as partial:
            partial.write_bytes(b"half")
            raise ZeroDivisionError
        assert not (folder / "shard").exists()
        with whole_file(folder / "shard") as partial:
            partial.write_bytes(b"whole")
            assert not (folder / "shard").exists()
        assert (folder / "shard").read_bytes() == b"whole"


def test_copies_of_this_machine(both: tuple[Path, Path], tmp_path: Path) -> None:
    folder, there = both
    with local_directory(there) as local:
        assert {str(p.relative_to(local)): p.read_bytes() for p in local.rglob("*") if p.is_file()} == FILES
    with local_file(there / "a.json") as copied:
        assert copied.read_bytes() == b"{}"
    assert not copied.exists() and not local.exists()
    with local_file(folder / "a.json") as same, local_directory(folder) as itself:
        assert same == folder / "a.json" and itself == folder
    with patch.dict(os.environ, {"XDG_CACHE_HOME": str(tmp_path / "cache")}):
        [first] = cached_files([there / "a.json"])
        with patch.object(CloudPath, "download", side_effect=AssertionError("downloaded twice")):
            assert cached_files([there / "a.json", folder / "b.txt"]) == [first, folder / "b.txt"]
        (there / "a.json").write_bytes(b"{1}")
        [second] = cached_files([there / "a.json"])
    assert first.read_bytes() == b"{}" and second.read_bytes() == b"{1}"


def test_a_bucket_that_is_not_there_says_so(root: Path) -> None:
    scheme = str(root).partition(":")[0]
    elsewhere = location(f"{scheme}://nobody-has-this/x")
    assert not elsewhere.exists()
    with pytest.raises((UsageError, FileNotFoundError), match="nobody-has-this"):
        elsewhere.write_bytes(b"x")
    with pytest.raises(UsageError, match="names no bucket"):
        location(f"{scheme}://").exists()


def test_a_store_that_does_not_answer_is_no_traceback() -> None:
    with patch.dict(os.environ, {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}", "AWS_MAX_ATTEMPTS": "1"}):
        object_stores.file_system.cache_clear()
        try:
            with pytest.raises(UsageError, match="check the network"):
                location("s3://bucket/x").read_bytes()
        finally:
            object_stores.file_system.cache_clear()


@pytest.mark.parametrize(
    "reason", ["AWS Error ACCESS_DENIED during HeadObject", "Anonymous caller does not have access"]
)
def test_who_may_not_is_told_to_log_in(reason: str) -> None:
    with pytest.raises(UsageError, match="log in"), object_stores.told("gs://bucket/x"):
        raise OSError(reason)


@pytest.mark.parametrize(("url", "package"), [("gs://b/x", "gcsfs"), ("s3://b/x", "pyarrow")])
def test_without_its_package_the_extra_is_named(url: str, package: str) -> None:
    object_stores.file_system.cache_clear()
    with patch.dict(sys.modules, {package: None}), pytest.raises(MissingExtraError, match=r"shardbox\[cloud\]"):
        location(url).exists()


def test_a_path_of_this_machine_loads_no_library() -> None:
    code = (
        "import sys; from dataflow.stores.paths import location; location('x').exists(); print('fsspec' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
