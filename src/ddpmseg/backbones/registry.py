"""The registry of backbones: one line per family; installed packages add theirs."""

from ddpmseg.backbones.settings import BackboneConfig
from ddpmseg.registry import Registry

BACKBONES = Registry(
    "backbone",
    BackboneConfig,
    {
        "guided_diffusion": "ddpmseg.backbones.guided_diffusion.settings:GuidedDiffusionConfig",
        "diffusers": "ddpmseg.backbones.diffusers.settings:DiffusersConfig",
        "swav": "ddpmseg.backbones.swav.settings:SwavConfig",
        "mae": "ddpmseg.backbones.mae.settings:MaeConfig",
        "vdvae": "ddpmseg.backbones.vdvae.settings:VdvaeConfig",
        "alae": "ddpmseg.backbones.alae.settings:AlaeConfig",
        "gan_encoder": "ddpmseg.backbones.gan.settings:GanEncoderConfig",
        "gan_inversion": "ddpmseg.backbones.gan.settings:GanInversionConfig",
        "timm": "ddpmseg.backbones.timm.settings:TimmConfig",
        "pixels": "ddpmseg.backbones.pixels.settings:PixelsConfig",
    },
)
"""Files in `conf/backbone/` refer to the family NAME by the schema `NAME_schema`."""
