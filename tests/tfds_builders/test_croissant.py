"""Croissant metadata, read by mlcroissant, by TFDS's Croissant reader and by an RDF library."""

import hashlib
import json
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlcroissant
import pytest
import rdflib
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builders.croissant_builder import CroissantBuilder

from dataflow.prepared import PreparedDataset
from tests.factories import Picture, Thing, logical_dataset, prepare, write_coco, write_mot
from tfds_builders.croissant import CROISSANT, croissant
from tfds_builders.difference_builder import DifferencesBuilder
from tfds_builders.formats.coco import open_coco
from tfds_builders.formats.mot import open_mot
from tfds_builders.sources.pairing import PairOptions

NAMES = ("car", "bus", "Straßenbahn")
CLASSES = "classes_of_objects_label"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("images")
    source = write_coco(folder / "source", logical_dataset(9, classes=3, crowd=True), NAMES)
    return prepare(open_coco(source), folder / "out", "things")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("pairs")
    frames = [Picture(f"scene/{i:06d}", things=(Thing(0, (5.0 * i, 8, 5.0 * i + 9, 30)),)) for i in range(1, 6)]
    return prepare(open_mot(write_mot(folder / "source", frames), PairOptions(1)), folder / "out", "moved")


@dataclass(frozen=True)
class Read:
    """What mlcroissant makes of a description, and what it has to say about it."""

    dataset: Any
    errors: list[str]
    warnings: list[str]

    @property
    def metadata(self) -> Any:
        return self.dataset.metadata

    def record_set(self, identity: str) -> Any:
        return next(found for found in self.metadata.record_sets if found.id == identity)

    def field(self, identity: str) -> Any:
        fields = [field for records in self.metadata.record_sets for field in records.fields]
        return next(found for field in fields for found in [field, *field.sub_fields] if found.id == identity)

    def rows(self, record_set: str) -> list[dict[str, Any]]:
        decode = {bytes: lambda value: value.decode()}
        return [
            {key.rpartition("/")[2]: decode.get(type(value), lambda v: v)(value) for key, value in row.items()}
            for row in self.dataset.records(record_set)
        ]


def _read(dataset: PreparedDataset, digests: dict[str, str] | None = None) -> Read:
    read = mlcroissant.Dataset(croissant(dataset.builder.info, dataset.manifest, digests))
    issues = read.metadata.ctx.issues
    return Read(read, sorted(map(str, issues.errors)), sorted(map(str, issues.warnings)))


def test_mlcroissant_finds_no_fault(images: PreparedDataset, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "absl"):
        read = _read(images)
    assert not read.errors
    # What the source does not know is left out: the specification recommends it only.
    assert len(read.warnings) == 3
    for warning, name in zip(read.warnings, ("citeAs", "datePublished", "license"), strict=True):
        assert f'{name}" is recommended, but does not exist' in warning
    assert "@context" not in caplog.text  # It warns of a vocabulary that is not the standard one.
    assert read.metadata.name == "things"
    assert read.metadata.version == "1.0.0"
    assert read.metadata.ctx.is_v1_1()


def test_splits_and_classes_can_be_read(images: PreparedDataset) -> None:
    read = _read(images)
    splits = {row["name"]: (row["count"], row["url"]) for row in read.rows("splits")}
    assert splits == {
        "train": (images.splits["train"], "cr:TrainingSplit"),
        "validation": (images.splits["validation"], "cr:ValidationSplit"),
    }
    assert [(row["label"], row["name"], row["source_id"]) for row in read.rows(CLASSES)] == [
        (index, name, 10 * index + 3) for index, name in enumerate(NAMES)
    ]
    assert str(rdflib.SDO.Enumeration) in map(str, read.record_set(CLASSES).data_types)
    assert str(read.record_set("splits").data_types[0]).endswith("croissant/Split")


def test_every_feature_is_a_field(images: PreparedDataset, pairs: PreparedDataset) -> None:
    for dataset in (images, pairs):
        read = _read(dataset)
        assert not read.errors
        features = dataset.builder.info.features
        assert {field.id for field in read.record_set("examples").fields} == {
            "examples/split",
            *(f"examples/{name}" for name in features),
        }
        inner = features["objects"].feature
        assert {field.id for field in read.field("examples/objects").sub_fields} == {
            f"examples/objects/{name}" for name in inner
        }


def test_differences_are_described(pairs: PreparedDataset, tmp_path: Path) -> None:
    made = DifferencesBuilder(pairs, name="differences", out=tmp_path).prepare()
    read = _read(made)
    assert not read.errors
    described = json.loads((made.path / CROISSANT).read_text())
    [examples] = [records for records in described["recordSet"] if records["@id"] == "examples"]
    types = {field["name"]: field.get("dataType") for field in examples["field"]}
    assert types["valid"] == types["after"] == "sc:ImageObject"
    assert (types["alignment_model"], types["alignment_residual"]) == ("sc:Text", "cr:Float32")


