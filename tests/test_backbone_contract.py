"""Every backbone keeps its contract, and the checker catches each way to break it."""

from collections.abc import Collection

import pytest
import torch
from tiny_backbones import BACKBONES
from tiny_run import ROOT, UNET
from torch import Tensor, nn

from ddpmseg.__main__ import main
from ddpmseg.backbones.base import Backbone, BlockSpec, Hook
from ddpmseg.backbones.contract import RULES, breaches
from ddpmseg.backbones.settings import BackboneConfig
from ddpmseg.errors import ConfigError


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_keeps_the_contract(name: str) -> None:
    backbone = BACKBONES[name]()
    assert breaches(backbone) == []
    assert all(block.modules for block in backbone.blocks)
    assert_foreign_choices_are_refused(backbone)


def assert_foreign_choices_are_refused(backbone: Backbone) -> None:
    last = len(backbone.blocks) - 1
    backbone.check([0, last], [0, 1, 999])
    for block in (99, -1):
        with pytest.raises(ConfigError) as caught:
            backbone.check([0, block], [1])
        assert str(caught.value) == (
            f"block {block} does not exist in backbone '{backbone.name}' "
            f"({backbone.block_kind}s 0..{last}, {backbone.block_order}). Change `features.blocks`."
        )
    if "input" not in backbone.hooks:
        with pytest.raises(ConfigError, match=r"`features\.hook=input`: .* at their output only"):
            backbone.check([0], [0], "input")
    if backbone.num_timesteps is None:
        backbone.check([0], [10**6])
        return
    for t in (backbone.num_timesteps, -1):
        with pytest.raises(ConfigError) as caught:
            backbone.check([0], [5, t])
        assert str(caught.value) == (
            f"timestep {t} does not exist in backbone '{backbone.name}' "
            f"(timesteps 0..{backbone.num_timesteps - 1}). Change `features.timesteps`."
        )


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
