"""Backbones from checkpoints in the layouts of the published ones, against the libraries and against a plain BEiT."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import DeiTForImageClassificationWithTeacher

from dataflow.bridge.resize import KeepSize
from dataflow.bridge.view import View
from dataflow.errors import UsageError
from dataflow.records import Categories
from tests.trainers.published_backbones import (
    DEPTH,
    DIT_BASE,
    XL_TRANSFORMER,
    XL_VAE,
    make_published_deit,
    make_published_dit,
    small_resnet,
    write_json,
    write_pipeline,
)
from tests.trainers.small_backbones import BEIT, DIT, KINDS, VAE, randomise
from tests.trainers.small_sets import squares, write_dataset
from trainers.detectors import checkpoints
from trainers.detectors.backbones import BackboneKind, DiffusionBackbone, HuggingFaceBackbone, TimmBackbone
from trainers.detectors.dense import DenseDetector, DenseDetectorConfig, build_dense
from trainers.detectors.stems import stem_of, widen_stem
from trainers.prediction.prediction import predict
from trainers.recipes.dense import dense_deit, dense_diffusion_dit, dense_document_dit
from trainers.training.runs import load_run, read_description
from trainers.training.training import train

CATEGORIES = Categories(("person", "car"))


def beit_by_hand(t: dict[str, Tensor], pixels: Tensor, heads: int) -> Tensor:
    """BEiT (Bao et al. 2022) on images (1, 3, 224, 224), from the published tensors, as a map."""

    def layer(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, t[f"{name}.weight"], t.get(f"{name}.bias"))

    def norm(name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], 1e-12)

    stem = "beit.embeddings.patch_embeddings.projection"
    patches = functional.conv2d(pixels, t[f"{stem}.weight"], t[f"{stem}.bias"], stride=16)
    x = torch.cat([t["beit.embeddings.cls_token"], patches.flatten(2).transpose(1, 2)], dim=1)
    x = x + t["beit.embeddings.position_embeddings"]
    for i in range(DEPTH):
        at = f"beit.encoder.layer.{i}"
        y = norm(f"{at}.layernorm_before", x)
        q, k, v = (
            layer(f"{at}.attention.attention.{part}", y).unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        mixed = ((q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5).softmax(-1) @ v
        mixed = layer(f"{at}.attention.output.dense", mixed.transpose(1, 2).flatten(2))
        x = x + t[f"{at}.lambda_1"] * mixed
        y = functional.gelu(layer(f"{at}.intermediate.dense", norm(f"{at}.layernorm_after", x)))
        x = x + t[f"{at}.lambda_2"] * layer(f"{at}.output.dense", y)
    return x[:, 1:].transpose(1, 2).unflatten(-1, patches.shape[2:])


def config_of(kind: BackboneKind, **changes) -> Callable[[], DenseDetectorConfig]:
    return lambda: DenseDetectorConfig(body=kind, pyramid_channels=32, head_convolutions=1, **changes)


def check_report(model: DenseDetector, report, left_over: set[str]) -> None:
    assert set(report.loaded) | set(report.reinitialised) == set(model.state_dict())
    parameters = {name for name, _ in model.named_parameters() if name.startswith("backbone.")}
    assert parameters <= set(report.loaded)
    assert not any(name in parameters for name in report.reinitialised)
    assert {name.split(".")[0] for name in report.reinitialised} >= {"pyramid", "head"}
    assert {name for name in left_over if any(each.startswith(name) for each in report.left_over)} == left_over
    assert report.identity.startswith("sha256:")


def test_the_document_image_transformer(tmp_path: Path):
    make_published_dit(tmp_path)
    model, report = build_dense(CATEGORIES, str(tmp_path), config_of(HuggingFaceBackbone(BEIT)))
    check_report(model, report, {"lm_head.weight", "lm_head.bias", "layernorm.weight", "layernorm.bias"})
    assert len(report.left_over) == 4
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = beit_by_hand(load_file(tmp_path / "model.safetensors"), pixels, 12)
        torch.testing.assert_close(model.eval().backbone.body(pixels)[0], expected, rtol=1e-3, atol=1e-4)
    assert str(report).startswith(f"weights: {len(report.loaded)} tensors loaded from {tmp_path}; ")


def test_deit_as_hugging_face_publishes_it(tmp_path: Path):
    make_published_deit(tmp_path)
    model, report = build_dense(CATEGORIES, str(tmp_path), config_of(KINDS["deit"]))
    check_report(model, report, {"cls_classifier", "distillation_classifier", "norm"})
    whole = DeiTForImageClassificationWithTeacher.from_pretrained(tmp_path).eval()
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        tokens = whole.deit(pixels, output_hidden_states=True).hidden_states[-1][:, 2:]
        expected = tokens.transpose(1, 2).unflatten(-1, (14, 14))
        torch.testing.assert_close(model.eval().backbone.body(pixels)[0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_deit_as_timm_publishes_it(tmp_path: Path, file: str):
    name = "deit_base_distilled_patch16_224"
    whole = timm.create_model(name, pretrained=False, depth=DEPTH).eval()
    randomise(whole)
    state = whole.state_dict()
    assert {"dist_token", "pos_embed", "blocks.1.attn.qkv.weight", "head_dist.weight", "norm.bias"} <= set(state)
    assert state["pos_embed"].shape == (1, 198, 768)
    if file.endswith("safetensors"):
        save_file(state, tmp_path / file)
    else:
        torch.save(state, tmp_path / file)
    write_json(
        tmp_path / "config.json",
        {"architecture": name, "num_classes": 1000, "num_features": 768, "global_pool": "token",
         "model_args": {"depth": DEPTH}, "pretrained_cfg": {"tag": "fb_in1k"}},
    )  # fmt: skip
    model, report = build_dense(CATEGORIES, str(tmp_path), config_of(KINDS["deit"]))
    check_report(model, report, {"head.weight", "head_dist.bias", "norm.weight"})
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        (expected,) = whole.forward_intermediates(pixels, indices=1, norm=False, intermediates_only=True)
        torch.testing.assert_close(model.eval().backbone.body(pixels)[0], expected, rtol=1e-3, atol=1e-3)


def test_the_diffusion_transformer(tmp_path: Path):
    """facebook/DiT-XL-2-256 and its autoencoder."""
    write_pipeline(tmp_path, XL_TRANSFORMER, XL_VAE, old_names=True)
    old = torch.load(tmp_path / "vae" / "diffusion_pytorch_model.bin", weights_only=True)
    assert old["encoder.mid_block.attentions.0.query.weight"].shape == (512, 512)
    stored = torch.load(tmp_path / "transformer" / "diffusion_pytorch_model.bin", weights_only=True)
    label = "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
    assert stored[label].shape == (1001, 1152)
    assert stored["transformer_blocks.1.norm1.linear.weight"].shape == (6912, 1152)
    assert stored["proj_out_2.weight"].shape == (32, 1152)
    model, report = build_dense(CATEGORIES, str(tmp_path), config_of(DiffusionBackbone(DIT, VAE, block=1, timestep=80)))
    check_report(
        model,
        report,
        {"transformer.transformer_blocks.1", "transformer.proj_out_2", "vae.decoder", "vae.post_quant_conv"},
    )
    loaded = model.state_dict()
    assert torch.equal(loaded[f"backbone.body.transformer.{label}"], stored[label])
    attention = "encoder.mid_block.attentions.0"
    assert torch.equal(loaded[f"backbone.body.vae.{attention}.to_q.weight"], old[f"{attention}.query.weight"])
    kind = model.config.body
    assert (kind["block"], kind["timestep"], kind["transformer"]["num_attention_heads"]) == (1, 80, 16)
    assert model.backbone.channels == (1152,)
    with torch.no_grad():
        output = model.eval()(torch.randn(1, 3, 32, 64))
    assert bool(output.logits.isfinite().all())


@pytest.mark.parametrize("old_names", [True, False])
def test_a_small_pipeline_gives_the_features_of_its_own_parts(tmp_path: Path, old_names: bool):
    write_pipeline(tmp_path, DIT, VAE, old_names)
    model, report = build_dense(CATEGORIES, str(tmp_path), config_of(KINDS["diffusion"]))
    body = model.eval().backbone.body
    randomised = AutoencoderKL(**VAE).eval()
    randomise(randomised)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = randomised.encode(pixels).latent_dist.mean
        torch.testing.assert_close(body.vae.encode(pixels).latent_dist.mean, expected, rtol=1e-4, atol=1e-5)
    assert "vae.decoder.conv_in.weight" in report.left_over


def test_a_resnet_of_hugging_face_with_its_statistics(tmp_path: Path):
    whole = small_resnet(tmp_path)
    model, report = build_dense(CATEGORIES, str(tmp_path), config_of(KINDS["resnet"]))
    check_report(model, report, {"classifier.1.weight"})
    assert model.config.frozen_batch_norm
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        states = whole.resnet(pixels, output_hidden_states=True).hidden_states[-3:]
        for found, expected in zip(model.train().backbone.body(pixels), states, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inputs", ["image", "stack", "frames"])
def test_published_stems_fit_whatever_is_shown(tmp_path: Path, inputs: str):
    make_published_dit(tmp_path, width=48, hidden=96, vocabulary=10)
    model, report = build_dense(CATEGORIES, str(tmp_path), config_of(HuggingFaceBackbone(BEIT)), view=View(inputs))
    published = load_file(tmp_path / "model.safetensors")["beit.embeddings.patch_embeddings.projection.weight"]
    body = model.backbone.body
    stem = body.state_dict()[stem_of(body)]
    assert torch.equal(stem, widen_stem(published, 6) if inputs == "stack" else published)
    assert f"backbone.body.{stem_of(body)}" in report.loaded


def test_a_detector_trained_from_a_backbone_is_saved_whole_and_starts_others(tmp_path: Path):
    make_published_dit(tmp_path / "dit", width=48, hidden=96, vocabulary=10)
    config = config_of(HuggingFaceBackbone(BEIT))
    model, _ = build_dense(CATEGORIES, str(tmp_path / "dit"), config)
    model.save_pretrained(tmp_path / "run")
    again, report = build_dense(CATEGORIES, str(tmp_path / "run"), config)
    assert report.reinitialised == report.left_over == ()
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def without(name: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        file = directory / "model.safetensors"
        state = {key: tensor for key, tensor in load_file(file).items() if name not in key}
        save_file(state, file, {"format": "pt"})

    return change


def with_nan(directory: Path) -> None:
    file = directory / "model.safetensors"
    state = load_file(file)
    state["beit.encoder.layer.1.layernorm_after.weight"][3] = float("nan")
    save_file(state, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_nan, r"damaged: 1 of its tensors hold values that are not finite, such as .*layernorm_after\.weight"),
        (without("layer.1.attention.attention.query.weight"), r"1 tensors of the backbone are .*q_proj\.weight"),
        (without("encoder"), r"\d+ tensors of the backbone are missing"),
        (lambda d: write_json(d / "config.json", {**DIT_BASE, "hidden_size": 96}), "another shape"),
        (lambda d: (d / "model.safetensors").write_bytes(b"not weights"), "weights of .* cannot be read"),
        (lambda d: (d / "model.safetensors").unlink(), "weights of .* cannot be read"),
        (lambda d: (d / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda d: (d / "config.json").unlink(), "neither config.json nor model_index.json"),
        (
            lambda d: write_json(d / "config.json", {"model_type": "bert"}),
            r"of transformers \(bert\), the recipe's backbone is of transformers \(beit\)",
        ),
        (lambda d: write_json(d / "config.json", {"architecture": "resnet18"}), r"of timm \(resnet\), the recipe's"),
        (lambda d: write_json(d / "config.json", {"hello": 1}), "neither model_type nor architecture"),
    ],
)  # fmt: skip
def test_a_backbone_that_does_not_load_stops_the_run(tmp_path: Path, change, message: str):
    make_published_dit(tmp_path, width=48, hidden=96, vocabulary=10)
    change(tmp_path)
    with pytest.raises(UsageError, match=message) as error:
        build_dense(CATEGORIES, str(tmp_path), config_of(HuggingFaceBackbone(BEIT)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("resnet18", r"checkpoint of timm \(resnet\), the recipe's backbone is of timm \(vision_transformer\)"),
        ("deit_enormous", "timm has no model 'deit_enormous'"),
    ],
)
def test_a_model_of_timm_of_another_family_is_refused(tmp_path: Path, architecture: str, message: str):
    """Its configuration would take the place of the recipe's, so that all of its tensors would fit."""
    save_file(
        timm.create_model("resnet18", **KINDS["timm resnet"].options).state_dict(), tmp_path / "model.safetensors"
    )
    arguments = {name: list(value) for name, value in KINDS["timm resnet"].options.items()}
    write_json(tmp_path / "config.json", {"architecture": architecture, "model_args": arguments})
    with pytest.raises(UsageError, match=message):
        build_dense(CATEGORIES, str(tmp_path), config_of(KINDS["deit"]))
    if architecture == "resnet18":
        _, report = build_dense(CATEGORIES, str(tmp_path), config_of(KINDS["timm resnet"]))
        assert "left over (fc.bias, fc.weight)" in str(report)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_deit_and_other_plain_vision_transformers_of_timm_are_one_family(tmp_path: Path, name: str):
    arguments = {"depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 64}
    save_file(timm.create_model(name, **arguments).state_dict(), tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", {"architecture": name, "model_args": arguments})
    model, report = build_dense(CATEGORIES, str(tmp_path), config_of(KINDS["deit"]))
    check_report(model, report, {"head.weight", "norm.weight"})
    assert model.config.body["name"] == name


def test_layers_that_the_configuration_leaves_out_are_said_to_be_left_over(tmp_path: Path):
    make_published_dit(tmp_path, width=48, hidden=96, vocabulary=10)
    less = {**DIT_BASE, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1}
    write_json(tmp_path / "config.json", less)
    _, report = build_dense(CATEGORIES, str(tmp_path), config_of(HuggingFaceBackbone(BEIT)))
    assert str(report).endswith("left over (beit.layers.{1}, layernorm, lm_head)")


def test_a_resnet_without_statistics_is_refused(tmp_path: Path):
    small_resnet(tmp_path)
    without("running_mean")(tmp_path)
    with pytest.raises(UsageError, match=r"tensors of the backbone are missing .*running_mean"):
        build_dense(CATEGORIES, str(tmp_path), config_of(KINDS["resnet"]))


def test_a_pipeline_without_its_encoder_is_refused(tmp_path: Path):
    write_pipeline(tmp_path, DIT, VAE, old_names=False)
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if not n.startswith("encoder.mid")}, file, {"format": "pt"})
    with pytest.raises(UsageError, match=r"tensors of the backbone are missing|weights of .* cannot be read"):
        build_dense(CATEGORIES, str(tmp_path), config_of(KINDS["diffusion"]))


