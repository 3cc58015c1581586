"""Every backbone keeps its contract, and the checker catches each way to break it."""

from collections.abc import Callable, Collection

import pytest
import torch
from golden_fill import filled_backbone
from golden_vdvae import tiny_vdvae
from tiny_diffusers import tiny_backbone
from tiny_run import ROOT, UNET
from torch import Tensor, nn

from ddpmseg.__main__ import main
from ddpmseg.backbones.alae.backbone import AlaeBackbone
from ddpmseg.backbones.base import Backbone, BlockSpec, Hook
from ddpmseg.backbones.contract import RULES, breaches
from ddpmseg.backbones.gan.encoder import GanEncoderBackbone
from ddpmseg.backbones.gan.inversion import GanInversionBackbone
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags
from ddpmseg.backbones.mae.backbone import MaeBackbone
from ddpmseg.backbones.pixels.backbone import PixelsBackbone
from ddpmseg.backbones.settings import BackboneConfig
from ddpmseg.backbones.swav.backbone import SwavBackbone
from ddpmseg.backbones.timm.backbone import TimmBackbone

TINY = UNetFlags(
    image_size=16, num_channels=32, channel_mult="1,2", num_res_blocks=1, attention_resolutions="8"
)
BACKBONES: dict[str, Callable[[], Backbone]] = {
    "guided_diffusion": lambda: filled_backbone(TINY),
    "guided_diffusion bf16": lambda: filled_backbone(TINY, precision="bf16"),
    "swav": lambda: SwavBackbone("swav", 4, [1, 2, 1, 1], "random"),
    "mae": lambda: MaeBackbone("mae", 16, 4, 16, 3, 2, 2.0, "random"),
    "mae bf16": lambda: MaeBackbone("mae", 16, 4, 16, 3, 2, 2.0, "random", precision="bf16"),
    "vdvae": tiny_vdvae,
    "vdvae, sampled": lambda: tiny_vdvae(latents="sampled"),
    "vdvae bf16": lambda: tiny_vdvae(precision="bf16"),
    "alae": lambda: AlaeBackbone("alae", 3, 4, 8, 5, 16, "random"),
    "alae, smaller images": lambda: AlaeBackbone("alae", 4, 4, 8, 5, 12, "random"),
    "alae bf16": lambda: AlaeBackbone("alae", 3, 4, 8, 5, 16, "random", precision="bf16"),
    "gan_encoder": lambda: GanEncoderBackbone("gan", 16, 32, "random"),
    "gan_encoder bf16": lambda: GanEncoderBackbone("gan", 16, 32, "random", precision="bf16"),
    "gan_inversion": lambda: GanInversionBackbone("gan", 16, 16, 32, "random"),
    "gan_inversion bf16": lambda: GanInversionBackbone("gan", 16, 16, 32, "random", "bf16"),
    "diffusers": tiny_backbone,
    "diffusers bf16": lambda: tiny_backbone("bf16"),
    "pixels": lambda: PixelsBackbone("pixels", 16),
    "timm ResNet": lambda: TimmBackbone("test_resnet", "random", 64),
    "timm ViT": lambda: TimmBackbone("test_vit", "random", 40),
    "timm ViT, larger inputs": lambda: TimmBackbone("test_vit", "random", 32, input_size=80),
    "timm ViT bf16": lambda: TimmBackbone("test_vit", "random", 32, precision="bf16"),
    "timm ConvNeXt": lambda: TimmBackbone("test_convnext", "random", 64),
}
"""A line for each: a tiny one of every family."""


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_keeps_the_contract(name: str) -> None:
    assert breaches(BACKBONES[name]()) == []


