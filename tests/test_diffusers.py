"""Backbones of the diffusers library: its own maps, its folders, and what is refused."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from golden_fill import relative_error
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny_diffusers import RESIDUAL, tiny_backbone, tiny_unet, write_model
from tiny_run import SEGMENT, SWEEP, blocks_done, composed
from torch import Tensor

from ddpmseg.__main__ import main
from ddpmseg.backbones.base import Hook
from ddpmseg.backbones.contract import breaches
from ddpmseg.backbones.diffusers.backbone import DiffusersBackbone
from ddpmseg.backbones.noise_schedule import CHOICES, named_schedule, read_schedule
from ddpmseg.errors import CheckpointError, ConfigError, DownloadError, UserError
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.io.files import file_sha256
from ddpmseg.runs.train import train
from ddpmseg.sweeps.sweep import finished, sweep
from ddpmseg.weights.model_folder import find_model

THREE_LEVELS: dict[str, Any] = {
    "block_out_channels": (32, 32, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
}
EARLY: dict[str, Any] = {
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 16,
}
"""Settings of the first published models."""
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "residual": RESIDUAL | {"attn_norm_num_groups": 32},
    "middle_without_norm": {"resnet_time_scale_shift": "scale_shift"},
    "early": EARLY,
    "three_levels": THREE_LEVELS,
    "middle_without_attention": {"add_attention": False, "mid_block_scale_factor": 2.0},
    "no_middle": {"mid_block_type": None},
    "gelu": {"act_fn": "gelu"},
    "learned_timesteps": {"time_embedding_type": "learned", "num_train_timesteps": 1000},
}
HOOKS: tuple[Hook, ...] = ("output", "input")


def inputs(count: int = 2, side: int = 16) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return images, torch.linspace(0, 999, count).long()


def library_maps(changes: dict[str, Any], hook: Hook) -> dict[int, Tensor]:
    """What the library computes: block b is position b mod n of up block b // n."""
    unet: Any = tiny_unet(**changes)
    found, per_up = {}, unet.config.layers_per_block + 1
    for block in range(per_up * len(unet.up_blocks)):
        up, position = unet.up_blocks[block // per_up], block % per_up
        layer = up.resnets[position]
        if hook == "output":
            layer = up.attentions[position] if hasattr(up, "attentions") else layer
            layer = up if position == per_up - 1 else layer

        def keep(_: Any, given: Any, made: Any = None, block: int = block) -> None:
            found[block] = given[0] if made is None else made

        if hook == "input":
            layer.register_forward_pre_hook(keep)
        else:
            layer.register_forward_hook(keep)
    with torch.inference_mode():
        unet(*inputs())
    return found


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> tuple[dict[str, Any], DiffusersBackbone]:
    return VARIANTS[request.param], tiny_backbone(**VARIANTS[request.param])


@pytest.mark.parametrize("hook", HOOKS)
def test_maps_are_those_of_the_library(
    variant: tuple[dict[str, Any], DiffusersBackbone], hook: Hook
) -> None:
    changes, backbone = variant
    wanted = library_maps(changes, hook)
    maps = backbone.native_maps(*inputs(), range(len(backbone.blocks)), hook)
    assert maps.keys() == wanted.keys()
    for block in backbone.blocks:
        channels, stride = block.at(hook)
        assert maps[block.index].shape == (2, channels, 16 // stride, 16 // stride)
        assert relative_error(maps[block.index], wanted[block.index]) < 1e-5


def test_every_variant_keeps_the_contract(
    variant: tuple[dict[str, Any], DiffusersBackbone],
) -> None:
    assert breaches(variant[1]) == []


def test_an_early_exit_runs_no_later_block() -> None:
    backbone, ran = tiny_backbone(), []
    for index, stage in enumerate(backbone._decoder):
        residual: Any = stage.residual
        residual.conv1.register_forward_hook(lambda *_, index=index: ran.append(index))
    backbone.native_maps(*inputs(), [1])
    backbone.native_maps(*inputs(), [2], "input")
    assert ran == [0, 1, 0, 1]


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("16", torch.float16)])
@pytest.mark.parametrize("name", ["plain", "residual"])
def test_half_precision(precision: str, dtype: torch.dtype, name: str) -> None:
    exact, backbone = (tiny_backbone(p, **VARIANTS[name]) for p in ("32", precision))
    every = range(len(backbone.blocks))
    maps, wanted = (b.native_maps(*inputs(), every) for b in (backbone, exact))
    for block in every:
        assert maps[block].dtype == backbone.dtype == dtype
        assert relative_error(maps[block], wanted[block]) < 0.03


