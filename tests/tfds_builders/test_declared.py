"""Declared sources: TFDS's own test case for every format, and the same bytes as `shardbox ingest`."""

import json
import pickle
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets import testing

from dataflow.errors import UsageError
from dataflow.prepared import METRICS, PreparedDataset
from dataflow.splits import parse_splits
from dataflow.tensorflow_runtime import load_tensorflow
from tests.factories import (
    Picture,
    Thing,
    logical_dataset,
    prepare,
    write,
    write_coco,
    write_mot,
    write_voc,
    write_yolo,
)
from tfds_builders.builders import RefusedError
from tfds_builders.choices import PAIR_FORMATS, FormatName
from tfds_builders.declared import DeclaredBuilder, SourceConfig, _running
from tfds_builders.export import export_dataset
from tfds_builders.formats.coco import open_coco
from tfds_builders.formats.mot import open_mot
from tfds_builders.sources.pairing import PairOptions
from trainers.cli import main

load_tensorflow()  # Before TFDS's test case does, which knows nothing of what has to be imported first.

PICTURES = logical_dataset(8, crowd=True)
FRAMES = tuple(
    Picture(f"scene/{i:06d}", things=(Thing(0, (5.0 * i, 8, 5.0 * i + 12, 30), 1), Thing(0, (2, 2, 9, 9), 2)))
    for i in range(1, 9)
)
AUTO = ["--on-finding", "repair", "--exif", "ignore", "--check", "header", "--scenes", r"\d$", "--shards", "2"]
HALVES = "train=1-4,validation=5-8"
Writer = Callable[..., Path]


class DeclaredYolo(DeclaredBuilder):
    FORMAT = "yolo"
    SEED = 0


class DeclaredCoco(DeclaredBuilder):
    FORMAT = "coco"
    SEED = 0


class DeclaredVoc(DeclaredBuilder):
    FORMAT = "voc"
    SEED = 0


class DeclaredMot(DeclaredBuilder):
    FORMAT = "mot"
    SPLITS = HALVES


class DeclaredVariants(DeclaredBuilder):
    """Pairs of the frames of a sequence."""

    FORMAT = "mot"
    VERSION = tfds.core.Version("2.3.0")
    BUILDER_CONFIGS: ClassVar[list[SourceConfig]] = [
        SourceConfig(name="gap1", description="Next frames.", options={"pairing": PairOptions(1)}),
        SourceConfig(name="gap2", splits=HALVES, options={"pairing": PairOptions(2, targets="after")}),
    ]


class DeclaredAuto(DeclaredBuilder):
    ON_FINDING = "repair"
    EXIF = "ignore"
    CHECK = "header"
    SCENES = r"\d$"
    SHARDS = 2

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(homepage="https://example.org/things", license="CC0-1.0")


class FormatCase:
    """What TFDS's test case wants to know, and dummy data in one format."""

    DATASET_CLASS: ClassVar[type[DeclaredBuilder]] = DeclaredBuilder
    SPLITS: ClassVar[Mapping[str, int]] = {"train": 7, "validation": 1}
    WRITE: ClassVar[Writer]
    PICTURES: ClassVar[tuple[Picture, ...]] = PICTURES
    EXAMPLE_DIR: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        cls.EXAMPLE_DIR = tempfile.mkdtemp()
        cls.WRITE(Path(cls.EXAMPLE_DIR), cls.PICTURES)
        super().setUpClass()  # type: ignore[misc]


class TestYolo(FormatCase, testing.DatasetBuilderTestCase):
    DATASET_CLASS = DeclaredYolo
    WRITE = staticmethod(write_yolo)


class TestCoco(FormatCase, testing.DatasetBuilderTestCase):
    DATASET_CLASS = DeclaredCoco
    WRITE = staticmethod(write_coco)


class TestVoc(FormatCase, testing.DatasetBuilderTestCase):
    DATASET_CLASS = DeclaredVoc
    WRITE = staticmethod(write_voc)


class TestMot(FormatCase, testing.DatasetBuilderTestCase):
    DATASET_CLASS = DeclaredMot
    WRITE = staticmethod(write_mot)
    SPLITS: ClassVar[Mapping[str, int]] = {"train": 4, "validation": 4}