class Sound(Backbone):
    """Two convolutions, each halving the image; what is broken below derives from it."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.image_size, self.dtype = "sound", 16, torch.float32
        self.num_timesteps = 100
        self.blocks = (BlockSpec(0, 4, 2, 3, 1, "one"), BlockSpec(1, 6, 4, 4, 2, "two"))
        self.one, self.two = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.freeze()

    def add_noise(self, images: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        return images + timesteps.view(-1, 1, 1, 1) / 100 * noise

    @torch.inference_mode()
    def native_maps(
        self,
        images: Tensor,
        timesteps: Tensor,
        blocks: Collection[int],
        hook: Hook = "output",
    ) -> dict[int, Tensor]:
        first = self.one(images)
        whole = [first, self.two(first)] if hook == "output" else [images, first]
        return {block: whole[block] for block in sorted(blocks)}


class WrongNumbers(Sound):
    def __init__(self) -> None:
        super().__init__()
        one, two = self.blocks
        self.blocks = (one, BlockSpec(2, *list(vars(two).values())[1:]))


class OtherBlocks(Sound):
    def native_maps(self, images, timesteps, blocks, hook: Hook = "output"):
        return super().native_maps(images, timesteps, [0, 1], hook)


class WrongChannels(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = (self.blocks[0], BlockSpec(1, 7, 4, 4, 2, "two"))


class WrongInputChannels(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = (self.blocks[0], BlockSpec(1, 6, 4, 5, 2, "two"))


class WrongStride(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = (self.blocks[0], BlockSpec(1, 6, 2, 4, 2, "two"))


class WrongDtype(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.dtype = torch.bfloat16


class NotFinite(Sound):
    def native_maps(self, images, timesteps, blocks, hook: Hook = "output"):
        maps = super().native_maps(images, timesteps, blocks, hook)
        return {block: value / 0.0 for block, value in maps.items()}


class Learning(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.two.requires_grad_(True)


class Flowing(Sound):
    def native_maps(self, images, timesteps, blocks, hook: Hook = "output"):
        return Sound.native_maps.__wrapped__(self, images, timesteps, blocks, hook)  # pyright: ignore


class Training(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.two.training = True


class Trainable(Sound):
    def train(self, mode: bool = True) -> Backbone:
        nn.Module.train(self, mode)
        return self


class LeavesHooks(Sound):
    def native_maps(self, images, timesteps, blocks, hook: Hook = "output"):
        self.two.register_forward_hook(lambda *_: None)
        return super().native_maps(images, timesteps, blocks, hook)


class DependsOnBatch(Sound):
    def native_maps(self, images, timesteps, blocks, hook: Hook = "output"):
        normal = images - images.mean(0, keepdim=True)
        return super().native_maps(normal, timesteps, blocks, hook)


class DependsOnOrder(Sound):
    def native_maps(self, images, timesteps, blocks, hook: Hook = "output"):
        if len(images) > 1:
            images = torch.cat([images[:1], images[1:] * 0.5])
        return super().native_maps(images, timesteps, blocks, hook)


class RemembersCalls(Sound):
    calls = 0

    def native_maps(self, images, timesteps, blocks, hook: Hook = "output"):
        self.calls += 1
        maps = super().native_maps(images, timesteps, blocks, hook)
        return {block: value * self.calls for block, value in maps.items()}


class OtherEarlyExit(Sound):
    def native_maps(self, images, timesteps, blocks, hook: Hook = "output"):
        maps = super().native_maps(images, timesteps, blocks, hook)
        return {block: value * len(maps) for block, value in maps.items()}


class ChangesInputs(Sound):
    def add_noise(self, images: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        return images.mul_(0.5)


class NoiseWithoutTimesteps(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.num_timesteps = None

    def add_noise(self, images: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        return images + noise


class TimestepsWithoutNoise(Sound):
    add_noise = Backbone.add_noise


BROKEN: dict[type[Sound], str] = {
    WrongNumbers: "numbering",
    OtherBlocks: "early exit",
    WrongChannels: "channels",
    WrongInputChannels: "channels",
    WrongStride: "size",
    WrongDtype: "values",
    NotFinite: "values",
    Learning: "gradients",
    Flowing: "gradients",
    Training: "mode",
    Trainable: "mode",
    LeavesHooks: "hooks",
    DependsOnBatch: "batch size",
    DependsOnOrder: "order",
    RemembersCalls: "earlier calls",
    OtherEarlyExit: "early exit",
    ChangesInputs: "inputs",
    NoiseWithoutTimesteps: "noise",
    TimestepsWithoutNoise: "noise",
}


def test_a_sound_backbone_passes() -> None:
    assert breaches(Sound()) == []
    assert breaches(Sound(), image_size=32) == []


@pytest.mark.parametrize(
    ("broken", "rule"), BROKEN.items(), ids=lambda v: getattr(v, "__name__", v)
)
def test_each_breach_is_caught(broken: type[Sound], rule: str) -> None:
    found = breaches(broken())
    assert rule in {breach.rule for breach in found}
    assert all(breach.what for breach in found)


def test_there_is_a_broken_backbone_for_every_rule() -> None:
    assert set(BROKEN.values()) == set(RULES)
    assert all(check.__doc__ for check in RULES.values())


def test_a_breach_is_told_with_what_was_promised() -> None:
    assert [breach.what for breach in breaches(WrongChannels())] == [
        "the output of block 1 has the shape (3, 6, 2, 2) for 3 images; 7 channels are promised"
    ]
    assert [breach.what for breach in breaches(WrongStride(), image_size=8)] == [
        "the output of block 1 is 2 x 2 for images of 8 pixels; its stride promises 4 x 4"
    ]


def test_command_says_which_promises_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    given = ["backbone=random", *UNET, "dataset.image_size=16", "trainer.accelerator=cpu"]
    assert main(["check-backbone", "--config-dir", str(ROOT / "conf"), *given]) == 0
    told = [record.message for record in caplog.records]
    assert told[0].startswith("random: 4 decoder blocks on cpu, images of 16 pixels")
    assert len([line for line in told if line.startswith("kept ")]) == len(RULES)


def test_command_names_the_broken_promise(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(BackboneConfig, "build", lambda *_: WrongChannels())
    assert main(["check-backbone", "--config-dir", str(ROOT / "conf"), "backbone=pixels"]) == 1
    told = [record.message for record in caplog.records]
    assert "BROKEN channels       A map has the channels of its `BlockSpec`." in told
    assert any("7 channels are promised" in line for line in told)
