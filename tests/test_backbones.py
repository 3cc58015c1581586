"""The networks of guided_diffusion, held against the package's own."""

from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from golden_fill import filled, filled_backbone, relative_error
from guided_diffusion.respace import SpacedDiffusion
from omegaconf import OmegaConf
from tiny_backbones import TINY, VARIANTS
from tiny_run import composed
from torch import Tensor, nn

from ddpmseg.backbones.base import Backbone, Hook
from ddpmseg.backbones.guided_diffusion.backbone import GuidedDiffusionBackbone
from ddpmseg.backbones.guided_diffusion.unet import (
    UNetFlags,
    build_unet,
    sampling_process,
    use_half,
)
from ddpmseg.backbones.precision import choose_precision
from ddpmseg.backbones.settings import BackboneConfig
from ddpmseg.errors import ConfigError
from ddpmseg.runtime.device import trainer_precision
from ddpmseg.weights.read import PRECISIONS

HOOKS: tuple[Hook, ...] = ("output", "input")


def inputs(backbone: Backbone, count: int = 2) -> tuple[Tensor, Tensor]:
    """(x_t, t) on the smallest images that every level of the network divides."""
    side = 2 * max(block.input_stride for block in backbone.blocks)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, side, side, generator=generator) * 2 - 1
    last = (backbone.num_timesteps or 1000) - 1
    return images, torch.linspace(0, last, count).long()


def plain_maps(
    flags: UNetFlags, x_t: Tensor, t: Tensor, hook: Hook, dtype: torch.dtype = torch.float32
) -> dict[int, Tensor]:
    """The package's own forward pass, as it trains and samples, with ordinary hooks."""
    unet, diffusion = build_unet(flags)
    assert isinstance(diffusion, SpacedDiffusion)
    unet.load_state_dict(filled(unet.state_dict(), 1234))
    unet.eval()
    use_half(unet, dtype)
    maps: dict[int, Tensor] = {}
    for index, block in enumerate(unet.output_blocks):

        def keep(_module: nn.Module, given: tuple, out: Tensor, index: int = index) -> None:
            maps[index] = (out if hook == "output" else given[0]).clone()

        block.register_forward_hook(keep)
    with torch.no_grad():
        diffusion._wrap_model(unet)(x_t, t)
    return maps


