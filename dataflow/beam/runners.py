"""What each Beam runner wants to know for image work, and what is wrong with a submission before it is made.

Nothing here imports Beam: options come as a mapping of their names (`--flink_master` is `flink_master`) to values.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from dataflow.beam.cluster import JobServer, answers, flink_cluster, host_of, is_here, on_network_disk, speaks_http2

Level = Literal["good", "note", "bad"]
"""`bad` must be mended before the job is submitted; `note` is for a person to judge."""
Options = Mapping[str, Any]

# One process for each vCPU takes 250 to 500 MB (docs/scale.md) and a shard of 128 MiB, twice: e2-standard has 4 GB a
# vCPU. Two threads in each, so that one reads while another computes; more only hold more images.
_DATAFLOW = (
    "--machine_type=e2-standard-4",
    "--number_of_worker_harness_threads=2",
    "--disk_size_gb=50",
    "--autoscaling_algorithm=THROUGHPUT_BASED",
    "--max_num_workers=100",
)
# A process for each core of a task manager (0): Python's lock lets the threads of one do little beside each other.
_FLINK = ("--sdk_worker_parallelism=0",)
# Thirty days: where a job service watches a job from before its start (Prism, Beam's own), Beam takes this limit on one
# answer for one on the whole job, and calls a longer one failed (`PortableRunner`, Beam 2.77).
_JOB_SERVICE = ("--job_server_timeout=2592000",)
_BEAM_CACHE = Path("~/.apache_beam/cache")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at before a job is submitted: what was found, and what to do where it is wrong."""

    what: str
    level: Level
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Submission:
    """A job that is about to be submitted.

    `options` are all of Beam's, defaults included. `paths` are what workers read and write, by what they are called.
    """

    runner: str
    options: Options
    beam_version: str
    our_version: str
    paths: Mapping[str, str]


def default_arguments(runner: str, arguments: Sequence[str], options: Options) -> tuple[str, ...]:
    """The options that suit image work on a runner, less those that the user gave in `arguments`.

    A Flink cluster is asked how many slots it has: Beam would use one. `options` are what `arguments` amount to.
    """
    given = {argument.partition("=")[0] for argument in arguments}
    return tuple(each for each in _suitable(runner, options) if each.partition("=")[0] not in given)


def _suitable(runner: str, options: Options) -> Iterator[str]:
    if runner == "DataflowRunner":
        yield from _DATAFLOW
    if runner in ("PrismRunner", "PortableRunner"):
        yield from _JOB_SERVICE
    if runner == "PrismRunner":
        yield "--environment_type=LOOPBACK"
        if found := shutil.which("prism"):
            yield f"--prism_location={found}"
    if runner == "FlinkRunner":
        yield from _FLINK
        cluster = flink_cluster(options["flink_master"])
        if cluster and cluster.slots:
            yield f"--parallelism={cluster.slots}"


def submission_checks(submission: Submission) -> list[Check]:
    """All that can be found out before anything is submitted, the engine first."""
    return [*_engine(submission), *_workers(submission), *_paths(submission)]


def _engine(submission: Submission) -> Iterator[Check]:
    match submission.runner:
        case "DataflowRunner":
            yield from _dataflow(submission.options)
        case "PrismRunner":
            yield _prism(submission.options, submission.beam_version)
        case "FlinkRunner" | "SparkRunner":
            yield from _cluster(submission)
        case "PortableRunner":
            yield _job_service(submission.options["job_endpoint"])
        case _:
            count = max(1, int(submission.options["direct_num_workers"]))
            mode = submission.options["direct_running_mode"]
            yield Check("engine", "good", f"on this machine, {mode}, {count} worker{'s' if count > 1 else ''}")


def _job_service(endpoint: str | None) -> Check:
    if not endpoint:
        return Check("job service", "bad", "no --job_endpoint", "name it after --: --job_endpoint=HOST:PORT")
    start = "python -m apache_beam.runners.portability.local_job_service_main -p PORT, or an engine's job server"
    if not answers(endpoint):
        return Check("job service", "bad", f"nothing answers at {endpoint}", f"start it: {start}")
    if not speaks_http2(endpoint):
        found = f"what answers at {endpoint} is no job service"
        return Check("job service", "bad", found, f"name the port of the job service itself: {start}")
    return Check("job service", "good", f"{endpoint} answers")


def _prism(options: Options, beam_version: str) -> Check:
    location = options["prism_location"]
    if location and (Path(location).is_file() or "://" in location):
        return Check("prism", "good", location)
    if location:
        return Check("prism", "bad", f"--prism_location={location} is no file", "name the binary, or leave it out")
    cached = sorted(_BEAM_CACHE.expanduser().glob("prism/bin/*"))
    if cached:
        return Check("prism", "good", f"{cached[-1]}, which Beam downloaded earlier")
    return Check(
        "prism",
        "note",
        "no `prism` on the PATH: Beam downloads it",
        f"or build it: go install github.com/apache/beam/sdks/v2/go/cmd/prism@v{beam_version}",
    )