def test_types_shapes_and_references(pairs: PreparedDataset) -> None:
    read = _read(pairs)
    types = {
        "image": mlcroissant.DataType.IMAGE_OBJECT,
        "before": mlcroissant.DataType.IMAGE_OBJECT,
        "image/id": mlcroissant.DataType.TEXT,
        "image/height": mlcroissant.DataType.INT64,
        "homography": mlcroissant.DataType.FLOAT64,
        "objects/bbox": mlcroissant.DataType.BOUNDING_BOX,
        "objects/area": mlcroissant.DataType.FLOAT32,
        "objects/is_crowd": mlcroissant.DataType.BOOL,
        "objects/label": mlcroissant.DataType.INT64,
    }
    for name, expected in types.items():
        assert read.field(f"examples/{name}").data_types == [expected], name
    assert read.field("examples/homography").array_shape_tuple == (3, 3)
    assert read.field("examples/objects").array_shape_tuple == (-1,)
    assert read.field("examples/objects/bbox").source.transforms == []
    assert read.field("examples/objects/bbox").source.format == "REL_YXYX"
    assert read.field("examples/objects/label").references.field == f"{CLASSES}/label"
    changes = read.rows("classes_of_objects_change")
    assert [row["name"] for row in changes] == pairs.builder.info.features["objects"].feature["change"].names
    assert read.field("examples/split").references.field == "splits/name"


def test_files_with_known_digests_are_listed(images: PreparedDataset) -> None:
    shards = [shard.path for split in images.splits for shard in images.shards(split)]
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shards}
    read = _read(images, digests)
    assert not read.errors
    assert {file.id: file.sha256 for file in read.metadata.file_objects} == digests
    (files,) = read.metadata.file_sets
    assert sorted(path.name for pattern in files.includes for path in images.path.glob(pattern)) == sorted(digests)


def test_a_split_is_known_by_the_names_of_its_files(images: PreparedDataset) -> None:
    (transform,) = _read(images).field("examples/split").source.transforms
    for split in images.splits:
        for shard in images.shards(split):
            found = re.search(transform.regex, shard.path.name)
            assert found is not None and found[1] == split


def test_tfds_finds_our_features_and_splits_in_it(images: PreparedDataset, tmp_path: Path) -> None:
    path = Path(shutil.copytree(images.path, tmp_path / "copy")) / CROISSANT
    path.write_text(json.dumps(croissant(images.builder.info, images.manifest)))
    builder = CroissantBuilder(jsonld=path, file_format="array_record", data_dir=tmp_path)
    theirs, ours = builder.info.features, images.builder.info.features
    assert {*theirs} == {*ours, "split"}
    assert isinstance(theirs["image"], tfds.features.Image)
    boxes = theirs["objects"].feature["examples/objects/bbox"]
    assert boxes.bbox_format == (ours["objects"].feature["bbox"].bbox_format or boxes.bbox_format)
    # Records themselves it cannot read: mlcroissant knows neither TFRecord nor ArrayRecord. If this fails, it does now.
    with pytest.raises(mlcroissant.GenerationError, match=r"Read\(shards\)"):
        next(iter(mlcroissant.Dataset(path).records("examples")))


def test_it_is_a_schema_org_dataset_for_any_json_ld_reader(images: PreparedDataset) -> None:
    text = json.dumps(croissant(images.builder.info, images.manifest))
    graph = rdflib.Graph().parse(data=text, format="json-ld")
    (dataset,) = graph.subjects(rdflib.RDF.type, rdflib.SDO.Dataset)
    assert str(graph.value(dataset, rdflib.SDO.name)) == "things"
    conforms = graph.value(dataset, rdflib.URIRef("http://purl.org/dc/terms/conformsTo"))
    assert str(conforms) == "http://mlcommons.org/croissant/1.1"
    own = rdflib.Namespace("http://mlcommons.org/croissant/")
    assert len(list(graph.objects(dataset, own.recordSet))) == 3
    assert len(list(graph.subjects(rdflib.RDF.type, own.FileSet))) == 1
    # No name of the vocabulary fell back to schema.org, which has no such words.
    used = {str(predicate) for predicate in graph.predicates()}
    words = ("field", "recordSet", "dataType", "source", "isArray", "references")
    assert not {f"https://schema.org/{word}" for word in words} & used


def test_licence_homepage_and_citation_are_passed_on(images: PreparedDataset, tmp_path: Path) -> None:
    info = tfds.core.DatasetInfo(
        builder=images.builder,
        description="Things.",
        features=images.builder.info.features,
        license="https://creativecommons.org/publicdomain/zero/1.0/",
        homepage="https://example.org/things",
        citation="@misc{things}",
    )
    info.set_file_format("array_record")
    path = tmp_path / CROISSANT
    path.write_text(json.dumps(croissant(info, images.manifest)))
    metadata = mlcroissant.Dataset(path).metadata
    assert metadata.license == ["https://creativecommons.org/publicdomain/zero/1.0/"]
    assert (metadata.url, metadata.cite_as) == ("https://example.org/things", "@misc{things}")
    assert metadata.file_sets[0].includes == ["things-*.array_record-*-of-*"]
    assert "array_record" in metadata.file_sets[0].encoding_formats[0]


def test_other_split_names_have_no_address(images: PreparedDataset, tmp_path: Path) -> None:
    splits = {"train": {"count": 1}, "night": {"count": 2}}
    path = tmp_path / CROISSANT
    path.write_text(json.dumps(croissant(images.builder.info, {"splits": splits})))
    read = mlcroissant.Dataset(path)
    assert not read.metadata.ctx.issues.errors
    assert [set(row) for row in read.records("splits")] == [{"splits/name", "splits/count"}] * 2


def test_a_build_leaves_it_beside_the_shards(pairs: PreparedDataset) -> None:
    # As JSON has it: without tuples.
    expected = json.loads(json.dumps(croissant(pairs.builder.info, pairs.manifest)))
    assert json.loads((pairs.path / CROISSANT).read_text(encoding="utf-8")) == expected


def test_the_same_dataset_has_the_same_description(images: PreparedDataset) -> None:
    first = json.dumps(croissant(images.builder.info, images.manifest))
    assert first == json.dumps(croissant(tfds.builder_from_directory(images.path).info, images.manifest))
