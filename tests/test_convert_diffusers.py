"""guided_diffusion to diffusers and back: the same function, the same tensors, or nothing."""

import json
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
from tiny_diffusers import RESIDUAL, write_model
from torch import Tensor

from ddpmseg.__main__ import main
from ddpmseg.backbones.diffusers import convert as unet2d_convert
from ddpmseg.backbones.diffusers.backbone import DiffusersBackbone
from ddpmseg.backbones.diffusers.flags import guided_flags, scheduler_config, unet2d_config
from ddpmseg.backbones.guided_diffusion.backbone import GuidedDiffusionBackbone
from ddpmseg.backbones.guided_diffusion.describe import network_shapes
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags, build_unet
from ddpmseg.backbones.noise_schedule import NoiseSchedule, read_schedule
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.weight_tools import convert_weights
from ddpmseg.weight_tools.convert_weights import convert_to_diffusers, convert_to_guided, flags_from
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


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in one
    )


@pytest.mark.parametrize("flags", VARIANTS.values(), ids=VARIANTS)
def test_there_and_back_again(flags: UNetFlags, tmp_path: Path) -> None:
    state = state_of(flags)
    path, folder, back = tmp_path / "in.pt", tmp_path / "model", tmp_path / "back.pt"
    convert_to_diffusers(str(saved(path, state)), folder, flags)
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
    convert_to_guided(str(folder), back, None)
    assert same(torch.load(back, weights_only=True), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_stored_dtype_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {key: value.to(dtype) for key, value in state_of(TINY).items()}
    path = saved(tmp_path / "in.safetensors", state)
    convert_to_diffusers(str(path), tmp_path / "model", TINY)
    convert_to_guided(str(tmp_path / "model"), tmp_path / "back.safetensors", None)
    assert same(load_file(tmp_path / "back.safetensors"), state)


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
    converted = unet2d_convert.to_unet2d(state, flags)
    assert shapes_of(converted) == shapes_of(unet.state_dict())
    assert shapes_of(unet2d_convert.to_guided(converted, flags)) == shapes_of(state)
    schedule = read_schedule(scheduler_config(flags), "x")
    back = guided_flags(unet.config, schedule, flags.use_new_attention_order)
    attending = unet.config.attention_head_dim
    if flags.num_head_channels == -1 and attending is not None:
        back = replace(back, num_head_channels=-1)  # every layer has one head of this width
    assert back == flags


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
            "it is told its 4000 timesteps resc",
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


def test_networks_without_an_equal_in_guided_diffusion(tmp_path: Path) -> None:
    early = {"freq_shift": 1, "flip_sin_to_cos": False, "norm_eps": 1e-6, "downsample_padding": 0}
    model = write_model(
        tmp_path / "model", block_out_channels=(64, 96), norm_num_groups=16, **early
    )
    config = json.loads((model / "unet" / "config.json").read_text())
    del config["sample_size"]
    (model / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError) as caught:
        convert_to_guided(str(model), tmp_path / "out.pt", None)
    assert str(caught.value).splitlines() == [
        "the network has no equal in guided_diffusion:",
        "  freq_shift is 1, needed is 0",
        "  flip_sin_to_cos is False, needed is True",
        "  downsample_padding is 0, needed is 1",
        "  norm_num_groups is 16, needed is 32",
        "  norm_eps is 1e-06, needed is 1e-05",
        "  block_out_channels [64, 96] are no multiples of the first",
        "  sample_size is None, needed is a side in pixels, 2 times n",
    ]
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (RESIDUAL | {"upsample_type": "conv"}, "upsample_type is 'conv', needed is 'resnet'"),
        ({"up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D")}, "up_block_types is "),
        ({"mid_block_type": None}, "mid_block_type is None, needed is 'UNetMidBlock2D'"),
        ({"add_attention": False}, "add_attention is False"),
        ({"act_fn": "gelu"}, "act_fn is 'gelu', needed is 'silu' or 'swish'"),
        ({"out_channels": 4}, "out_channels is 4, needed is 3 or 6"),
        ({"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups is None, needed is 32"),
    ],
)
def test_settings_that_guided_diffusion_lacks(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "model", **changes)
    with pytest.raises(ConfigError, match=says):
        convert_to_guided(str(model), tmp_path / "out.pt", None)


@pytest.mark.parametrize(
    "schedule",
    [
        NoiseSchedule("scaled_linear", beta_start=8.5e-4, beta_end=0.012),
        NoiseSchedule("linear", num_timesteps=500),
        NoiseSchedule("squaredcos_cap_v2", zero_terminal_snr=True),
        NoiseSchedule("trained", 2, betas=(0.1, 0.2)),
    ],
)
def test_processes_that_guided_diffusion_lacks(schedule: NoiseSchedule) -> None:
    with torch.device("meta"):
        unet: Any = UNet2DModel.from_config(unet2d_config(TINY))
    with pytest.raises(ConfigError, match=r"the noise schedule \(.*is neither squaredcos_cap_v2"):
        guided_flags(unet.config, schedule)