def _cluster(submission: Submission) -> Iterator[Check]:
    """The engine and its job server, of Flink and Spark."""
    options, server = submission.options, JobServer.of(submission.runner, submission.options)
    if submission.runner == "FlinkRunner":
        yield _flink(options)
        cluster = flink_cluster(options["flink_master"])
        if cluster and not cluster.restarts:
            remedy = "set restart-strategy.type: fixed-delay in the configuration of the cluster"
            yield Check("retries", "note", "none: a task manager that dies ends the job", remedy)
    else:
        master = options["spark_master_url"]
        inside = master.startswith(("local", "k8s:", "yarn"))
        if inside or answers(master):
            yield Check("Spark", "good", f"{master}{'' if inside else ' answers'}")
        else:
            yield Check("Spark", "bad", f"nothing answers at {master}", "start it, or mend --spark_master_url")
    if options["job_endpoint"]:
        yield _job_service(options["job_endpoint"])
        return
    launcher = options["job_server_java_launcher"]
    if shutil.which(launcher) is None:
        yield Check("Java", "bad", f"no {launcher!r} here; the job server needs it", "install Java 11 or 17")
    yield _job_server(server, submission.beam_version)


def _job_server(server: JobServer, beam_version: str) -> Check:
    """A job server of another version than Beam's may not understand the job."""
    if server.jar is None:
        cached = _BEAM_CACHE.expanduser() / "jars" / server.published(beam_version)
        if cached.exists():
            return Check("job server", "good", f"{cached.name}, which Beam downloaded earlier")
        return Check("job server", "note", f"Beam downloads {cached.name}", f"or fetch it, and --{server.option}=JAR")
    if "://" not in server.jar and not Path(server.jar).is_file():
        return Check("job server", "bad", f"--{server.option}={server.jar} is no file", "check the path")
    if "://" not in server.jar and (amiss := server.amiss()):
        fetch = f"name {server.published(beam_version)}, from Maven Central"
        return Check("job server", "bad", f"--{server.option}={server.jar} {amiss}", fetch)
    version = server.version()
    if version == beam_version:
        return Check("job server", "good", f"{server.jar}, Beam {version}")
    told = f"is of Beam {version}" if version else "does not say of which version of Beam it is"
    return Check(
        "job server",
        "note",
        f"{server.jar} {told}; this is Beam {beam_version}",
        f"{server.published(beam_version)} from Maven Central fits",
    )


def _flink(options: Options) -> Check:
    master, wanted = options["flink_master"], options["flink_version"]
    if master in ("[auto]", "[local]"):
        return Check("Flink", "good", f"{master}: a cluster of its own, in the job server on this machine")
    cluster = flink_cluster(master)
    if cluster is None:
        return Check("Flink", "bad", f"nothing answers at {master}", "start it, or mend --flink_master=HOST:PORT")
    found = f"{master} is Flink {cluster.version} with {cluster.slots} slots"
    if not cluster.slots:
        return Check("Flink", "bad", found, "start a task manager")
    if not cluster.version.startswith(f"{wanted}."):
        minor = ".".join(cluster.version.split(".")[:2])
        return Check("Flink", "bad", f"{found}; the job is made for Flink {wanted}", f"use --flink_version={minor}")
    return Check("Flink", "good", found)


def _dataflow(options: Options) -> Iterator[Check]:
    if not _installed("google.cloud.dataflow_v1beta3"):
        yield Check("Beam", "bad", "its part for Dataflow is not installed", "run: pip install 'apache-beam[gcp]'")
    for option, example in (("project", "MY-PROJECT"), ("region", "europe-west1")):
        if options[option]:
            yield Check(option, "good", str(options[option]))
        else:
            yield Check(option, "bad", f"no --{option}", f"name it after --: --{option}={example}")
    staging = options["staging_location"] or options["temp_location"]
    if staging and staging.startswith("gs://"):
        yield Check("staging", "good", staging)
    else:
        remedy = "name it after --: --temp_location=gs://BUCKET/temp"
        yield Check("staging", "bad", f"{staging} is not in the cloud" if staging else "no --temp_location", remedy)
    yield _credentials(options)


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # Of a package above it.
        return False


def _credentials(options: Options) -> Check:
    if options["no_auth"]:
        return Check("credentials", "good", "none, by --no_auth")
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    file = Path(named or "~/.config/gcloud/application_default_credentials.json").expanduser()
    if file.is_file():
        return Check("credentials", "good", str(file))
    board = Path("/sys/class/dmi/id/product_name")
    if not named and board.is_file() and "Google" in board.read_text():
        return Check("credentials", "good", "those of this machine's service account")
    return Check("credentials", "bad", f"there is no {file}", "run: gcloud auth application-default login")


def environment(submission: Submission) -> str:
    """Where the workers' packages come from: LOOPBACK, EXTERNAL, PROCESS, DOCKER, or DATAFLOW."""
    if submission.runner == "DataflowRunner":
        return "DATAFLOW"
    said = submission.options["environment_type"]
    if submission.runner in ("FlinkRunner", "SparkRunner", "PortableRunner"):
        alone = submission.options.get("flink_master") in ("[auto]", "[local]") and submission.runner == "FlinkRunner"
        return str(said or ("LOOPBACK" if alone else "DOCKER")).upper()
    return "LOOPBACK"