def test_blocks_are_described() -> None:
    backbone = tiny_backbone(**THREE_LEVELS)
    assert [block.modules for block in backbone.blocks[:6]] == [
        *("residual", "residual", "residual+upsample"),
        *("residual+attention", "residual+attention", "residual+attention+upsample"),
    ]
    assert [block.stride for block in backbone.blocks] == [4, 4, 2, 2, 2, 1, 1, 1, 1]
    assert (backbone.image_size, backbone.num_timesteps) == (16, 1000)
    with pytest.raises(ConfigError, match=r"block 9 does not exist .* blocks 0\.\.8"):
        backbone.check([9], [0])
    with pytest.raises(ConfigError, match="side is divisible by 4"):
        FeatureExtractor(backbone, [0], [0], image_size=18)
    with pytest.raises(ConfigError, match=r"divisible by 4, got \(18, 18\)"):
        backbone.native_maps(*inputs(side=18), [0])


def test_compile_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compiled(function: Any) -> Any:
        return lambda *given: calls.append(given) or function(*given)

    monkeypatch.setattr("ddpmseg.backbones.diffusers.backbone.Compiled", compiled)
    model = str(write_model(tmp_path))
    pair = [DiffusersBackbone("tiny", model, compile=c) for c in (True, False)]
    assert torch.equal(*(backbone.native_maps(*inputs(), [1])[1] for backbone in pair))
    assert len(calls) == 1


SCHEDULERS: dict[str, dict[str, Any]] = {
    "linear": {},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid", "num_train_timesteps": 200},
    "trained": {"trained_betas": np.linspace(0.01, 0.3, 20).tolist()},
    "zero_snr": {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True},
    "four_thousand": {"num_train_timesteps": 4000, "beta_end": 0.005},
}


@pytest.mark.parametrize("settings", SCHEDULERS.values(), ids=SCHEDULERS)
def test_noise_is_that_of_the_librarys_scheduler(settings: dict[str, Any], tmp_path: Path) -> None:
    model = write_model(tmp_path)
    scheduler: Any = DDPMScheduler(**settings)
    scheduler.save_pretrained(model / "scheduler")
    backbone = DiffusersBackbone("tiny", str(model))
    assert backbone.num_timesteps == len(scheduler.betas)
    timesteps = torch.tensor([0, 7, len(scheduler.betas) - 1])
    images, noise = torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    noised = backbone.add_noise(images, timesteps, noise)
    # The library sums 32-bit logarithms of a thousand factors.
    assert torch.allclose(noised, scheduler.add_noise(images, noise, timesteps), atol=2e-4)
    kept = backbone.schedule.alphas_cumprod()
    assert np.allclose(kept, scheduler.alphas_cumprod.numpy(), atol=1e-5)
    assert (np.diff(kept) < 0).all()
    assert kept[-1] >= 0
    assert kept[0] < 1


@pytest.mark.parametrize("name", CHOICES)
def test_a_named_schedule_stands_in_for_the_scheduler(name: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path) / "unet"
    shutil.rmtree(tmp_path / "scheduler")
    with pytest.raises(ConfigError, match=r"without scheduler_config\.json.*noise_schedule"):
        DiffusersBackbone("tiny", str(folder))
    backbone = DiffusersBackbone("tiny", str(folder), noise_schedule=name)
    assert backbone.schedule == named_schedule(name)
    with pytest.raises(ConfigError, match=r"`backbone.noise_schedule=cosine`: must be one of"):
        DiffusersBackbone("tiny", str(folder), noise_schedule="cosine")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_max": 1348}, "has no `beta_schedule`"),
        ({"beta_schedule": "laplace"}, "'laplace', which is unknown"),
        ({"beta_schedule": "linear", "beta_end": 1.5}, r"betas must lie in 0\.\.1"),
        ({"beta_schedule": "linear", "beta_start": "small"}, "cannot be read"),
        ({"beta_schedule": "linear", "num_train_timesteps": 0}, "describes no noise"),
        ({"trained_betas": []}, "describes no noise"),
    ],
)
def test_schedulers_that_are_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f"^'x.json': .*{says}.*Use a scheduler whose"):
        read_schedule(config, "'x.json'")