def distance(value: Tensor, expected: Tensor) -> float:
    return ((value.float() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_equal_those_of_the_packages_own_forward(variant: str, hook: Hook) -> None:
    backbone = filled_backbone(VARIANTS[variant])
    x_t, t = inputs(backbone, 3)
    expected = plain_maps(VARIANTS[variant], x_t, t, hook)
    found = backbone.native_maps(x_t, t, range(len(backbone.blocks)), hook)
    assert set(found) == set(expected)
    for block, value in expected.items():
        assert relative_error(found[block], value) <= 1e-5, block
    last = len(found) - 1
    for chosen in ({0}, {last // 2}, {last}, {0, last // 2}):
        some = backbone.native_maps(x_t, t, chosen, hook)
        assert set(some) == chosen
        assert all(torch.equal(some[block], found[block]) for block in chosen)


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.05), ("16", 0.01)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_16_bit_maps_are_as_close_as_the_packages_own(
    variant: str, precision: str, bound: float
) -> None:
    backbone = filled_backbone(VARIANTS[variant], precision=precision)
    x_t, t = inputs(backbone, 3)
    exact = plain_maps(VARIANTS[variant], x_t, t, "output")
    rounded = plain_maps(VARIANTS[variant], x_t, t, "output", PRECISIONS[precision])
    found = backbone.native_maps(x_t, t, range(len(backbone.blocks)))
    for block, value in exact.items():
        # These random weights amplify rounding; what counts is that the faster parts add none.
        assert distance(found[block], value) <= 1.3 * distance(rounded[block], value), block
        assert distance(found[block], value) <= bound, block


INTEL, AMD = "Intel Xeon", "AMD EPYC"


@pytest.mark.parametrize(
    ("device", "able", "chosen"),
    [
        ("cpu", {"cpu_name": INTEL, "amx_bf16": True, "avx512_bf16": True}, "bf16"),
        ("cpu", {"cpu_name": INTEL, "amx_bf16": False, "avx512_bf16": True}, "32"),
        ("cpu", {"cpu_name": AMD, "avx512_bf16": True}, "bf16"),
        ("cpu", {"cpu_name": AMD, "avx512_bf16": False}, "32"),
        ("cpu", {}, "32"),
        ("mps", {"cpu_name": AMD, "avx512_bf16": True}, "32"),
    ],
)
def test_auto_is_the_precision_in_which_the_device_is_fastest(
    device: str, able: dict[str, object], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert choose_precision("auto", torch.device(device)) == chosen
    assert choose_precision("bf16", torch.device(device)) == "bf16"


@pytest.mark.parametrize(("has_bf16", "others"), [(True, "bf16"), (False, "32")])
def test_on_a_gpu_float16_is_for_networks_known_to_stay_in_its_range(
    has_bf16: bool, others: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return has_bf16 or including_emulation  # as torch says of a T4 or a V100

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    device = torch.device("cuda")
    for name in ("ddpm_lsun_horse", "ddpm_ponies", "random", "mae", "swav", "vdvae", "diffusers"):
        given = (f"backbone={name}", "backbone.precision=auto", "backbone.checkpoint=random")
        chosen = OmegaConf.to_object(composed(None, *given).backbone)
        assert isinstance(chosen, BackboneConfig)
        fits = name in ("ddpm_lsun_horse", "ddpm_ponies", "random")
        assert chosen.precision_on(device) == ("16" if fits else others), name
    mixed = "bf16-mixed" if has_bf16 else "32-true"
    assert trainer_precision("auto", False, device) == mixed
    assert trainer_precision("auto", True, device) == "32-true"
    assert trainer_precision("bf16-mixed", False, device) == "bf16-mixed"


@pytest.mark.parametrize("hook", HOOKS)
def test_layers_above_the_deepest_wanted_block_do_not_run(hook: Hook) -> None:
    backbone = filled_backbone(TINY)
    ran: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
        for index, block in enumerate(backbone.unet.output_blocks)
    ]
    backbone.native_maps(*inputs(backbone), [0, 2], hook)
    for handle in handles:
        handle.remove()
    assert ran == ([0, 1, 2] if hook == "output" else [0, 1])


def test_blocks_are_described_for_people() -> None:
    blocks = filled_backbone(VARIANTS["resblock_updown"]).blocks
    assert [(b.channels, b.stride, b.modules) for b in blocks] == [
        (64, 2, "residual+attention"),
        (64, 1, "residual+attention+upsample"),
        (32, 1, "residual"),
        (32, 1, "residual"),
    ]
    assert [(b.input_channels, b.input_stride) for b in blocks] == [
        (128, 2),
        (96, 2),
        (96, 1),
        (64, 1),
    ]


def test_noise_follows_the_closed_form() -> None:
    backbone = filled_backbone(TINY)
    x_0, t = inputs(backbone, 3)
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    kept = (1 - betas).cumprod(0)[t].view(-1, 1, 1, 1)
    expected = kept.sqrt() * x_0 + (1 - kept).sqrt() * noise
    assert relative_error(backbone.add_noise(x_0, t, noise), expected) <= 1e-6


def test_image_side_that_does_not_divide_is_refused() -> None:
    backbone = filled_backbone(TINY)
    with pytest.raises(ConfigError) as caught:
        backbone.native_maps(torch.zeros(1, 3, 16, 15), torch.tensor([0]), [0])
    assert str(caught.value) == (
        "backbone 'filled' needs image sides divisible by 2, got (16, 15). "
        "Change `dataset.image_size`."
    )


def test_images_need_not_have_the_networks_own_size() -> None:
    backbone = filled_backbone(TINY)
    maps = backbone.native_maps(torch.zeros(1, 3, 24, 40), torch.tensor([0]), [0, 3])
    assert [value.shape[2:] for value in maps.values()] == [(12, 20), (24, 40)]


@pytest.mark.parametrize(
    "flags",
    [
        replace(TINY, channel_mult="", image_size=48),
        replace(TINY, channel_mult="1,two"),
        replace(TINY, num_channels=40),
        replace(TINY, num_head_channels=24),
        replace(TINY, noise_schedule="quadratic"),
        replace(TINY, attention_resolutions="0"),
    ],
)
def test_flags_that_build_no_network_are_shown(flags: UNetFlags) -> None:
    with pytest.raises(ConfigError) as caught:
        build_unet(flags)
    message = str(caught.value)
    assert message.startswith("guided_diffusion cannot build a network with `backbone.unet`=")
    assert str(asdict(flags)) in message


def test_initial_weights_depend_on_the_seed_only() -> None:
    torch.manual_seed(1)
    one = GuidedDiffusionBackbone("one", TINY, "random", seed=5)
    after = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), after)
    two = GuidedDiffusionBackbone("two", TINY, "random", seed=5)
    other = GuidedDiffusionBackbone("other", TINY, "random", seed=6)
    assert one.checkpoint_sha256 == ""
    first, second, third = (deepcopy(b.unet.state_dict()) for b in (one, two, other))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["time_embed.0.weight"], third["time_embed.0.weight"])


def test_sampling_process_has_the_networks_schedule() -> None:
    flags = replace(TINY, noise_schedule="cosine")
    full, short = build_unet(flags)[1], sampling_process(flags, 50)
    assert short.num_timesteps == 50
    assert short.alphas_cumprod[0] == pytest.approx(full.alphas_cumprod[0])
    assert short.alphas_cumprod[-1] == pytest.approx(full.alphas_cumprod[980])


@pytest.mark.parametrize("variant", ["plain", "new_attention", "resblock_updown"])
def test_training_the_fast_network_gives_the_packages_gradients(variant: str) -> None:
    flags = VARIANTS[variant]
    fast = filled_backbone(flags).unet.requires_grad_()
    plain = build_unet(flags)[0]
    plain.load_state_dict(filled(plain.state_dict(), 1234))
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([3, 700])
    for unet in (fast, plain.eval()):
        unet(x, t).square().mean().backward()
    wanted = dict(plain.named_parameters())
    for name, parameter in fast.named_parameters():
        expected = wanted[name].grad
        assert parameter.grad is not None
        assert expected is not None
        assert torch.allclose(parameter.grad, expected, rtol=1e-3, atol=1e-5), name


SMALLEST = replace(TINY, channel_mult="1", attention_resolutions="16")
"""Compiling takes long."""


@pytest.mark.slow
def test_compiled_maps_equal_those_of_the_plain_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    plain, compiled = filled_backbone(SMALLEST), filled_backbone(SMALLEST, compile=True)
    x_t, t = inputs(plain, 2)
    blocks = [0, len(plain.blocks) - 1]
    expected = plain.native_maps(x_t, t, blocks)
    found = compiled.native_maps(x_t, t, blocks)
    assert list(found) == list(expected)
    for block, value in expected.items():
        assert relative_error(found[block], value) <= 2e-5, block
    assert any(tmp_path.rglob("*.so"))


@pytest.mark.slow
def test_without_a_compiler_the_plain_pass_is_run_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    torch._dynamo.reset()
    plain, compiled = filled_backbone(SMALLEST), filled_backbone(SMALLEST, compile=True)
    x_t, t = inputs(plain, 2)
    for _ in range(2):
        found = compiled.native_maps(x_t, t, [1])
        assert torch.equal(found[1], plain.native_maps(x_t, t, [1])[1])
    told = [r.message for r in caplog.records if r.name == "ddpmseg.backbones.compiled"]
    assert len(told) == 1
    assert "not compiled, going on without (InvalidCxxCompiler" in told[0]