class TestPairs(FormatCase, testing.DatasetBuilderTestCase):
    DATASET_CLASS = DeclaredVariants
    WRITE = staticmethod(write_mot)
    SPLITS: ClassVar[Mapping[str, int]] = {"train": 2, "validation": 2}
    PICTURES = FRAMES
    BUILDER_CONFIG_NAMES_TO_TEST: ClassVar[list[str]] = ["gap2"]


def _exported(name: FormatName, root: Path, _: Any) -> None:
    """The dummy data in a format that has an exporter."""
    pairs = name in PAIR_FORMATS
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = (
            open_mot(write_mot(work / "a", FRAMES), PairOptions(1))
            if pairs
            else open_coco(write_coco(work / "b", PICTURES))
        )
        export_dataset(prepare(source, work / "out", splits=parse_splits("train=1")), name, root, ("train",))


def _case_of(name: FormatName) -> type:
    """TFDS's test case for one more format."""
    attributes = {"__module__": __name__, "FORMAT": name, "SPLITS": "train=1"}
    builder = type(f"Declared{name.title()}", (DeclaredBuilder,), attributes)
    count = len(FRAMES) - 1 if name in PAIR_FORMATS else len(PICTURES)
    write_it = staticmethod(partial(_exported, name))
    wanted = {"__module__": __name__, "DATASET_CLASS": builder, "WRITE": write_it, "SPLITS": {"train": count}}
    return type(f"Test{name.title()}", (FormatCase, testing.DatasetBuilderTestCase), wanted)


for _name in sorted(set(get_args(FormatName)) - {"yolo", "coco", "voc", "mot"}):
    globals()[f"Test{_name.title()}"] = _case_of(_name)


def test_every_format_has_its_case() -> None:
    tested = {
        case.DATASET_CLASS.FORMAT for case in globals().values() if isinstance(case, type) and hasattr(case, "WRITE")
    }
    assert tested == set(get_args(FormatName))


def _build(
    builder: type[DeclaredBuilder], out: Path, source: Path | None = None, config: str | None = None, **settings: Any
) -> DeclaredBuilder:
    made = builder(data_dir=out, config=config)
    made.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=source, **settings))
    return made


def _files(folder: Path) -> dict[str, bytes]:
    """All files but those in which TFDS writes what the class says of itself."""
    own = {"dataset_info.json", "LICENSE", "croissant.json", METRICS}
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in own}


@pytest.mark.parametrize(
    ("builder", "config", "writer", "words"),
    [
        (DeclaredYolo, None, write_yolo, ["--format", "yolo", "--seed", "0"]),
        (DeclaredCoco, None, write_coco, ["--format", "coco", "--seed", "0"]),
        (DeclaredVoc, None, write_voc, ["--format", "voc", "--seed", "0"]),
        (DeclaredMot, None, write_mot, ["--format", "mot", "--splits", HALVES]),
        (DeclaredVariants, "gap1", write_mot, ["--format", "mot", "--pair-gap", "1"]),
        (DeclaredVariants, "gap2", write_mot, ["--splits", HALVES, "--pair-gap", "2", "--targets", "after"]),
        (DeclaredAuto, None, write_coco, AUTO),
    ],
)
def test_files_are_those_that_ingest_writes(
    tmp_path: Path, builder: type[DeclaredBuilder], config: str | None, writer: Writer, words: list[str]
) -> None:
    source = writer(tmp_path / "source", FRAMES if config else PICTURES)
    made = _build(builder, tmp_path / "declared", source, config)
    wanted = ["--out", str(tmp_path / "ingested"), "--name", builder.name, *words]
    assert main(["ingest", str(source), "--format", "auto", *wanted]) == 0
    theirs = _files(tmp_path / "ingested" / builder.name / "1.0.0")
    assert _files(Path(made.data_dir)) == theirs
    assert {"manifest.json", "audit.json", "features.json"} < set(theirs)
    assert json.loads(theirs["manifest.json"])["splits"].keys() == made.info.splits.keys()


