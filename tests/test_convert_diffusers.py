"""guided_diffusion to diffusers: the same function of the same tensors, or nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from golden_fill import FACTS, filled, golden, golden_backbone, golden_maps, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_diffusers import write_model
from torch import Tensor

from ddpmseg.__main__ import main
from ddpmseg.backbones.diffusers.backbone import DiffusersBackbone
from ddpmseg.backbones.diffusers.convert import scheduler_config, to_unet2d, unet2d_config
from ddpmseg.backbones.guided_diffusion.backbone import GuidedDiffusionBackbone
from ddpmseg.backbones.guided_diffusion.describe import network_shapes
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags, build_unet
from ddpmseg.backbones.noise_schedule import read_schedule
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.weight_tools import to_diffusers
from ddpmseg.weight_tools.to_diffusers import convert_to_diffusers
from ddpmseg.weights.shapes import shapes_of

TINY = UNetFlags(
    image_size=16,
    num_channels=32,
    channel_mult="1,2",
    num_res_blocks=1,
    attention_resolutions="8",
    num_head_channels=16,
)
VARIANTS = {
    "plain": TINY,
    "resblock_updown": replace(TINY, resblock_updown=True),
    "shift_alone": replace(TINY, use_scale_shift_norm=False, resblock_updown=True),
    "new_order": replace(TINY, use_new_attention_order=True),
    "learn_sigma": replace(TINY, learn_sigma=True, noise_schedule="cosine", dropout=0.2),
    "one_head": replace(TINY, num_heads=1, num_head_channels=-1, attention_resolutions="16,8"),
    "four_heads": replace(TINY, num_heads=4, num_head_channels=-1),
    "three_levels": replace(
        TINY, channel_mult="1,1,2", num_res_blocks=2, attention_resolutions="16,4"
    ),
    "one_level": replace(TINY, channel_mult="1", attention_resolutions="32"),
    "other_process": replace(TINY, diffusion_steps=400),
}


def state_of(flags: UNetFlags) -> dict[str, Tensor]:
    return filled(build_unet(flags)[0].state_dict(), 3)


def saved(path: Path, state: dict[str, Tensor]) -> Path:
    if path.suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    return path


@pytest.mark.parametrize("flags", VARIANTS.values(), ids=VARIANTS)
def test_both_networks_have_the_same_blocks_noise_and_maps(
    flags: UNetFlags, tmp_path: Path
) -> None:
    path, folder = tmp_path / "in.pt", tmp_path / "model"
    convert_to_diffusers(str(saved(path, state_of(flags))), folder, flags)
    other = DiffusersBackbone("diffusers", str(folder))
    guided = GuidedDiffusionBackbone("guided", flags, str(path))
    assert [(b.channels, b.stride, b.input_channels) for b in other.blocks] == [
        (b.channels, b.stride, b.input_channels) for b in guided.blocks
    ]
    assert other.num_timesteps == flags.diffusion_steps
    images, noise = torch.randn(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([3, flags.diffusion_steps - 1])
    x_t = guided.add_noise(images, timesteps, noise)
    assert torch.allclose(other.add_noise(images, timesteps, noise), x_t, rtol=0, atol=1e-6)
    every = range(len(guided.blocks))
    maps, wanted = (b.native_maps(x_t, timesteps, every) for b in (other, guided))
    assert all(relative_error(maps[block], wanted[block]) < 1e-5 for block in every)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_stored_dtype_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {key: value.to(dtype) for key, value in state_of(TINY).items()}
    path = saved(tmp_path / "in.safetensors", state)
    convert_to_diffusers(str(path), tmp_path / "model", TINY)
    converted = load_file(tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in converted.values()} == {dtype}
    assert torch.equal(converted["conv_in.bias"], state["input_blocks.0.0.bias"])


def test_the_original_codes_features_come_out_of_the_converted_network(tmp_path: Path) -> None:
    guided = golden_backbone()
    path = saved(tmp_path / "golden.pt", guided.unet.state_dict())
    convert_to_diffusers(str(path), tmp_path / "model", guided.flags)
    extractor = FeatureExtractor(
        DiffusersBackbone("diffusers", str(tmp_path / "model")),
        FACTS["blocks"],
        FACTS["timesteps"],
        image_size=64,
        seed=FACTS["noise_seed"],
    )
    wanted = golden_maps("output")
    maps = extractor.extract_all([((golden()["image"] + 1) * 127.5, ["a", "b"])], 2)
    for size, group in wanted.groups.items():
        assert relative_error(maps.groups[size], group) < 1e-5


def test_the_library_reads_the_folder_as_a_pipeline(tmp_path: Path) -> None:
    flags = VARIANTS["learn_sigma"]
    state = state_of(flags)
    convert_to_diffusers(str(saved(tmp_path / "in.pt", state)), tmp_path / "model", flags)
    pipeline: Any = DDPMPipeline.from_pretrained(
        str(tmp_path / "model"), low_cpu_mem_usage=False, local_files_only=True
    )
    assert pipeline.scheduler.config.variance_type == "learned_range"
    unet = build_unet(flags)[0].eval()
    unet.load_state_dict(state)
    images, timesteps = torch.randn(2, 3, 16, 16), torch.tensor([3, 900])
    with torch.inference_mode():
        found, wanted = pipeline.unet(images, timesteps).sample, unet(images, timesteps)
    assert found.shape == (2, 6, 16, 16)
    assert relative_error(found, wanted) < 1e-5


@st.composite
def convertible_flags(draw: st.DrawFn) -> UNetFlags:
    multipliers = [1, *draw(st.lists(st.integers(1, 3), max_size=3))]
    strides = draw(st.sets(st.sampled_from([2**level for level in range(len(multipliers))])))
    return UNetFlags(
        image_size=32,
        num_channels=draw(st.sampled_from([32, 64])),
        channel_mult=",".join(map(str, multipliers)),
        num_res_blocks=draw(st.integers(1, 3)),
        attention_resolutions=",".join(str(32 // s) for s in sorted(strides)) or "64",
        num_heads=1,
        num_head_channels=draw(st.sampled_from([-1, 16])),
        use_scale_shift_norm=draw(st.booleans()),
        # Without a second level nothing is resized, in either way.
        resblock_updown=draw(st.booleans()),
        learn_sigma=draw(st.booleans()),
        use_new_attention_order=draw(st.booleans()),
        diffusion_steps=draw(st.sampled_from([250, 1000, 4000])),
        noise_schedule=draw(st.sampled_from(["linear", "cosine"])),
    )


@settings(max_examples=12)
@given(flags=convertible_flags())
def test_settings_and_shapes_of_any_network(flags: UNetFlags) -> None:
    """Nothing is computed: the library's own network has just the converted parameters."""
    with torch.device("meta"):
        unet: Any = UNet2DModel.from_config(unet2d_config(flags))
        state = {key: torch.empty(shape) for key, shape in network_shapes(flags).items()}
    assert shapes_of(to_unet2d(state, flags)) == shapes_of(unet.state_dict())
    assert read_schedule(scheduler_config(flags), "x").num_timesteps == flags.diffusion_steps


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            replace(TINY, num_heads=4, num_head_channels=-1, attention_resolutions="16,8"),
            "its attention heads have 8, 16 channels",
        ),
        (
            replace(TINY, num_heads=1, num_head_channels=-1, num_heads_upsample=2),
            "its attention heads have 32, 64 channels",
        ),
        (replace(TINY, channel_mult="2,2"), "its first level has 2 times `num_channels`=32"),
        (
            replace(TINY, diffusion_steps=4000, rescale_timesteps=True),
            "it takes its 4000 timesteps rescale",
        ),
    ],
)
def test_networks_without_an_equal_in_diffusers(
    flags: UNetFlags, says: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "in.pt", state_of(flags))
    with pytest.raises(ConfigError, match=f"no equal in diffusers:\n  {says}"):
        convert_to_diffusers(str(path), tmp_path / "model", flags)
    assert [p.name for p in tmp_path.iterdir()] == ["in.pt"]