def test_what_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published converter's mistake: rows of q, k and v taken for the new order."""
    path = saved(tmp_path / "in.pt", state_of(TINY))
    wrong = replace(TINY, use_new_attention_order=True)

    def cut_in_three(state: dict[str, Tensor], flags: UNetFlags) -> dict[str, Tensor]:
        return unet2d_convert.to_unet2d(state, wrong)

    monkeypatch.setattr(convert_weights, "to_unet2d", cut_in_three)
    with pytest.raises(CheckpointError, match=r"the networks disagree: .* Nothing was written"):
        convert_to_diffusers(str(path), tmp_path / "model", TINY)
    assert [p.name for p in tmp_path.iterdir()] == ["in.pt"]


def test_weights_that_do_not_fit_are_told(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    del state["up_blocks.0.attentions.0.to_q.weight"]
    save_file(state, weights)
    with pytest.raises(CheckpointError, match=r"missing up_blocks\.0\.attentions\.0\.to_q\.weight"):
        convert_to_guided(str(model), tmp_path / "out.pt", None)


@pytest.mark.parametrize("kind", ["conv", "resnet"])
def test_settings_without_effect_do_not_matter(kind: str, tmp_path: Path) -> None:
    """Blocks without attention resize in their own way whatever `downsample_type` says."""
    model = write_model(
        tmp_path / "model",
        down_block_types=("ResnetDownsampleBlock2D",) * 2,
        up_block_types=("ResnetUpsampleBlock2D",) * 2,
        downsample_type=kind,
        upsample_type=kind,
    )
    convert_to_guided(str(model), tmp_path / "out.pt", None)
    assert (tmp_path / "out.pt").is_file()


def test_damaged_numbers_are_not_written(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state["conv_in.bias"][0] = torch.nan
    save_file(state, weights)
    with pytest.raises(CheckpointError, match=r"differs by nan .* finite numbers"):
        convert_to_guided(str(model), tmp_path / "out.safetensors", None)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("order", [True, False, None])
def test_the_order_of_qkv_is_remembered_or_chosen(order: bool | None, tmp_path: Path) -> None:
    flags = replace(TINY, use_new_attention_order=True)
    state = state_of(flags)
    convert_to_diffusers(str(saved(tmp_path / "in.pt", state)), tmp_path / "model", flags)
    convert_to_guided(str(tmp_path / "model"), tmp_path / "out.pt", order)
    back = torch.load(tmp_path / "out.pt", weights_only=True)
    assert same(back, state) == (order is not False)


UNET = [
    "backbone=guided_diffusion_64",
    "backbone.unet.image_size=16",
    "backbone.unet.channel_mult='1,2'",
    "backbone.unet.num_res_blocks=1",
    "backbone.unet.attention_resolutions='8'",
    "backbone.unet.num_head_channels=16",
    "backbone.unet.resblock_updown=false",
]


def test_the_commands(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    state = state_of(TINY)
    path, folder, back = tmp_path / "in.pt", tmp_path / "model", tmp_path / "new" / "back.pt"
    saved(path, state)
    assert main(["weights", "convert-diffusers", str(path), str(folder), *UNET]) == 0
    assert "4 blocks and the predicted noise agree, at most" in caplog.text
    assert f"wrote {folder}: use it with `backbone=diffusers backbone.checkpoint=" in caplog.text
    assert main(["weights", "convert-guided", str(folder), str(back)]) == 0
    assert same(torch.load(back, weights_only=True), state)
    assert "  backbone.unet.channel_mult=\"'1,2'\"" in caplog.text
    told = [line.strip().replace('"', "") for line in caplog.messages if "backbone.unet." in line]
    flags = flags_from(Path("conf"), ["backbone=guided_diffusion_64", *told])
    assert network_shapes(flags) == shapes_of(state)


def test_mistakes_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(saved(tmp_path / "in.pt", state_of(TINY)))
    model, there = str(write_model(tmp_path / "model")), str(tmp_path / "model")
    for arguments, says in (
        (["convert-diffusers", path, there, *UNET], f"'{there}' exists already"),
        (["convert-diffusers", path, str(tmp_path / "x")], "does not fit `backbone.unet`"),
        (["convert-diffusers", path, str(tmp_path / "x"), "backbone=pixels"], "has no flags"),
        (["convert-diffusers", "none.pt", str(tmp_path / "x")], "'none.pt' does not exist"),
        (["convert-guided", model, path], f"'{path}' exists already"),
        (["convert-guided", model, str(tmp_path / "x.ckpt")], "name a .pt or .safetensors file"),
        (["convert-guided", path, str(tmp_path / "x.pt")], "is a file. A model is a folder"),
    ):
        assert main(["weights", *arguments]) == 2
        assert says in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {"in.pt", "model"}
