"""Backbones of other libraries: against those libraries, against themselves in other batches, and against the disk."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel
from timm.layers import resample_abs_pos_embed
from torch import nn
from torch.nn import functional
from transformers import BeitModel

from dataflow.errors import UsageError
from tests.trainers.small_backbones import DIT, KINDS, VAE, randomise
from tests.trainers.small_dense import INPUTS, padded, random_labels
from trainers.detectors.backbones import (
    BackboneKind,
    DiffusionBackbone,
    HuggingFaceBackbone,
    OwnSizeBackbone,
    TimmBackbone,
    build_body,
    kind_from_json,
    kind_to_json,
)
from trainers.detectors.dense import DenseDetector, DenseDetectorConfig
from trainers.detectors.detectors import load_trained
from trainers.detectors.huggingface_body import backbone_config
from trainers.detectors.stems import stem_of, widen_stem

each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
_SHOWN = dict(zip(("image", "stack", "pair"), INPUTS, strict=True))
_CASES = [(name, "image") for name in KINDS] + [
    (name, shown) for name in ("deit", "diffusion") for shown in ("stack", "pair")
]
each_kind_and_input = pytest.mark.parametrize(
    ("kind", "inputs"),
    [(KINDS[name], _SHOWN[shown]) for name, shown in _CASES],
    ids=[" ".join(case) for case in _CASES],
)


def make_model(kind: BackboneKind, seed: int = 0, **changes) -> DenseDetector:
    torch.manual_seed(seed)
    shape = {"pyramid_channels": 32, "head_convolutions": 1, "num_labels": 3, "score_threshold": 0.0}
    model = DenseDetector(DenseDetectorConfig(body=kind, **(shape | changes))).eval()
    with torch.no_grad():  # Large enough for differences to show.
        for module in model.head.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(20)
    return model


@each_kind_and_input
def test_padding_changes_neither_detections_nor_loss(kind: BackboneKind, inputs):
    model, channels = make_model(kind, **inputs), inputs["num_channels"]
    torch.manual_seed(1)
    image, larger, labels = torch.randn(channels, 50, 77), torch.randn(channels, 64, 97), random_labels(5)
    with torch.no_grad():
        alone = model(image[None], labels=labels)
        together = model(*padded([image, larger, image], 64, 97))
        in_padding = model(*padded([image], 70, 130), labels=labels)
    for name, value in alone.loss_dict.items():
        torch.testing.assert_close(in_padding.loss_dict[name], value, rtol=1e-3, atol=1e-5)
    want = model.detect(alone)[0]
    assert want.scores.max() - want.scores.min() > 0.001
    for got in (model.detect(together)[0], model.detect(together)[2], model.detect(in_padding)[0]):
        torch.testing.assert_close(got.scores, want.scores, rtol=1e-3, atol=1e-5)
        apart = (got.boxes[:, None] - want.boxes[None]).abs().amax(dim=2)
        assert apart.amin(dim=1).max() < 1e-3


@each_kind_and_input
def test_after_a_step_saved_and_loaded_it_predicts_the_same(kind: BackboneKind, inputs, tmp_path):
    model, channels = make_model(kind, **inputs).train(), inputs["num_channels"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pixels, mask = padded([torch.randn(channels, 40, 70), torch.randn(channels, 64, 64)], 64, 70)
    output = model(pixels, mask, random_labels(3, 1))
    output.loss.backward()
    before_step = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before_step[name])}
    assert any(name.startswith("backbone.") for name in moved)
    model.eval().save_pretrained(tmp_path)
    loaded = load_trained(tmp_path)
    assert kind_from_json(loaded.config.body).__class__ is kind.__class__
    with torch.no_grad():
        before, after = model.detect(model(pixels, mask)), loaded.detect(loaded(pixels, mask))
    for a, b in zip(before, after, strict=True):
        # Convolutions choose by where weights lie in memory how to sum.
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(a.boxes[:20], b.boxes[:20], rtol=1e-3, atol=1e-4)


@each_kind
def test_losses_and_gradients_are_finite_whatever_the_number_of_objects(kind: BackboneKind):
    model = make_model(kind).train()
    stem = model.get_parameter("backbone.body." + stem_of(model.backbone.body))
    for counts in ((0, 0), (1, 0), (3, 100)):
        model.zero_grad()
        output = model(torch.randn(2, 3, 64, 96), labels=random_labels(*counts))
        output.loss.backward()
        assert all(bool(value.isfinite()) for value in output.loss_dict.values())
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
        assert float(stem.grad.abs().sum()) > 0


@each_kind
def test_a_kind_survives_json(kind: BackboneKind):
    assert kind_from_json(kind_to_json(kind)) == kind


@each_kind
def test_a_stem_for_six_channels_gives_of_the_same_image_twice_what_it_gave_of_one(kind: BackboneKind):
    single, stack = build_body(kind, 3).eval(), build_body(kind, 6).eval()
    state, stem = single.state_dict(), stem_of(single)
    assert stem_of(stack) == stem
    stack.load_state_dict({**state, stem: widen_stem(state[stem], 6)})
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for one, two in zip(single(image), stack(torch.cat([image, image], dim=1)), strict=True):
            torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)
            # A stack of two images starts out as the stem's mean of them, not as the first.
            assert (stack(torch.cat([image, -image], dim=1))[0] - single(image)[0]).abs().max() > 1e-3


def test_widening_keeps_the_sum_over_channels_whatever_their_number():
    weight = torch.randn(4, 3, 2, 2)
    for channels in (1, 2, 3, 4, 6, 7):
        wide = widen_stem(weight, channels)
        assert wide.shape == (4, channels, 2, 2)
        torch.testing.assert_close(wide.sum(1), weight[:, : min(channels, 3)].sum(1))


def test_deit_gives_its_last_tokens_without_class_and_distillation_token():
    kind = KINDS["deit"]
    body = build_body(kind, 3).eval()
    randomise(body)
    network = timm.create_model(kind.name, pretrained=False, **kind.options).eval()
    network.load_state_dict({name.removeprefix("network.model."): t for name, t in body.state_dict().items()}, False)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        x = network.patch_embed(image)
        x = torch.cat([network.cls_token.expand(2, -1, -1), network.dist_token.expand(2, -1, -1), x], dim=1)
        x = network.blocks(x + network.pos_embed)
        torch.testing.assert_close(body(image)[0], x[:, 2:].transpose(1, 2).reshape(2, 32, 4, 4))
    assert (body.channels, body.strides, body.centre) == ((32,), (16,), 0.5)


def test_deits_positions_are_interpolated_to_the_input():
    kind = KINDS["deit"]
    body = build_body(kind, 3).eval()
    randomise(body)
    fixed = timm.create_model(kind.name, pretrained=False, **{**kind.options, "img_size": (48, 96)}).eval()
    state = {name.removeprefix("network.model."): tensor for name, tensor in body.state_dict().items()}
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], new_size=[3, 6], num_prefix_tokens=2)
    fixed.load_state_dict(state, strict=False)
    image = torch.randn(1, 3, 48, 96)
    with torch.no_grad():
        tokens = fixed.forward_intermediates(image, indices=1, norm=False, intermediates_only=True)[-1]
        torch.testing.assert_close(body(image)[0], tokens)


@pytest.mark.parametrize("name", ["beit", "beit, relative", "beit, shared"])
@pytest.mark.parametrize("size", [(64, 64), (50, 77)])
def test_beit_gives_its_last_tokens_without_the_class_token(name: str, size):
    body = build_body(KINDS[name], 3).eval()
    randomise(body)
    whole = BeitModel(backbone_config(KINDS[name], 3), add_pooling_layer=False).eval()
    whole.load_state_dict({n.removeprefix("network.beit."): t for n, t in body.state_dict().items()})
    image, sizes = torch.randn(1, 3, *size), torch.tensor([size])
    full = functional.pad(image, (0, -size[1] % 16, 0, -size[0] % 16))
    rows, columns = full.shape[2] // 16, full.shape[3] // 16
    with torch.no_grad():
        tokens = whole(full, output_hidden_states=True).hidden_states[-1][:, 1:]
        (found,) = OwnSizeBackbone(body, frozen_batch_norm=False)(image, sizes)
    torch.testing.assert_close(found, tokens.transpose(1, 2).reshape(1, 32, rows, columns))


@pytest.mark.parametrize("window", [(4, 4), (3, 7)])
def test_beits_relative_positions_are_stretched_over_the_input(window):
    """Between tokens that lie apart by (dy, dx): the table, resized so that the farthest apart keep their values."""
    body = build_body(KINDS["beit, relative"], 3)
    randomise(body)
    layer = body.network.beit.layers[0].relative_position_bias
    table = layer.relative_position_bias_table.detach()[:-3, 0].reshape(7, 7).double().numpy()
    sides = [2 * side - 1 for side in window]
    at = [(np.arange(side) + 0.5) * 7 / side - 0.5 for side in sides]
    rows = np.stack([np.interp(at[0], np.arange(7), column) for column in table.T], axis=1)
    stretched = np.stack([np.interp(at[1], np.arange(7), row) for row in rows])
    bias = layer(window)[0, 0, 1:, 1:].detach().numpy()
    y, x = (each.ravel() for each in np.meshgrid(np.arange(window[0]), np.arange(window[1]), indexing="ij"))
    dy, dx = (each[:, None] - each[None, :] for each in (y, x))
    np.testing.assert_allclose(bias, stretched[dy + window[0] - 1, dx + window[1] - 1], rtol=1e-4, atol=1e-5)


def diffusion_reference(body: nn.Module, latents: torch.Tensor, timestep: int, block: int) -> torch.Tensor:
    """Tokens after a block of diffusers' whole model, by its own `forward`, which takes square latents only."""
    whole = DiTTransformer2DModel.from_config(DIT).eval()
    prefix = "transformer."
    own = {n.removeprefix(prefix): t for n, t in body.state_dict().items() if n.startswith(prefix)}
    whole.load_state_dict(own, strict=False)
    seen = []
    whole.transformer_blocks[block - 1].register_forward_hook(lambda *args: seen.append(args[-1]))
    whole(latents, timestep=torch.tensor([timestep]), class_labels=torch.tensor([10]))
    return seen[0]