def engine_is_here(submission: Submission) -> bool:
    """Whether all addresses that the options name are of this machine."""
    options, runner = submission.options, submission.runner
    addresses = [options["job_endpoint"]] if runner in ("FlinkRunner", "SparkRunner", "PortableRunner") else []
    if runner == "FlinkRunner" and options["flink_master"] not in ("[auto]", "[local]"):
        addresses.append(options["flink_master"])
    if runner == "SparkRunner" and not options["spark_master_url"].startswith("local"):
        addresses.append(options["spark_master_url"])
    if environment(submission) == "EXTERNAL":
        addresses.append(options["environment_config"])
    return runner != "DataflowRunner" and all(is_here(host_of(address)) for address in addresses if address)


def _workers(submission: Submission) -> Iterator[Check]:
    """Whether workers will have this package at this version."""
    options, what = submission.options, "packages of workers"
    match environment(submission):
        case "LOOPBACK":
            yield Check(what, "good", f"those of this environment: shardbox {submission.our_version}")
        case "EXTERNAL":
            yield _pool(submission)
        case "DOCKER":
            image = options["environment_config"] or options["sdk_container_image"]
            yield _image(image, submission.our_version, "--environment_config=IMAGE")
        case "DATAFLOW":
            yield from _staged(submission)
        case kind:
            remedy = "install shardbox[prepare] of this version there; a job stops at once where it is another"
            yield Check(what, "note", f"{kind}: cannot be asked from here", remedy)


def _pool(submission: Submission) -> Check:
    address, what = submission.options["environment_config"], "worker pool"
    start = "python -m apache_beam.runners.worker.worker_pool_main --service_port=50000"
    if not address:
        return Check(what, "bad", "no --environment_config", f"name its address; it is started by: {start}")
    if is_here(host_of(address)) and not engine_is_here(submission):
        return Check(what, "note", f"{address} is of each task manager: cannot be asked from here", f"there: {start}")
    if answers(address):
        return Check(what, "good", f"{address} answers")
    return Check(what, "bad", f"nothing answers at {address}", f"start it with shardbox[prepare]: {start}")


def _image(image: str | None, our_version: str, option: str) -> Check:
    """The tag of a container is all that can be seen of it from here."""
    what = "container"
    build = f"docker build --target prepare -t REGISTRY/shardbox:{our_version} ."
    if not image:
        return Check(what, "bad", "Beam's own image has no shardbox", f"build one ({build}) and name it: {option}")
    tag = image.rpartition("/")[2].partition(":")[2]
    if our_version in tag.split("-"):
        return Check(what, "good", image)
    return Check(
        what, "note", f"the tag of {image} does not say that it has shardbox {our_version}", f"tag it so: {build}"
    )


def _staged(submission: Submission) -> Iterator[Check]:
    options, what = submission.options, "packages of workers"
    setup, packages = options["setup_file"], options["extra_packages"] or []
    if setup and not Path(setup).is_file():
        yield Check(what, "bad", f"--setup_file={setup} is no file", "use the project's setup.py")
    elif missing := [package for package in packages if not Path(package).is_file()]:
        yield Check(what, "bad", f"--extra_package={missing[0]} is no file", "build it: python -m build")
    elif setup or any(Path(package).name.startswith("shardbox-") for package in packages):
        needs = options["requirements_file"] or options["sdk_container_image"]
        remedy = "add --requirements_file=requirements-workers.txt"
        told = f"{setup or packages}, shardbox {submission.our_version}"
        yield Check(what, "good", told) if needs else Check(what, "note", f"{told}, without what it needs", remedy)
    else:
        yield _image(options["sdk_container_image"], submission.our_version, "--sdk_container_image=IMAGE")


def _paths(submission: Submission) -> Iterator[Check]:
    """Whether workers see what they are to read and write."""
    kind = environment(submission)
    apart = kind in ("DOCKER", "DATAFLOW") or not engine_is_here(submission)
    for what, path in submission.paths.items():
        if "://" in path:
            yield Check(what, "good", f"{path}, in the cloud")
        elif not apart:
            yield Check(what, "good", f"{path}, on the machine of the workers")
        elif kind != "DATAFLOW" and on_network_disk(Path(path)):
            yield Check(what, "note", f"{path} is on a network disk", "workers must have it at the same place")
        else:
            where = "in containers" if kind == "DOCKER" else "on other machines"
            yield Check(
                what,
                "bad",
                f"{path} is on this machine, and workers of {submission.runner} are {where}",
                "use gs:// or s3://, or a network disk that is at the same place for all",
            )


def command_line(words: Sequence[str], runner: str, arguments: Sequence[str]) -> list[str]:
    """The words of a command with its runner, and what goes to the runner behind `--`."""
    return [*words, "--runner", runner, *(["--", *arguments] if arguments else [])]
