"""The Diffusion Transformer (Peebles & Xie 2023) of diffusers as a backbone."""

import contextlib
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel
from torch import Tensor

from dataflow.errors import UsageError
from trainers.detectors.backbones import Body, DiffusionBackbone

_NOISE_SEED = 0
_LINEAR = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


class DiffusionBody(Body):
    """See `DiffusionBackbone`.

    Images are encoded to the mode of their latents, which need not be square, and noise of the timestep is added: fresh
    while training, always the same when evaluating, and the same for all images at once, so that frames that are the
    same stay so. What comes after the chosen block, and the decoder, is not built.
    """

    def __init__(self, kind: DiffusionBackbone, in_channels: int) -> None:
        super().__init__()
        depth = int(kind.transformer["num_layers"])
        if not 1 <= kind.block <= depth:
            raise UsageError(f"block {kind.block} of {depth}", f"choose a block from 1 to {depth}")
        self.vae = AutoencoderKL.from_config({**kind.vae, "in_channels": in_channels})
        self.vae.decoder = self.vae.post_quant_conv = None
        self.transformer = DiTTransformer2DModel.from_config({**kind.transformer, "num_layers": kind.block})
        self.transformer.proj_out_1 = self.transformer.proj_out_2 = None
        self.timestep, self.trains = kind.timestep, kind.trains
        self.signal, self.noise = _mixture(kind)
        scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.channels = (self.transformer.inner_dim,)
        self.strides = (scale * self.transformer.config.patch_size,)
        self.centre = 0.5  # Patches begin where cells begin.
        self.train()

    def train(self, mode: bool = True) -> "DiffusionBody":
        """Switch to training or evaluation.

        Here it is said which parameters learn, and not once and for all: Hugging Face's loader makes them anew, forgets
        it, and ends with this.
        """
        super().train(mode)
        self.vae.requires_grad_(self.trains == "everything")
        self.transformer.requires_grad_(self.trains != "nothing")
        return self

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """See `Body`."""
        with contextlib.nullcontext() if self.trains == "everything" else torch.no_grad():
            latents = self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor
        with torch.no_grad() if self.trains == "nothing" else contextlib.nullcontext():
            return [self._tokens(self.signal * latents + self.noise * self._draw(latents))]

    def _draw(self, latents: Tensor) -> Tensor:
        """Noise (1, C, h, w)."""
        shape = (1, *latents.shape[1:])
        if self.training:
            return torch.randn(shape, device=latents.device, dtype=latents.dtype)
        return torch.randn(shape, generator=torch.Generator().manual_seed(_NOISE_SEED)).to(latents)

    def _tokens(self, noisy: Tensor) -> Tensor:
        """The map (B, inner_dim, h / patch, w / patch) of the tokens of latents (B, C, h, w)."""
        patch = self.transformer.config.patch_size
        height, width = noisy.shape[2] // patch, noisy.shape[3] // patch
        times = torch.full((len(noisy),), self.timestep, device=noisy.device)
        nothing = torch.full_like(times, self.transformer.config.num_embeds_ada_norm)  # The class after the last.
        x = self.transformer.pos_embed(noisy)
        for block in self.transformer.transformer_blocks:
            x = block(x, timestep=times, class_labels=nothing)
        tokens: Tensor = x.transpose(1, 2).reshape(len(noisy), -1, height, width)
        return tokens


def _mixture(kind: DiffusionBackbone) -> tuple[float, float]:
    """Shares of signal and noise at the timestep (Ho et al. 2020, equation 4)."""
    with torch.device("cpu"):  # Also where the model around it is being built without memory.
        scheduler = DDIMScheduler(**{**_LINEAR, **kind.scheduler})
    steps = len(scheduler.alphas_cumprod)
    if not 0 <= kind.timestep < steps:
        raise UsageError(f"timestep {kind.timestep}", f"choose one from 0 to {steps - 1}")
    kept = float(scheduler.alphas_cumprod[kind.timestep])
    return kept**0.5, (1 - kept) ** 0.5


def read_weights(path: Path, kind: DiffusionBackbone) -> dict[str, Tensor]:
    """All tensors of a pipeline's transformer and autoencoder, by diffusers' own loader, which knows older names.

    Raises:
        OSError, ValueError: they cannot be read, or do not fit their configuration.
    """
    tensors: dict[str, Tensor] = {}
    for part, model_class in (("transformer", DiTTransformer2DModel), ("vae", AutoencoderKL)):
        model, info = model_class.from_pretrained(
            path,
            subfolder=part,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            use_safetensors=any((path / part).glob("*.safetensors")),  # Else torch reads *.bin, with `weights_only`.
            output_loading_info=True,
        )
        tensors |= {
            f"{part}.{name}": tensor for name, tensor in model.state_dict().items() if name not in info["missing_keys"]
        }
    return tensors
