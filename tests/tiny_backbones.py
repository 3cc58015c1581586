"""Tiny backbones of every family, and of every YAML of `conf/backbone/`, for the tests."""

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from golden_fill import FOLDER, filled_backbone
from golden_vdvae import tiny_vdvae
from omegaconf import DictConfig, OmegaConf
from tiny_diffusers import tiny_backbone
from tiny_run import CONF, composed

from ddpmseg.backbones.alae.backbone import AlaeBackbone
from ddpmseg.backbones.base import Backbone
from ddpmseg.backbones.gan.encoder import GanEncoderBackbone
from ddpmseg.backbones.gan.inversion import GanInversionBackbone
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags
from ddpmseg.backbones.mae.backbone import MaeBackbone
from ddpmseg.backbones.settings import BackboneConfig
from ddpmseg.backbones.timm.backbone import TimmBackbone

TINY = UNetFlags(
    image_size=16, num_channels=32, channel_mult="1,2", num_res_blocks=1, attention_resolutions="8"
)
VARIANTS = {
    "plain": TINY,
    "resblock_updown": replace(TINY, resblock_updown=True, use_scale_shift_norm=False),
    "new_attention": replace(TINY, use_new_attention_order=True, num_head_channels=16),
    "head_channels": replace(TINY, num_head_channels=32, attention_resolutions="16,8"),
    "learn_sigma": replace(TINY, learn_sigma=True, dropout=0.3, noise_schedule="cosine"),
    "three_levels": replace(
        TINY, channel_mult="1,1,2", num_res_blocks=2, resblock_updown=True, num_heads_upsample=2
    ),
    "rescaled": replace(TINY, diffusion_steps=4000, rescale_timesteps=True),
}
CONFIGS = sorted(path.stem for path in (CONF / "backbone").glob("*.yaml"))
OF_WEIGHTS = {"defaults", "name", "checkpoint", "url", "sha256", "terms"}


def other_weights_only(name: str) -> bool:
    """Whether a YAML is that of another one's network with weights of its own."""
    settings = OmegaConf.load(CONF / "backbone" / f"{name}.yaml")
    assert isinstance(settings, DictConfig)
    return OF_WEIGHTS.issuperset(settings) and not settings.defaults[0].endswith("_schema")


NETWORKS = [name for name in CONFIGS if not other_weights_only(name)]


SMALL: dict[str, dict[str, object]] = {
    "GuidedDiffusionBackbone": {
        "unet.num_channels": 32,
        "unet.num_head_channels": 32,
        "unet.num_res_blocks": 1,
    },
    "DiffusersBackbone": {"checkpoint": str(FOLDER / "unet2d"), "untrained": True},
    "TimmBackbone": {"name": "test_vit"},
    "SwavBackbone": {"channels": 4},
    "MaeBackbone": {"embed_dim": 32, "depth": 4, "num_heads": 2, "image_size": 64},
    "VdvaeBackbone": {
        "width": 16,
        "zdim": 2,
        "enc_blocks": ["64x1", "64d8", "8d8"],
        "dec_blocks": ["1x2", "8m1", "64m8"],
    },
    "AlaeBackbone": {"channels": 2, "max_channels": 32, "latent_size": 8},
    "GanEncoderBackbone": {"channels": 16, "input_size": 32},
    "GanInversionBackbone": {"channels": 16, "input_size": 32, "size": 16},
}
"""Settings with which a network is small, by its class."""


def of_yaml(name: str) -> Backbone:
    """A backbone from its YAML without its weight file, and smaller."""
    group = composed(None, f"backbone={name}").backbone
    known = {field.name for field in fields(OmegaConf.get_type(group) or BackboneConfig)}
    changes: dict[str, object] = {"checkpoint": "random", "precision": "32"}
    changes |= SMALL.get(group._target_.rpartition(".")[2], {})
    for key, value in changes.items():
        if key.split(".")[0] in known:
            OmegaConf.update(group, key, value)
    settings = OmegaConf.to_object(group)
    assert isinstance(settings, BackboneConfig)
    backbone = settings.build(torch.device("cpu"))
    assert settings.shape().blocks == backbone.blocks
    return backbone


BACKBONES: dict[str, Callable[[], Backbone]] = {
    **{name: lambda flags=flags: filled_backbone(flags) for name, flags in VARIANTS.items()},
    "guided_diffusion bf16": lambda: filled_backbone(TINY, precision="bf16"),
    "guided_diffusion float16": lambda: filled_backbone(TINY, precision="16"),
    "mae bf16": lambda: MaeBackbone("mae", 16, 4, 16, 3, 2, 2.0, "random", precision="bf16"),
    "vdvae": tiny_vdvae,
    "vdvae, sampled": lambda: tiny_vdvae(latents="sampled"),
    "vdvae bf16": lambda: tiny_vdvae(precision="bf16"),
    "alae, smaller images": lambda: AlaeBackbone("alae", 4, 4, 8, 5, 12, "random"),
    "alae bf16": lambda: AlaeBackbone("alae", 3, 4, 8, 5, 16, "random", precision="bf16"),
    "gan_encoder bf16": lambda: GanEncoderBackbone("gan", 16, 32, "random", precision="bf16"),
    "gan_inversion bf16": lambda: GanInversionBackbone("gan", 16, 16, 32, "random", "bf16"),
    "diffusers": tiny_backbone,
    "diffusers bf16": lambda: tiny_backbone("bf16"),
    "timm ResNet": lambda: TimmBackbone("test_resnet", "random", 64),
    "timm ViT": lambda: TimmBackbone("test_vit", "random", 40),
    "timm ViT, larger inputs": lambda: TimmBackbone("test_vit", "random", 32, input_size=80),
    "timm ViT bf16": lambda: TimmBackbone("test_vit", "random", 32, precision="bf16"),
    "timm ConvNeXt": lambda: TimmBackbone("test_convnext", "random", 64),
    **{f"{name}.yaml": lambda name=name: of_yaml(name) for name in NETWORKS},
}
"""A line for each kind: tiny ones of every family, and those of the files."""
