"""Flags read off a checkpoint: just those it was built with, or a reason why there are none."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from safetensors.torch import save_file
from tiny_run import CONF

from ddpmseg import config as schemas
from ddpmseg.__main__ import main
from ddpmseg.backbones.guided_diffusion.describe import describe, network_shapes
from ddpmseg.backbones.guided_diffusion.settings import GuidedDiffusionConfig
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags, build_unet
from ddpmseg.errors import ConfigError
from ddpmseg.io.files import file_sha256

TINY = UNetFlags(
    image_size=16, num_channels=32, channel_mult="1,2", num_res_blocks=1, attention_resolutions="8"
)
PAPER = UNetFlags(
    image_size=256,
    num_channels=256,
    channel_mult="1,1,2,2,4,4",
    num_head_channels=64,
    attention_resolutions="32,16,8",
    resblock_updown=True,
    learn_sigma=True,
)
NOT_IN_THE_FILE = ("num_heads", "num_head_channels", "use_new_attention_order", "noise_schedule")


def described(flags: UNetFlags) -> UNetFlags:
    known = {name: getattr(flags, name) for name in NOT_IN_THE_FILE}
    return describe(network_shapes(flags)).flags(flags.image_size, **known)


@st.composite
def some_flags(draw: st.DrawFn) -> UNetFlags:
    multipliers = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    strides = draw(st.sets(st.sampled_from([2**level for level in range(len(multipliers))])))
    size = draw(st.sampled_from([16, 24, 64]))
    return UNetFlags(
        image_size=size,
        num_channels=draw(st.sampled_from([32, 64])),
        channel_mult=",".join(map(str, multipliers)),
        num_res_blocks=draw(st.integers(1, 3)),
        attention_resolutions=",".join(str(size // s) for s in sorted(strides)) or f"{2 * size}",
        num_heads=draw(st.sampled_from([1, 4])),
        num_head_channels=draw(st.sampled_from([-1, 16])),
        use_scale_shift_norm=draw(st.booleans()),
        # Without a second level nothing is resized, in either way.
        resblock_updown=len(multipliers) > 1 and draw(st.booleans()),
        learn_sigma=draw(st.booleans()),
        use_new_attention_order=draw(st.booleans()),
        noise_schedule=draw(st.sampled_from(["linear", "cosine"])),
    )


@settings(max_examples=60)
@given(flags=some_flags())
def test_flags_are_those_the_network_was_built_with(flags: UNetFlags) -> None:
    assert described(flags) == flags


def test_the_papers_network() -> None:
    found = describe(network_shapes(PAPER))
    assert found.num_parameters == 552_814_086
    assert (found.usual_image_size, found.stride) == (256, 32)
    assert found.attention_channels == (512, 1024)
    assert described(PAPER) == PAPER


def test_half_the_channels_at_512_pixels() -> None:
    """OpenAI's model for 512 pixels: a multiplier that only the package's default can say."""
    flags = UNetFlags(image_size=512, num_channels=64, attention_resolutions="32,16,8")
    assert described(flags) == flags
    with pytest.raises(ConfigError, match=r"have 0\.5, 1, .* times 64 channels only for"):
        describe(network_shapes(flags)).flags(256)


@pytest.mark.parametrize(
    ("image_size", "known", "says"),
    [
        (15, {}, "network of 2 levels takes images whose side is a multiple of 2"),
        (0, {}, "image size 0"),
        (16, {"num_heads": 3}, "num_heads 3 does not divide 64"),
        (16, {"num_head_channels": 48}, "num_head_channels 48 does not divide 64"),
        (16, {"num_head_channels": 0}, "num_head_channels 0 does not divide 64"),
    ],
)
def test_what_a_network_cannot_have(image_size: int, known: dict[str, int], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        describe(network_shapes(TINY)).flags(image_size, **known)


SHAPES = network_shapes(TINY)


@given(key=st.sampled_from(sorted(SHAPES)), change=st.sampled_from(["drop", "grow", "flatten"]))
def test_a_network_with_one_parameter_changed_is_none(key: str, change: str) -> None:
    shapes = dict(SHAPES)
    shape = shapes.pop(key)
    if change == "grow":
        shapes[key] = (shape[0] + 1, *shape[1:])
    elif change == "flatten":
        shapes[key] = ()
    with pytest.raises(ValueError, match=r"it has|its|no flags build"):
        describe(shapes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label_emb.weight": (1000, 128)}, "it is class-conditional"),
        ({"input_blocks.0.0.weight": (32, 6, 3, 3)}, "its input has 6 channels instead of"),
        ({"out.2.weight": (4, 32, 3, 3)}, "its output has 4 channels"),
        ({"ema": (1,)}, "no flags build just these parameters: unknown ema [1]"),
    ],
)
def test_near_relatives(change: dict[str, tuple[int, ...]], says: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(says)):
        describe(SHAPES | change)


def save(path: Path, flags: UNetFlags = TINY, **more: torch.Tensor) -> Path:
    torch.save(build_unet(flags)[0].state_dict() | more, path)
    return path


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"down_blocks.0.weight": torch.ones(1)}, "it is a UNet of the diffusers library"),
        ({"model.diffusion_model.out.0.weight": torch.ones(1)}, "it is a latent diffusion model"),
        ({"layer1.0.weight": torch.ones(1)}, "it has no parameter 'time_embed.0.weight'"),
        ({"time_embed.0.weight": torch.ones(128, 32)}, "it has no decoder (`output_blocks`)"),
        ({}, "it has no parameter"),
    ],
)
def test_files_of_other_networks(
    state: dict[str, torch.Tensor], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.pt"
    torch.save(state, path)
    assert main(["weights", "describe", str(path)]) == 2
    message = capsys.readouterr().err
    assert f"error: '{path}' is not a network that can be used as a backbone: {says}" in message
    assert "unconditional UNet of openai/guided-diffusion" in message


@pytest.mark.parametrize("format", ["zip.pt", "legacy.pt", "weights.safetensors"])
def test_description_says_what_the_file_holds_and_what_it_does_not(
    format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, state = tmp_path / format, build_unet(TINY)[0].state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=format.startswith("zip"))
    assert main(["weights", "describe", str(path)]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    count = sum(value.numel() for value in state.values())
    assert title == f"{path}: UNet of guided_diffusion, {count:,} parameters"
    assert lines[0] == "in the file:"
    assert '  channel_mult: "1,2"' in lines
    assert "  attention_resolutions: 1/2 of the image's side" in lines
    assert "  --image-size N: side of the training images, a multiple of 2" in lines
    assert any("--num-heads N" in line for line in lines)
    assert "  noise_schedule: linear  (assumed; else --noise-schedule)" in lines


def test_a_printed_choice_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "my.pt", TINY)
    output = tmp_path / "conf" / "backbone" / "für_Kühe.yaml"
    known = ["--image-size", "16", "--num-heads", "1", "--output", str(output)]
    assert main(["weights", "describe", str(path), *known]) == 0
    (printed,) = re.findall("use it with `(.*)`", capsys.readouterr().out)
    (override,) = shlex.split(printed)
    schemas.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        search = f"hydra.searchpath=[file://{output.parents[1]}]"
        assert compose("train", [override, search]).backbone.name == "für_Kühe"


def test_a_written_file_is_a_backbone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = replace(TINY, num_head_channels=16, noise_schedule="cosine", diffusion_steps=400)
    path = save(tmp_path / "my.pt", flags)
    output = tmp_path / "conf" / "backbone" / "my_model.yaml"
    known = ["--image-size", "16", "--num-head-channels", "16"]
    known += ["--noise-schedule", "cosine", "--diffusion-steps", "400"]
    assert main(["weights", "describe", str(path), *known, "--output", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"wrote {output}: use it with `backbone=my_model`"
    assert '  attention_resolutions: 1/2 of the image\'s side ("8")' in lines
    assert output.read_text().startswith(f"# my.pt, sha256 {file_sha256(path)}\n")

    schemas.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        search = f"hydra.searchpath=[file://{output.parents[1]}]"
        group = compose("train", ["backbone=my_model", search]).backbone
    typed = OmegaConf.to_object(group)
    assert isinstance(typed, GuidedDiffusionConfig)
    assert (typed.name, typed.checkpoint) == ("my_model", str(path))
    assert typed.unet == flags


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "needs what no weight file tells: --image-size N, --num-head-channels N"),
        (["--image-size", "16"], "needs what no weight file tells: --num-head-channels N"),
        (["--image-size", "15", "--num-heads", "4"], "multiple of 2"),
        (["--image-size", "16", "--num-heads", "5"], "does not divide 64"),
        (["--image-size", "16", "--num-heads", "4", "--diffusion-steps", "0"], "must lie in 1.."),
    ],
)
def test_nothing_is_written_unless_all_is_known(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "my.pt")
    output = tmp_path / "my_model.yaml"
    assert main(["weights", "describe", str(path), *options, "--output", str(output)]) == 2
    assert says in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("name", ["my-model.yaml", "my_model.yml", "there.yaml"])
def test_names_that_cannot_be_a_backbones(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.yaml").write_text("precious")
    options = ["--image-size", "16", "--num-heads", "4", "--output", str(tmp_path / name)]
    assert main(["weights", "describe", str(save(tmp_path / "my.pt")), *options]) == 2
    assert name in capsys.readouterr().err
    assert (tmp_path / "there.yaml").read_text() == "precious"


def test_heads_leave_no_trace() -> None:
    assert describe(SHAPES) == describe(network_shapes(replace(TINY, num_heads=2)))
