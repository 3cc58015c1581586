"""Models of the diffusers library at tiny size, written by the library itself."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from golden_fill import filled

from ddpmseg.backbones.diffusers.backbone import DiffusersBackbone

TINY: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 16,
}
"""Four decoder blocks: 0 and 1 of 64 channels at half the image's size, 2 and 3 of 32 at full."""
RESIDUAL: dict[str, Any] = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
}


def tiny_unet(seed: int = 1, **changes: Any) -> UNet2DModel:
    """The library's own network, with reproducible weights."""
    unet = UNet2DModel(**(TINY | changes)).eval()
    unet.load_state_dict(filled(unet.state_dict(), seed))
    return unet


def write_model(folder: Path, seed: int = 1, **changes: Any) -> Path:
    """A DDPM pipeline's folder with `tiny_unet`; returns it."""
    tiny_unet(seed, **changes).save_pretrained(folder / "unet")
    DDPMScheduler().save_pretrained(folder / "scheduler")
    return folder


def tiny_backbone(precision: str = "32", **changes: Any) -> DiffusersBackbone:
    """A backbone for tests of the contract."""
    with TemporaryDirectory() as folder:
        model = write_model(Path(folder), **changes)
        return DiffusersBackbone("tiny_diffusers", str(model), precision)