def test_options_reach_the_format_and_the_manifest(tmp_path: Path) -> None:
    class NamedVoc(DeclaredVoc, skip_registration=True):
        SOURCE = write_voc(tmp_path / "source", PICTURES, ("car",))
        OPTIONS: ClassVar[Mapping[str, Any]] = {"names": ("van", "car")}
        SPLITS = "train=0.5,test=0.5"

    made = _build(NamedVoc, tmp_path / "out")
    words = [
        "--names",
        "van,car",
        "--splits",
        "train=0.5,test=0.5",
        "--seed",
        "0",
        "--name",
        "named_voc",
        "--format",
        "voc",
    ]
    assert main(["ingest", str(tmp_path / "source"), "--out", str(tmp_path / "ingested"), *words]) == 0
    assert _files(Path(made.data_dir)) == _files(tmp_path / "ingested" / "named_voc" / "1.0.0")
    assert made.info.features["objects"].feature["label"].names == ["van", "car"]
    assert not (tmp_path / "out" / "downloads").exists()  # A declared source needs no download manager.


def test_versions_and_configs_lie_where_tfds_looks_for_them(tmp_path: Path) -> None:
    source = write_mot(tmp_path / "source", FRAMES)
    made = _build(DeclaredVariants, tmp_path / "out", source, "gap2")
    assert Path(made.data_dir) == tmp_path / "out" / "declared_variants" / "gap2" / "2.3.0"
    _build(DeclaredVariants, tmp_path / "out", source, "gap1")
    # Without the class: by what lies on disk, and the first config is still the default one.
    described = tfds.builder_from_directory(made.data_dir).info
    assert (described.config_name, str(described.version)) == ("gap2", "2.3.0")
    assert described.description == "Pairs of the frames of a sequence."
    default = tfds.core.dataset_builder.load_default_config_name(made.data_path.parent.parent)
    assert default == "gap1"
    loaded = tfds.load("declared_variants/gap2:2.*.*", data_dir=tmp_path / "out", split="train", download=False)
    assert {"before", "image", "homography"} < set(loaded.element_spec)
    assert len(PreparedDataset(made.data_dir).manifest["splits"]) == 2


def test_a_prepared_dataset_needs_its_source_no_more(tmp_path: Path) -> None:
    source = write_yolo(tmp_path / "source", PICTURES)
    made = _build(DeclaredYolo, tmp_path / "out", source)
    before = _files(Path(made.data_dir))
    source.rename(tmp_path / "elsewhere")
    again = _build(DeclaredYolo, tmp_path / "out")
    assert again.info.features.keys() == made.info.features.keys()
    assert len(list(again.as_dataset(split="train"))) == 7
    assert _files(Path(again.data_dir)) == before


def test_overwriting_reads_the_new_classes(tmp_path: Path) -> None:
    made = _build(DeclaredYolo, tmp_path / "out", write_yolo(tmp_path / "one", PICTURES, ("car",)))
    assert made.info.features["objects"].feature["label"].names == ["car"]
    two = write_yolo(tmp_path / "two", PICTURES[:4], ("van", "bus"))
    settings = {"manual_dir": two, "download_mode": tfds.GenerateMode.REUSE_CACHE_IF_EXISTS}
    made.download_and_prepare(download_config=tfds.download.DownloadConfig(**settings))
    assert made.info.features["objects"].feature["label"].names == ["van", "bus"]
    assert made.info.splits.total_num_examples == 4


def test_info_can_say_what_tfds_knows(tmp_path: Path) -> None:
    made = _build(DeclaredAuto, tmp_path / "out", write_coco(tmp_path / "source", PICTURES))
    info = tfds.builder_from_directory(made.data_dir).info
    assert info.homepage == "https://example.org/things"
    assert info.redistribution_info.license == "CC0-1.0"
    assert info.description == "Prepared by Shardbox."


def test_download_and_find(tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    write_yolo(packed, PICTURES)

    class Downloaded(DeclaredYolo, skip_registration=True):
        def find_source(self, dl_manager: tfds.download.DownloadManager) -> Path:
            assert isinstance(dl_manager, tfds.download.DownloadManager)
            return Path(dl_manager.extract({"all": _zipped(packed)})["all"])

    made = _build(Downloaded, tmp_path / "out")
    assert made.info.splits.total_num_examples == 8


def _zipped(folder: Path) -> Path:
    import shutil

    return Path(shutil.make_archive(str(folder), "zip", folder))


def test_a_relative_source_is_beside_its_class(tmp_path: Path) -> None:
    class Relative(DeclaredYolo, skip_registration=True):
        SOURCE = "no_such_folder"

    with pytest.raises(UsageError, match=str(Path(__file__).parent / "no_such_folder")):
        _build(Relative, tmp_path)


def test_array_record(tmp_path: Path) -> None:
    source = write_yolo(tmp_path / "source", PICTURES)
    made = DeclaredYolo(data_dir=tmp_path / "out", file_format="array_record")
    made.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=source))
    assert len(made.as_data_source(split="train")) == 7
    assert list(made.data_path.glob("*.array_record-*")) and not list(made.data_path.glob("*.tfrecord-*"))
    sources = tfds.data_source("declared_yolo", data_dir=tmp_path / "out")
    assert sum(len(source) for source in sources.values()) == 8
    assert sources["train"][3]["image"].ndim == 3