def test_diffusion_features_are_those_of_diffusers_model_on_a_noisy_image():
    kind = KINDS["diffusion"]
    body = build_body(kind, 3).eval()
    vae = AutoencoderKL.from_config(VAE).eval()
    vae.load_state_dict(
        {n.removeprefix("vae."): t for n, t in body.state_dict().items() if n.startswith("vae.")}, strict=False
    )
    scheduler = DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", num_train_timesteps=1000)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        latents = vae.encode(image).latent_dist.mean * vae.config.scaling_factor
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        noisy = scheduler.add_noise(latents, noise, torch.tensor([kind.timestep]))
        tokens = diffusion_reference(body, noisy, kind.timestep, kind.block)
        torch.testing.assert_close(body(image)[0], tokens.transpose(1, 2).reshape(1, 32, 4, 4), rtol=1e-4, atol=1e-5)
    assert (body.channels, body.strides, body.centre) == ((32,), (16,), 0.5)


def test_positions_of_latents_that_are_not_square_span_the_same_range():
    """As sines and cosines of x, then of y, both stretched over what the model was trained on (4 x 4 patches)."""
    body = build_body(KINDS["diffusion"], 3).eval()
    embed = body.transformer.pos_embed
    with torch.no_grad():
        embed.proj.weight.zero_()
        embed.proj.bias.zero_()
        found = embed(torch.zeros(1, 4, 6, 16))[0].numpy()
    y, x = (each.ravel() for each in np.meshgrid(np.arange(3) * 4 / 3, np.arange(8) * 4 / 8, indexing="ij"))
    frequencies = 10000 ** -(np.arange(8) / 8)
    parts = [turn(axis[:, None] * frequencies) for axis in (x, y) for turn in (np.sin, np.cos)]
    np.testing.assert_allclose(found, np.concatenate(parts, axis=1), rtol=1e-4, atol=1e-5)