def test_weights_of_a_backbone_want_a_recipe_with_one(tmp_path: Path):
    write_json(tmp_path / "config.json", {"architecture": "resnet18"})
    with pytest.raises(UsageError, match="whose backbone is a network of its own; choose a recipe"):
        build_dense(CATEGORIES, str(tmp_path))


def test_a_hub_name_without_a_network_says_how_to_do_without(monkeypatch: pytest.MonkeyPatch):
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(checkpoints.HfApi, "model_info", unreachable)
    with pytest.raises(UsageError, match=r"hub cannot be reached; download it .*pass --weights DIR"):
        build_dense(CATEGORIES, "microsoft/not-in-any-cache", config_of(HuggingFaceBackbone(BEIT)))


def test_timm_models_by_name():
    kind = TimmBackbone("resnet18", {"channels": (16, 16, 32, 32)})
    model, report = build_dense(CATEGORIES, None, config_of(kind))
    assert str(report) == "weights: random throughout"
    assert model.backbone.channels == (16, 32, 32)
    assert not model.config.frozen_batch_norm


def small_published_dit(directory: Path) -> None:
    make_published_dit(directory, width=48, hidden=96, vocabulary=10)


@pytest.mark.parametrize(
    ("publish", "make", "config", "channels"),
    [
        (small_published_dit, dense_document_dit, HuggingFaceBackbone(BEIT), 48),
        (make_published_deit, dense_deit, KINDS["deit"], 768),
        (
            partial(write_pipeline, transformer=DIT, vae=VAE, old_names=True),
            dense_diffusion_dit,
            KINDS["diffusion"],
            32,
        ),
    ],
    ids=["document", "deit", "diffusion"],
)
def test_training_from_a_published_backbone_keeps_what_it_started_from_and_predicts(
    publish, make, config, channels: int, tmp_path: Path
):
    publish(tmp_path / "published")
    dataset = write_dataset(tmp_path, {"train": list(squares(6)), "validation": list(squares(3))})
    recipe = replace(
        make(),
        build=partial(build_dense, config=config_of(config)),
        resize=KeepSize(),
        batch_size=2,
        steps=2,
        warm_up_steps=1,
        weights=str(tmp_path / "published"),
    )
    summary = train(dataset, recipe, tmp_path / "run")
    assert re.match(r"weights: \d+ tensors loaded from ", summary.load_report)
    assert read_description(tmp_path / "run")["weights_identity"].startswith("sha256:")
    run = load_run(tmp_path / "run")
    assert run.mean == recipe.mean
    assert run.model.backbone.channels == (channels,)
    assert predict(dataset, tmp_path / "run", tmp_path / "out").images == 3
