"""The settings of a UNet2DModel of diffusers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from ddpmseg.backbones.settings import BackboneConfig, check_precision

if TYPE_CHECKING:
    import torch

    from ddpmseg.backbones.base import Backbone


@dataclass
class DiffusersConfig(BackboneConfig):
    """Any unconditional UNet2DModel of the diffusers library."""

    _target_: str = "ddpmseg.backbones.diffusers.DiffusersBackbone"
    checkpoint: str = MISSING
    """A folder written by `save_pretrained`, of the network or of a DDPM pipeline, or a model of
    the Hugging Face hub, OWNER/NAME."""
    noise_schedule: str | None = None
    """'linear', 'scaled_linear' or 'squaredcos_cap_v2', each of 1000 steps; null: that of the
    checkpoint's scheduler_config.json."""
    untrained: bool = False
    """Use random weights, as a control; only config.json of the checkpoint is read."""
    seed: int = 0
    """Draws the weights of an untrained network."""
    precision: str = "auto"
    compile: bool = False
    """As for guided_diffusion, like `precision`."""
    download: bool = False
    """Fetch a model of the hub that is not in the hub's cache."""

    def build(self, device: "torch.device") -> "Backbone":
        return self.construct(precision=self.precision_on(device)).to(device)

    def precision_on(self, device: "torch.device") -> str:
        from ddpmseg.backbones.precision import choose_precision

        return choose_precision(self.precision, device, self.fits_float16)

    def as_untrained(self) -> BackboneConfig:
        return replace(self, untrained=True)

    def check(self) -> None:
        check_precision(self.precision)

    def check_files(self) -> None:
        if not self.download:
            self.weight_file()  # its small files have been read already

    def weight_file(self) -> Path | None:
        from ddpmseg.weights.model_folder import find_model

        return None if self.untrained else find_model(self.checkpoint, self.download).weights