def test_pickled_builders_open_what_is_prepared(tmp_path: Path) -> None:
    source = write_mot(tmp_path / "source", FRAMES)
    made = _build(DeclaredVariants, tmp_path / "out", source, "gap2")
    copy = pickle.loads(pickle.dumps(made))
    assert copy.data_dir == made.data_dir
    assert copy.info.splits.total_num_examples == made.info.splits.total_num_examples == 4


def test_refused_data_leaves_nothing(tmp_path: Path) -> None:
    class Strict(DeclaredYolo, skip_registration=True):
        ON_FINDING = "fail"

    source = write_yolo(tmp_path / "source", PICTURES)
    write(source / "labels" / f"{PICTURES[0].name}.txt", "7 0.5 0.5 0.1 0.1\n")
    with pytest.raises(RefusedError):
        _build(Strict, tmp_path / "out", source)
    assert not (tmp_path / "out" / "strict").exists()
    assert not Strict(data_dir=tmp_path / "out").is_prepared()


def test_what_our_job_does_not_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="max_examples_per_split"):
        _build(DeclaredYolo, tmp_path / "out", write_yolo(tmp_path / "source", PICTURES), max_examples_per_split=1)


def test_the_number_of_shards_can_be_given(tmp_path: Path) -> None:
    made = _build(DeclaredYolo, tmp_path / "out", write_yolo(tmp_path / "source", PICTURES), num_shards=3)
    assert made.info.splits["train"].num_shards == 3


def test_beam_settings_become_ours() -> None:
    from apache_beam.options.pipeline_options import PipelineOptions

    default = tfds.download.DownloadConfig()
    assert (_running(default).runner, _running(default).arguments) == ("FnApiRunner", ())
    flags = ["--runner=PortableRunner", "--job_endpoint=localhost:8098", "--direct_num_workers=2", "--streaming"]
    running = _running(tfds.download.DownloadConfig(beam_options=PipelineOptions(flags)))
    assert running.runner == "PortableRunner"
    assert sorted(running.arguments) == ["--direct_num_workers=2", "--job_endpoint=localhost:8098", "--streaming"]
    assert _running(tfds.download.DownloadConfig(beam_runner="FlinkRunner")).runner == "FlinkRunner"


def test_a_runner_of_the_user_runs(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "source", PICTURES)
    usual = _build(DeclaredCoco, tmp_path / "usual", source)
    from apache_beam.options.pipeline_options import PipelineOptions

    options = PipelineOptions(["--direct_num_workers=2", "--direct_running_mode=multi_processing"])
    other = _build(DeclaredCoco, tmp_path / "other", source, beam_options=options)
    assert _files(Path(other.data_dir)) == _files(Path(usual.data_dir))


@pytest.mark.parametrize("name", ["yolo", "coco", "voc", "mot"])
def test_the_ready_made_builder_recognises(tmp_path: Path, name: FormatName) -> None:
    write_it: Mapping[str, Writer] = {"yolo": write_yolo, "coco": write_coco, "voc": write_voc, "mot": write_mot}
    source = write_it[name](tmp_path / "source", PICTURES)
    settings = {"download_config": tfds.download.DownloadConfig(manual_dir=source)}
    loaded = tfds.load("annotated_images", data_dir=tmp_path / "out", download_and_prepare_kwargs=settings)
    assert sum(len(split) for split in loaded.values()) == 8
    manifest = PreparedDataset(tmp_path / "out" / "annotated_images" / "1.0.0").manifest
    assert manifest["options"]["format"] == name