def test_every_layout_of_a_folder(tmp_path: Path) -> None:
    model = write_model(tmp_path / "pipeline")
    flat = tmp_path / "flat"
    shutil.copytree(model / "unet", flat)
    shutil.copy(model / "scheduler" / "scheduler_config.json", flat)
    places = [model, model / "unet", flat]
    maps = [DiffusersBackbone("x", str(p)).native_maps(*inputs(), [3])[3] for p in places]
    assert all(torch.equal(one, maps[0]) for one in maps)
    found = find_model(str(flat))
    assert (found.scheduler, found.weights.parent) == (flat / "scheduler_config.json", flat)


def test_names_of_early_versions(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    before = DiffusersBackbone("x", str(model)).native_maps(*inputs(), [3])[3]
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(weights)
    for new, name in old.items():
        state = {key.replace(f".{new}.", f".{name}."): v for key, v in state.items()}
    assert any(".proj_attn." in key for key in state)
    save_file(state, weights, {"format": "pt"})
    assert torch.equal(DiffusersBackbone("x", str(model)).native_maps(*inputs(), [3])[3], before)


def test_untrained_weights_come_from_the_seed_alone(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    (model / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"does not exist\. A model is a folder with"):
        DiffusersBackbone("x", str(model))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    maps = [
        DiffusersBackbone("x", str(model), untrained=True, seed=s).native_maps(*inputs(), [3])[3]
        for s in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])


def test_identity(tmp_path: Path) -> None:
    one, other = write_model(tmp_path / "a"), write_model(tmp_path / "b", seed=2)
    base = DiffusersBackbone("x", str(one)).identity()
    assert base == DiffusersBackbone("y", str(one / "unet")).identity()
    different = [
        DiffusersBackbone("x", str(other)),
        DiffusersBackbone("x", str(one), "bf16"),
        DiffusersBackbone("x", str(one), noise_schedule="squaredcos_cap_v2"),
        *(DiffusersBackbone("x", str(one), untrained=True, seed=s) for s in (0, 1)),
    ]
    shown = [json.dumps(b.identity(), sort_keys=True) for b in different]
    assert len({*shown, json.dumps(base, sort_keys=True)}) == 6
    weights = file_sha256(one / "unet" / "diffusion_pytorch_model.safetensors")
    assert DiffusersBackbone("x", str(one)).checkpoint_sha256 == base["weights"] == weights


def rewrite(model: Path, **changes: Any) -> None:
    path = model / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "is conditioned on text"),
        ({"_class_name": "VQModel"}, "is a VQModel"),
        ({"in_channels": 4}, "takes 4 channels instead of"),
        ({"num_class_embeds": 10}, "is class-conditional"),
        ({"class_embed_type": "timestep"}, "is class-conditional"),
        ({"center_input_sample": True}, r"values 0\.\.1 and centres them itself"),
        (
            {"time_embedding_type": "fourier"},
            r"takes the level of the noise, not a timestep \(fourier",
        ),
        ({"up_block_types": ["AttnSkipUpBlock2D", "UpBlock2D"]}, "has a AttnSkipUpBlock2D among"),
        ({"down_block_types": ["KDownBlock2D", "DownBlock2D"]}, "has a KDownBlock2D among"),
        ({"downsample_padding": 2}, "pads by 2 before"),
        ({"upsample_type": "bilinear"}, "upsample_type 'bilinear'; known are conv, resnet"),
    ],
)
def test_networks_that_are_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    model = write_model(tmp_path)
    rewrite(model, **changes)
    with pytest.raises(CheckpointError, match=f"cannot|not a network that.*: it .*{says}"):
        DiffusersBackbone("x", str(model))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"block_out_channels": [32, 64, 64]}, "diffusers cannot build the network of .*same num"),
        ({"block_out_channels": [33, 64]}, "diffusers cannot build .*divisible"),
        ({"resnet_time_scale_shift": "spatial"}, "diffusers cannot build the network"),
        ({"block_out_channels": [32, 96]}, r"does not fit .*parameters differ\):\n  "),
        ({"layers_per_block": 2}, r"missing down_blocks\.0\.resnets\.1\.conv1\.bias"),
    ],
)
def test_configurations_that_do_not_fit(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    model = write_model(tmp_path)
    rewrite(model, **changes)
    with pytest.raises(CheckpointError, match=says):
        DiffusersBackbone("x", str(model))


def test_files_that_are_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    unet, weights = model / "unet", model / "unet" / "diffusion_pytorch_model.safetensors"
    for place, says in (
        (weights, "is a file. A model is a folder.*weights convert-diffusers"),
        (tmp_path, r"config\.json' does not exist. A model is a folder with"),
        (tmp_path / "none", "no such folder, nor a model's name on the Hugging"),
    ):
        with pytest.raises(CheckpointError, match=says):
            find_model(str(place))
    (model / "model_index.json").write_text('{"vqvae": ["diffusers", "VQModel"]}')
    for place in (model, unet):
        with pytest.raises(CheckpointError, match=r"is a latent diffusion model .*'vqvae'"):
            find_model(str(place))
    (model / "model_index.json").unlink()
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    with pytest.raises(CheckpointError, match="is truncated or no weight file"):
        DiffusersBackbone("x", str(model))
    weights.rename(unet / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"holds diffusion_pytorch_model\.bin, but no .*pick"):
        DiffusersBackbone("x", str(model))
    (unet / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json' cannot be read"):
        DiffusersBackbone("x", str(model), untrained=True)
    (unet / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="must hold a JSON object"):
        DiffusersBackbone("x", str(model), untrained=True)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_model(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[networks\]'"):
        DiffusersBackbone("x", str(model))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of a hub that cannot be reached."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_model_of_the_hubs_cache(hub: Path) -> None:
    place = hub / "models--someone--ponies" / "snapshots" / "abc"
    model = write_model(place)
    (place.parents[1] / "refs").mkdir()
    (place.parents[1] / "refs" / "main").write_text("abc")
    maps = [
        DiffusersBackbone("x", name).native_maps(*inputs(), [3])[3]
        for name in ("someone/ponies", str(model))
    ]
    assert torch.equal(*maps)


def test_a_model_that_is_not_in_the_hubs_cache(hub: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        find_model("someone/ponies")
    assert "`backbone.download=true` fetches it. Or fetch its files elsewhere" in str(caught.value)
    with pytest.raises(DownloadError, match=r"cannot be fetched .*name their folder in"):
        find_model("someone/ponies", download=True)


def given(model: Path, *overrides: str) -> tuple[str, ...]:
    unet = tuple(o for o in overrides if not o.startswith(("backbone=", "backbone.unet.")))
    return (*unet, "backbone=diffusers", f"backbone.checkpoint={model}")


def test_a_run_of_train(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    train(composed(tmp_path / "run", *given(model, *SEGMENT)))
    weights = file_sha256(model / "unet" / "diffusion_pytorch_model.safetensors")
    assert weights in (tmp_path / "run" / "results.csv").read_text()


def test_a_sweep_with_its_untrained_control(tmp_path: Path) -> None:
    model, folder = write_model(tmp_path / "model"), tmp_path / "sweep"
    overrides = (*given(model, *SWEEP), "sweep.controls=[random]")

    def request() -> Any:
        return composed(folder, *overrides, root="sweep")

    sweep(request(), True)
    assert blocks_done(folder, "random") == [[1, 1, 2, 2], [1, 2]]
    assert finished(request()) is not None
    write_model(model, seed=2)
    with pytest.raises(UserError, match="SHA-256 of the weights"):
        finished(request())


def test_what_the_commands_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "model")
    choice = ["backbone=diffusers", f"backbone.checkpoint={model}", "dataset.image_size=16"]
    assert main(["blocks", *choice]) == 0
    assert "    1        64   16x16   residual+attention+upsample" in capsys.readouterr().out
    assert main(["estimate", *choice]) == 2
    assert "block 5 does not exist in backbone 'diffusers'" in capsys.readouterr().err
    (model / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    few = ["features.blocks=[1]", "dataset.num_labelled=2", "dataset.num_test=2"]
    assert main(["estimate", *choice, *few]) == 0
    assert "weights: timed with random ones" in capsys.readouterr().out
