"""Any unconditional `UNet2DModel` of the diffusers library, read out at its decoder blocks."""

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddpmseg.backbones.base import Backbone, Hook
from ddpmseg.backbones.compiled import Compiled
from ddpmseg.backbones.diffusers.layers import resample, run_middle, run_stage
from ddpmseg.backbones.diffusers.unet2d import (
    UNet2D,
    build_unet2d,
    check_unet,
    decoder_specs,
    decoder_stages,
    encoder_stages,
    load_unet2d,
    use_half,
)
from ddpmseg.backbones.group_norm import use_native_norms
from ddpmseg.backbones.noise_schedule import NoiseSchedule, named_schedule, read_schedule
from ddpmseg.backbones.precision import dtype_of
from ddpmseg.download.fetch import checked_sha256
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.weights.model_folder import ModelFolder, find_model, read_json


class DiffusersBackbone(Backbone):
    """A UNet2DModel with pretrained weights, or with random ones as a control.

    Args:
        name: shown in tables and messages.
        checkpoint: a folder written by `save_pretrained`, of the network or of a DDPM pipeline, or
            a model of the Hugging Face hub, 'OWNER/NAME'.
        precision: precision of the convolutions, a key of `PRECISIONS`.
        noise_schedule: one of `noise_schedule.CHOICES`; None: that of scheduler_config.json.
        untrained: use random weights; the file of weights need not exist.
        seed: draws the weights of an untrained network.
        compile: run the pass through torch.compile, see `Compiled`.
        download: fetch a model of the hub that is not in the cache.

    Raises CheckpointError for a model that is missing, damaged or of another kind, ConfigError for
    an unknown noise schedule, DownloadError if fetching fails.
    """

    def __init__(
        self,
        name: str,
        checkpoint: str,
        precision: str = "32",
        noise_schedule: str | None = None,
        untrained: bool = False,
        seed: int = 0,
        compile: bool = False,
        download: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.seed = name, seed
        # What 'auto' means depends on the device, so the caller decides; '32' is right on any.
        self.dtype = dtype_of(precision)
        model = find_model(checkpoint, download, weights=not untrained)
        self.schedule = _schedule(model, noise_schedule)
        self.num_timesteps = self.schedule.num_timesteps
        config = read_json(model.config)
        check_unet(config, model.config)
        self.unet: UNet2D
        if untrained:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.unet = build_unet2d(config, model.config)
        else:
            self.checkpoint_sha256 = checked_sha256(model.weights, None, CheckpointError)
            self.unet = load_unet2d(config, model.config, model.weights)
        self.blocks = decoder_specs(self.unet)
        self.image_size = self._image_size()
        self._encoder, self._decoder = encoder_stages(self.unet), decoder_stages(self.unet)
        self._signal: Tensor
        self._noise: Tensor
        alphas = torch.from_numpy(self.schedule.alphas_cumprod())
        self.register_buffer("_signal", alphas.sqrt().float(), persistent=False)
        self.register_buffer("_noise", (1 - alphas).sqrt().float(), persistent=False)
        use_half(self.unet, self.dtype)
        self.unet.to(memory_format=torch.channels_last)
        use_native_norms(self.unet)
        self.freeze()
        self.compiled = compile
        self._run = Compiled(self._pass) if compile else self._pass

    def identity(self) -> dict[str, Any]:
        config = {key: v for key, v in self.unet.config.items() if not key.startswith("_")}
        noise = asdict(self.schedule)
        return self.identity_with("diffusers", self.seed, unet=config, noise=noise)

    def add_noise(
        self,
        images: Float[Tensor, "n 3 h w"],
        timesteps: Int[Tensor, " n"],
        noise: Float[Tensor, "n 3 h w"],
    ) -> Float[Tensor, "n 3 h w"]:
        signal, sigma = self._signal[timesteps], self._noise[timesteps]
        return signal[:, None, None, None] * images + sigma[:, None, None, None] * noise

    @torch.inference_mode()
    def native_maps(
        self,
        images: Float[Tensor, "n 3 h w"],
        timesteps: Int[Tensor, " n"],
        blocks: Collection[int],
        hook: Hook = "output",
    ) -> dict[int, Float[Tensor, "n _ _ _"]]:
        """See `Backbone.native_maps`. Layers run in the order of the library's `UNet2DModel`."""
        self.check_sides(images, self.blocks[0].input_stride)
        x_t = images.to(self.dtype, memory_format=torch.channels_last)
        return self._run(x_t, timesteps, frozenset(blocks), hook)

    def _pass(
        self, x_t: Tensor, timesteps: Tensor, blocks: frozenset[int], hook: Hook
    ) -> dict[int, Tensor]:
        """Maps of `blocks`; stops at the last of them."""
        unet, deepest = self.unet, max(blocks)
        embedding = unet.time_embedding(unet.time_proj(timesteps))
        h = unet.conv_in(x_t)
        skips, maps = [h], {}
        for stage in self._encoder:
            h = run_stage(stage, h, embedding)
            skips.append(h)
            if stage.resample is not None:
                h = resample(stage.resample, h, embedding)
                skips.append(h)
        h = run_middle(unet.mid_block, h, embedding)
        for index, stage in enumerate(self._decoder[: deepest + 1]):
            h = torch.cat([h, skips.pop()], dim=1)
            if hook == "input" and index in blocks:
                maps[index] = h
                if index == deepest:
                    break
            h = run_stage(stage, h, embedding)
            if stage.resample is not None:
                h = resample(stage.resample, h, embedding)
            if hook == "output" and index in blocks:
                maps[index] = h
        return maps

    def _image_size(self) -> int:
        """Side of the training images, or any valid side if the configuration has none."""
        size = self.unet.config.sample_size
        size = size[0] if isinstance(size, list | tuple) else size
        return int(size) if size else 8 * self.blocks[0].input_stride


def _schedule(model: ModelFolder, choice: str | None) -> NoiseSchedule:
    if choice is not None:
        return named_schedule(choice)
    if model.scheduler is None:
        raise ConfigError(
            f"'{model.config.parent}' comes without scheduler_config.json, so the noise of its "
            "timesteps is unknown. Set `backbone.noise_schedule` to that of its training "
            "(linear, scaled_linear or squaredcos_cap_v2, of 1000 steps), or put the file into a "
            "folder scheduler/ beside the network's."
        )
    return read_schedule(read_json(model.scheduler), f"'{model.scheduler}'")
