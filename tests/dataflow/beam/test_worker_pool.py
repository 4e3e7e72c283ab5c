"""A worker pool says what its workers have and see; one that cannot is told from one that has other packages."""

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from dataflow.beam.options import submission
from dataflow.beam.runners import Check
from dataflow.beam.worker_pool import ask_pool, credential_checks
from dataflow.stores.paths import location
from tests.factories import write
from tests.object_stores import object_store
from tests.tfds_builders.portable import ROOT, free_port, worker_pool


def asked(pool: str, paths: Mapping[str, str], patience_s: float = 60.0) -> list[Check]:
    options = (f"--job_endpoint={pool}", "--environment_type=EXTERNAL", f"--environment_config={pool}")
    return ask_pool(submission("PortableRunner", options, paths), patience_s)


def test_a_pool_of_this_environment(tmp_path: Path) -> None:
    with worker_pool(tmp_path / "pool") as pool:
        packages, source, output = asked(pool, {"source": str(ROOT), "output": str(tmp_path / "not" / "yet")})
    assert packages.level == "good" and "shardbox" in packages.found and "apache-beam" in packages.found
    assert source.level == "good" and str(ROOT) in source.found
    assert output.level == "good" and output.found.endswith(str(tmp_path))


def test_a_pool_without_our_packages(tmp_path: Path) -> None:
    # It may be installed in place here: then its finder is taken away.
    code = "import sys\nsys.meta_path[:] = [each for each in sys.meta_path if '__editable__' not in each.__module__]\n"
    write(tmp_path / "modules" / "sitecustomize.py", code)
    with worker_pool(tmp_path / "pool", path=tmp_path / "modules") as pool:
        [packages] = asked(pool, {})
    assert packages.level == "bad" and "has no module 'dataflow'" in packages.found
    assert "shardbox[prepare]" in packages.remedy


# As Beam's boot program does: it asks what to provide a worker with before it starts one, and cannot use a token that
# names no files.
BOOT = """#!{python}
import os, sys
import grpc
from apache_beam.portability.api import beam_provision_api_pb2 as api, beam_provision_api_pb2_grpc as services
given = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
with grpc.insecure_channel(given["provision_endpoint"]) as channel:
    info = services.ProvisionServiceStub(channel).GetProvisionInfo(
        api.GetProvisionInfoRequest(), metadata=[("worker_id", given["id"])]).info
if info.retrieval_token and not info.dependencies:
    sys.exit("failed to get manifest")
code = "from apache_beam.runners.worker.sdk_worker import SdkHarness; SdkHarness(%r, worker_id=%r).run()"
os.execv(sys.executable, [sys.executable, "-c", code % (info.control_endpoint.url, given["id"])])
"""


def test_a_pool_of_containers(tmp_path: Path) -> None:
    boot = write(tmp_path / "boot", BOOT.format(python=sys.executable))
    boot.chmod(0o755)
    with worker_pool(tmp_path / "pool", more=(f"--container_executable={boot}",)) as pool:
        [packages] = asked(pool, {})
    assert packages.level == "good" and "a worker of the pool has shardbox" in packages.found


def test_a_pool_that_has_no_way_to_a_store(tmp_path: Path) -> None:
    write(tmp_path / "modules" / "sitecustomize.py", "import sys\nsys.modules['gcsfs'] = None\n")
    (tmp_path / "modules" / "dataflow").symlink_to(ROOT / "dataflow")
    with object_store("gs") as url, worker_pool(tmp_path / "pool", path=tmp_path / "modules") as pool:
        (location(url) / "photos/a.jpg").write_bytes(b"a")
        packages, source = asked(pool, {"source": f"{url}/photos"})
    assert packages.level == "good" and source.level == "bad"
    assert "does not see gs://bucket/photos: the package 'gcsfs' is not installed" in source.found
    assert "shardbox[cloud]" in source.remedy


def test_a_pool_of_another_version(tmp_path: Path) -> None:
    code = "import importlib.metadata as m\nv = m.version\nm.version = lambda n: '0.0.1' if n == 'shardbox' else v(n)\n"
    write(tmp_path / "modules" / "sitecustomize.py", code)
    (tmp_path / "modules" / "dataflow").symlink_to(ROOT / "dataflow")
    with worker_pool(tmp_path / "pool", path=tmp_path / "modules") as pool:
        packages, *_ = asked(pool, {})
    assert packages.level == "bad" and "shardbox 0.0.1 (here " in packages.found


def test_a_pool_that_starts_no_worker(tmp_path: Path) -> None:
    code = "import os, sys\nif any('SdkHarness' in word for word in sys.orig_argv):\n    os._exit(3)\n"
    write(tmp_path / "modules" / "sitecustomize.py", code)
    with worker_pool(tmp_path / "pool", path=tmp_path / "modules") as pool:
        [check] = asked(pool, {}, patience_s=8)
    assert check.level == "bad" and "started no worker within 8 s" in check.found


def test_others_are_not_asked() -> None:
    assert asked(f"localhost:{free_port()}", {}) == []
    assert ask_pool(submission("FnApiRunner", (), {})) == []
    far = ("--flink_master=far.invalid:8081", "--environment_type=EXTERNAL", "--environment_config=localhost:50000")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dataflow.beam.worker_pool.answers", lambda _: True)
        assert ask_pool(submission("FlinkRunner", far, {})) == [], "it is each task manager's own"


FLOW = ("DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/t", "--no_auth")


@pytest.mark.parametrize(
    ("words", "paths", "told"),
    [
        (FLOW, ("/here",), []),
        (FLOW, ("gs://b/x", "gs://c/y"), [("note", "act as the default account of Compute Engine")]),
        (
            (*FLOW, "--service_account_email=w@p"),
            ("gs://b/x",),
            [("note", "act as w@p; what it may do cannot be asked")],
        ),
        (FLOW, ("s3://b/x",), [("bad", "Dataflow gives none, and Beam's own image has none")]),
        ((*FLOW, "--sdk_container_image=R/i:1"), ("s3://b/x",), [("note", "whether R/i:1 has some cannot be seen")]),
        (FLOW, ("s3://b/x", "gs://b/y"), [("note", "act as"), ("bad", "Dataflow gives none")]),
        (("FnApiRunner",), ("s3://b/x",), []),
        (("PortableRunner", "--job_endpoint=far:1"), ("s3://b/x",), [("note", "do not go with the job")]),
    ],
)
def test_credentials_of_workers(words: tuple[str, ...], paths: tuple[str, ...], told: list[tuple[str, str]]) -> None:
    runner, *options = words
    checks = credential_checks(submission(runner, options, dict(zip(("source", "output"), paths, strict=False))))
    assert [check.level for check in checks] == [level for level, _ in told]
    assert all(text in check.found and check.remedy for check, (_, text) in zip(checks, told, strict=True))


def test_pools_that_cannot_be_asked_for_their_credentials(tmp_path: Path) -> None:
    paths = {"source": "s3://bucket/photos"}
    options = ("--environment_type=EXTERNAL", "--job_endpoint=localhost:1")
    there = f"--environment_config=localhost:{free_port()}"
    [check] = credential_checks(submission("PortableRunner", (*options, there), paths))
    assert check.level == "note" and "AWS_ACCESS_KEY_ID" in check.remedy
    with worker_pool(tmp_path / "pool") as pool:
        asked = submission("PortableRunner", (*options, f"--environment_config={pool}"), paths)
        assert credential_checks(asked) == []