def test_noise_is_the_same_in_evaluation_and_fresh_in_training():
    body, image = build_body(replace(KINDS["diffusion"], timestep=500), 3), torch.randn(2, 3, 32, 64)
    with torch.no_grad():
        torch.manual_seed(1)
        first, again = body.eval()(image)[0], body(image)[0]
        assert torch.equal(first, again)
        torch.testing.assert_close(body(image[1:])[0], first[1:], rtol=1e-4, atol=1e-5)
        fresh, other = body.train()(image)[0], body(image)[0]
        assert (fresh - other).abs().max() > 0.01
        twins = body(torch.cat([image[:1], image[:1]]))[0]
        torch.testing.assert_close(twins[0], twins[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("trains", "parts"),
    [("nothing", set()), ("transformer", {"transformer"}), ("everything", {"transformer", "vae"})],
)
def test_of_a_diffusion_model_learns_what_is_said(trains, parts, tmp_path):
    model = make_model(replace(KINDS["diffusion"], trains=trains))
    model.save_pretrained(tmp_path)
    for each in (model, DenseDetector.from_pretrained(tmp_path)):
        each.train()(torch.randn(1, 3, 64, 64), labels=random_labels(3)).loss.backward()
        learn = {name.split(".")[2] for name, p in each.named_parameters() if p.grad is not None and ".body." in name}
        asked = {name.split(".")[2] for name, p in each.named_parameters() if p.requires_grad and ".body." in name}
        assert learn == asked == parts


@pytest.mark.parametrize("name", ["timm resnet", "resnet"])
def test_frozen_batch_norm_keeps_its_statistics_and_trains_its_weights(name: str):
    for frozen in (True, False):
        model = make_model(KINDS[name], frozen_batch_norm=frozen).train()
        before = {n: b.clone() for n, b in model.named_buffers() if "running_" in n}
        model(torch.randn(2, 3, 64, 64), labels=random_labels(3, 1)).loss.backward()
        same = [torch.equal(buffer, before[n]) for n, buffer in model.named_buffers() if n in before]
        assert same
        assert all(same) if frozen else not any(same)
        norm = next(m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d))
        assert float(norm.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (TimmBackbone("resnet1"), "timm has no model 'resnet1'"),
        (TimmBackbone("resnet18", {"output_stride": 8}), r"maps of strides \[2, 4, 8\]; choose a model with maps"),
        (HuggingFaceBackbone({"model_type": "bert"}), "transformers has no backbone of 'bert'"),
        (HuggingFaceBackbone({"model_type": "nothing"}), "transformers has no model 'nothing'"),
        (DiffusionBackbone(DIT, VAE, block=4), "block 4 of 3; choose a block from 1 to 3"),
        (DiffusionBackbone(DIT, VAE, block=1, timestep=1000), "timestep 1000; choose one from 0 to 999"),
    ],
)
def test_what_cannot_be_built_is_said(kind: BackboneKind, message: str):
    with pytest.raises(UsageError, match=message):
        build_body(kind, 3)


def test_an_unknown_library_lists_the_alternatives():
    with pytest.raises(UsageError, match="library 'keras'; choose among timm, transformers, diffusers"):
        kind_from_json({"library": "keras"})