def test_what_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published converter's mistake: rows of q, k and v taken for the new order."""
    path = saved(tmp_path / "in.pt", state_of(TINY))
    wrong = replace(TINY, use_new_attention_order=True)

    def cut_in_three(state: dict[str, Tensor], flags: UNetFlags) -> dict[str, Tensor]:
        return to_unet2d(state, wrong)

    monkeypatch.setattr(to_diffusers, "to_unet2d", cut_in_three)
    with pytest.raises(CheckpointError, match=r"the networks disagree: .* Nothing was written"):
        convert_to_diffusers(str(path), tmp_path / "model", TINY)
    assert [p.name for p in tmp_path.iterdir()] == ["in.pt"]


def test_damaged_numbers_are_not_written(tmp_path: Path) -> None:
    state = state_of(TINY)
    state["input_blocks.0.0.bias"][0] = torch.nan
    path = saved(tmp_path / "in.pt", state)
    with pytest.raises(CheckpointError, match=r"holds NaN or infinite numbers in 1 of"):
        convert_to_diffusers(str(path), tmp_path / "model", TINY)
    assert [p.name for p in tmp_path.iterdir()] == ["in.pt"]


UNET = [
    "backbone=guided_diffusion_64",
    "backbone.unet.image_size=16",
    "backbone.unet.channel_mult='1,2'",
    "backbone.unet.num_res_blocks=1",
    "backbone.unet.attention_resolutions='8'",
    "backbone.unet.num_head_channels=16",
    "backbone.unet.resblock_updown=false",
]


def test_the_command(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path, folder = saved(tmp_path / "in.pt", state_of(TINY)), tmp_path / "model"
    assert main(["weights", "convert-diffusers", str(path), str(folder), *UNET]) == 0
    assert "4 blocks and the predicted noise agree, at most" in caplog.text
    assert f"wrote {folder}: use it with `backbone=diffusers backbone.checkpoint=" in caplog.text


def test_mistakes_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(saved(tmp_path / "in.pt", state_of(TINY)))
    there = str(write_model(tmp_path / "model"))
    for arguments, says in (
        (["convert-diffusers", path, there, *UNET], f"'{there}' exists already"),
        (["convert-diffusers", path, str(tmp_path / "x")], "does not fit `backbone.unet`"),
        (["convert-diffusers", path, str(tmp_path / "x"), "backbone=pixels"], "has no flags"),
        (["convert-diffusers", "none.pt", str(tmp_path / "x")], "'none.pt' does not exist"),
    ):
        assert main(["weights", *arguments]) == 2
        assert says in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {"in.pt", "model"}
