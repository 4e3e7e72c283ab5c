"""Checkpoints of the layouts that are published, through the code that loads the published ones."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dataflow.bridge.view import View
from dataflow.errors import UsageError
from dataflow.records import Categories
from tests.trainers.published_layouts import write_d_fine, write_rt_detr_v2
from tests.trainers.small_detrs import CATEGORIES, labels_of, pictures
from trainers.detectors.detr import Architecture, build_detr
from trainers.recipes.detr import d_fine_n, rt_detr_v2_r18

LAYOUTS: dict[Architecture, Callable[[Path], Path]] = {"rt_detr_v2": write_rt_detr_v2, "d_fine": write_d_fine}
COCO = Categories(tuple(f"thing {i}" for i in range(80)))


@pytest.fixture(scope="module", params=LAYOUTS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Architecture, Path]:
    return request.param, LAYOUTS[request.param](tmp_path_factory.mktemp(request.param))


def in_memory(name: str) -> str:
    """The name of a published tensor in transformers 5."""
    name = name.replace("out_proj", "o_proj").replace("encoder.encoder.0.layers", "encoder.aifi.0.layers")
    for number, layer in enumerate(("fc1", "fc2")):
        if f".{layer}." in name:
            name = name.replace(layer, f"mlp.layers.{number}" if "d_fine" in name else f"mlp.{layer}")
    return name


def test_every_tensor_of_the_file_is_loaded(published):
    architecture, directory = published
    model, report = build_detr(COCO, str(directory), architecture=architecture)
    assert report.reinitialised == report.left_over == ()
    stored, state = load_file(directory / "model.safetensors"), model.state_dict()
    assert len(stored) > 300
    assert {str(tuple(v.shape)) for v in stored.values()} == {str(tuple(state[n].shape)) for n in report.loaded}
    by_content = {(tuple(t.shape), t.double().sum().item()) for t in state.values()}
    assert all((tuple(t.shape), t.double().sum().item()) in by_content for t in stored.values())
    for name in ("model.decoder.class_embed.2.weight", "model.decoder.bbox_embed.1.layers.2.bias"):
        assert torch.equal(state[name], stored[name])
        assert torch.equal(state[name.replace("model.decoder.", "")], stored[name])
    qualified = "model.encoder.encoder.0.layers.0.self_attn.out_proj.weight"
    assert torch.equal(state[in_memory(qualified)], stored[qualified])


def test_it_gets_a_class_head_for_the_dataset_and_trains(published):
    architecture, directory = published
    recipe = {"rt_detr_v2": rt_detr_v2_r18(), "d_fine": d_fine_n()}[architecture]
    model, report = recipe.build(CATEGORIES, str(directory), view=View())
    heads = {name.rpartition(".")[0].rpartition("model.")[2] for name in report.reinitialised}
    assert {f"decoder.class_embed.{i}" for i in range(3)} <= heads
    assert heads - {f"decoder.class_embed.{i}" for i in range(3)} - {f"class_embed.{i}" for i in range(3)} == {
        "enc_score_head",
        "denoising_class_embed",
    }
    assert report.left_over == ()
    assert model.config.id2label == {0: "person", 1: "car <b>", 2: "dog"}
    assert model.model.denoising_class_embed.num_embeddings == 4
    pixels, mask = pictures((320, 320))
    output = model.train()(pixel_values=pixels, pixel_mask=mask, labels=labels_of(3))
    output.loss.backward()
    assert output.logits.shape[-1] == 3
    assert bool(output.loss.isfinite())
    backbone = {n: p for n, p in model.named_parameters() if ".backbone." in n}
    assert all(p.requires_grad and p.grad is not None for p in backbone.values())


def test_a_backbone_that_would_not_load_is_refused(published, tmp_path: Path):
    architecture, directory = published
    stored = load_file(directory / "model.safetensors")
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    kept = {k: v for k, v in stored.items() if not k.startswith("model.backbone.model.encoder.stages.2")}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"does not fit: \d+ tensors of the backbone are missing or of another shape"):
        build_detr(CATEGORIES, str(tmp_path), architecture=architecture)
    renamed = {k.replace("backbone.model.", "backbone.net."): v for k, v in stored.items()}
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="tensors of the backbone are missing"):
        build_detr(CATEGORIES, str(tmp_path), architecture=architecture)


def test_a_checkpoint_of_another_architecture_is_refused(published):
    architecture, directory = published
    with pytest.raises(UsageError, match=rf"is a checkpoint of '{architecture}', this recipe builds 'detr'"):
        build_detr(CATEGORIES, str(directory))


def test_labels_that_do_not_fit_the_class_head_start_it_afresh(published, tmp_path: Path):
    """A file whose class head has other outputs than its own configuration says."""
    architecture, directory = published
    config = json.loads((directory / "config.json").read_text())
    config["id2label"] = {"0": "cat", "1": "dog"}
    config["label2id"] = {"cat": 0, "dog": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(directory / "model.safetensors")
    model, report = build_detr(Categories(("cat", "dog")), str(tmp_path), architecture=architecture)
    assert "model.enc_score_head.weight" in report.reinitialised
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
    assert model.model.enc_score_head.weight.abs().max() < 2
