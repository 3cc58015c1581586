"""Networks of timm: what they give, at which sizes, from which files; and what is refused."""

import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from golden_fill import relative_error
from PIL import Image
from safetensors.torch import save_file
from tiny_run import HARDWARE, checked, composed
from torch import Tensor

from ddpmseg.backbones.timm.backbone import TimmBackbone
from ddpmseg.backbones.timm.models import chosen_layers, layer_numbers, layers_of
from ddpmseg.backbones.timm.settings import TimmConfig
from ddpmseg.backbones.timm.weights import hub_file
from ddpmseg.composition.plan import blocks, estimate
from ddpmseg.data.ponies import draw_pony
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.runs.predict import predict
from ddpmseg.runs.train import train

NETWORKS = ("test_resnet", "test_vit", "test_convnext")
NO_TIME = torch.zeros(2, dtype=torch.long)
RUN = (
    *HARDWARE,
    "backbone=timm",
    "backbone.name=test_vit",
    "backbone.checkpoint=random",
    "backbone.precision='32'",
    "dataset.image_size=32",
    "dataset.num_labelled=3",
    "dataset.num_test=2",
    "head.members=2",
    "head.hidden=[8]",
    "head.max_steps=4",
    "head.batch_size=64",
)


def images(side: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_those_of_the_network_on_normalised_images(name: str) -> None:
    backbone = TimmBackbone(name, "random", 64, norm=False)
    network: Any = timm.create_model(name, num_classes=0, **_sized(name, 64)).eval()
    network.load_state_dict(backbone.network.state_dict())
    mean, std = (torch.tensor(network.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    given = images(64)
    with torch.no_grad():
        expected = network.forward_intermediates(
            ((given + 1) / 2 - mean) / std, intermediates_only=True
        )
    found = backbone.native_maps(given, NO_TIME, range(len(backbone.blocks)))
    assert len(expected) == len(found)
    for block, value in enumerate(expected):
        assert relative_error(found[block], value) <= 1e-5


def _sized(name: str, side: int) -> dict[str, Any]:
    return {"img_size": side} if "vit" in name else {}


def test_final_normalisation_is_that_of_the_network() -> None:
    normed, raw = (TimmBackbone("test_vit", "random", 32, norm=norm) for norm in (True, False))
    given = images(32)
    last = normed.native_maps(given, NO_TIME, [5])[5]
    with torch.no_grad():
        expected = normed.network.forward_features(normed.preprocess(given))[:, 1:]
    assert relative_error(last.flatten(2).mT, expected) <= 1e-5
    assert relative_error(raw.native_maps(given, NO_TIME, [5])[5], last) > 0.1


@pytest.mark.parametrize(
    ("name", "image_size", "input_size", "seen", "sizes"),
    [
        ("test_vit", 64, None, 64, {4}),
        ("test_vit", 40, None, 48, {3}),
        ("test_vit", 64, 128, 128, {8}),
        ("vit_small_patch14_dinov2", 64, None, 70, {5}),
        ("vit_small_patch14_dinov2", 256, None, 266, {19}),
        ("vit_small_patch16_dinov3", 256, None, 256, {16}),
        ("test_resnet", 40, None, 64, {32, 16, 8, 4, 2}),
        ("test_convnext", 256, None, 256, {64, 32, 16, 8}),
    ],
)
def test_input_size_is_the_next_multiple_of_the_patch(
    name: str, image_size: int, input_size: int | None, seen: int, sizes: set[int]
) -> None:
    found = layers_of(name, image_size, input_size, True)
    assert found.input_size == seen
    assert {seen // block.stride for block in found.blocks} == sizes
    assert [block.index for block in found.blocks] == list(range(len(found.blocks)))


def test_images_are_resized_to_the_input_size() -> None:
    backbone = TimmBackbone("test_vit", "random", 40)
    assert backbone.map_size(0, "output", 40) == 3
    given = images(40)
    resized = F.interpolate(given, (48, 48), mode="bicubic", antialias=True).clamp(-1, 1)
    assert torch.equal(backbone.preprocess(given), backbone.preprocess(resized))
    for image in (given, resized):
        assert backbone.native_maps(image, NO_TIME, [0])[0].shape == (2, 64, 3, 3)


def test_colours_are_normalised_as_the_network_was_trained() -> None:
    backbone = TimmBackbone("mobilenetv3_small_050", "random", 32)
    for value in (-1.0, 0.0, 1.0):
        seen = backbone.preprocess(torch.full((1, 3, 32, 32), value))[0, :, 0, 0]
        unit = (value + 1) / 2
        # The mean and deviation of ImageNet's colours.
        expected = [(unit - 0.485) / 0.229, (unit - 0.456) / 0.224, (unit - 0.406) / 0.225]
        assert seen.tolist() == pytest.approx(expected, abs=1e-5)


def test_layers_are_named_in_forward_order() -> None:
    backbone = TimmBackbone("test_resnet", "random", 64)
    told = [(block.channels, block.stride, block.modules) for block in backbone.blocks]
    assert told[:2] == [(32, 2, "act1"), (32, 4, "layer1")]
    assert [stride for _, stride, _ in told] == [2, 4, 8, 16, 32]
    assert backbone.num_timesteps is None


def test_layers_above_the_last_wanted_one_do_not_run() -> None:
    backbone = TimmBackbone("test_vit", "random", 32)
    ran: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
        for index, block in enumerate(backbone.network.blocks)
    ]
    backbone.native_maps(images(32), NO_TIME, [0, 2])
    for handle in handles:
        handle.remove()
    assert ran == [0, 1, 2]


@pytest.mark.parametrize("name", NETWORKS)
def test_16_bit_maps_are_close(name: str) -> None:
    exact, rounded = (TimmBackbone(name, "random", 64, precision=p) for p in ("32", "bf16"))
    last = len(exact.blocks) - 1
    expected, found = (b.native_maps(images(64), NO_TIME, [0, last]) for b in (exact, rounded))
    for block, value in expected.items():
        assert found[block].dtype == torch.bfloat16
        assert (found[block].float() - value).norm() / value.norm() <= 0.03


def test_random_weights_depend_on_the_seed_only() -> None:
    torch.manual_seed(1)
    one = TimmBackbone("test_vit", "random", 32, seed=5)
    after = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), after)
    two, other = (TimmBackbone("test_vit", "random", 32, seed=seed) for seed in (5, 6))
    first, second, third = (b.network.state_dict() for b in (one, two, other))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["patch_embed.proj.weight"], third["patch_embed.proj.weight"])
    assert one.identity() == two.identity() != other.identity()


@pytest.mark.parametrize("layers", [None, "last2", [4, 1]])
def test_identity_leaves_out_which_layers_are_read(layers: object) -> None:
    backbone = TimmBackbone("test_vit", "random", 32, layers=layers)
    assert backbone.identity() == TimmBackbone("test_vit", "random", 32).identity()
    assert backbone.identity() != TimmBackbone("test_vit", "random", 32, input_size=64).identity()
    assert backbone.identity() != TimmBackbone("test_vit", "random", 32, norm=False).identity()


def test_layers_stand_for_numbers() -> None:
    assert layer_numbers(6, None, "x") == (0, 1, 2, 3, 4, 5)
    assert layer_numbers(6, "last4", "x") == (2, 3, 4, 5)
    assert layer_numbers(6, [5, 0], "x") == (0, 5)
    assert chosen_layers("test_vit", "last1") == [5]
    assert chosen_layers("no_such_network", None) == []


@pytest.mark.parametrize(
    "layers", ["last0", "last7", "first2", "3", "lastfew", [], [6], [-1], [1, 1], [1.5], 3]
)
def test_layers_that_do_not_exist_are_refused(layers: object) -> None:
    with pytest.raises(ConfigError) as caught:
        layer_numbers(6, layers, "test_vit")
    assert str(caught.value).startswith(f"`backbone.layers={str(layers).replace(' ', '')}`: ")
    assert "the layers 0..5 in forward order" in str(caught.value)


# Weight files


def weights(name: str = "test_vit", side: int = 160, classes: int = 1000) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return timm.create_model(name, num_classes=classes, **_sized(name, side)).state_dict()


def wrapped(state: dict[str, Tensor]) -> dict[str, Any]:
    """Ways in which training programs leave the same parameters."""
    return {
        "plain": state,
        "parallel": {f"module.{key}": value for key, value in state.items()},
        "nested": {"model": state, "epoch": 3},
        "twice": {"state_dict": {f"model.{key}": value for key, value in state.items()}},
        "teacher": {"teacher": {f"backbone.{key}": value for key, value in state.items()}},
    }


@pytest.mark.parametrize("how", list(wrapped({})))
def test_weights_are_read_from_within_what_is_wrapped_around_them(how: str, tmp_path: Path) -> None:
    state = weights(side=32)
    torch.save(wrapped(state)[how], tmp_path / "weights.pth")
    backbone = TimmBackbone("test_vit", str(tmp_path / "weights.pth"), 32)
    for key, value in backbone.network.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert len(backbone.checkpoint_sha256) == 64
    assert not isinstance(backbone.network.pretrained_cfg.get("state_dict"), dict)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_librarys_own_files_fit(name: str, tmp_path: Path) -> None:
    state = weights(name)
    save_file(state, tmp_path / "model.safetensors")
    backbone = TimmBackbone(name, str(tmp_path / "model.safetensors"), 64)
    own = backbone.network.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in own if key != "pos_embed")
    identity = backbone.identity()
    assert identity["weights"] == backbone.checkpoint_sha256
    assert backbone.native_maps(images(64), NO_TIME, [0])[0].isfinite().all()


def test_position_embeddings_of_another_size_are_resized(tmp_path: Path) -> None:
    state = weights(side=160)
    # A plane rises evenly at any size; its class token has no place.
    rows = torch.arange(10.0).view(10, 1).expand(10, 10).reshape(1, 100, 1)
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 1), rows], dim=1).expand(1, 101, 64).clone()
    save_file(state, tmp_path / "model.safetensors")
    backbone = TimmBackbone("test_vit", str(tmp_path / "model.safetensors"), 80)
    found = backbone.network.state_dict()["pos_embed"][0, 1:, 0].view(5, 5)
    assert found[2].tolist() == pytest.approx([4.5] * 5, abs=1e-4)
    assert (found[:, :1] - found).abs().max() <= 1e-5
    assert found[3, 0] - found[1, 0] == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (lambda: weights("test_resnet"), ["does not fit the network 'test_vit'", "backbone.name"]),
        (lambda: weights("test_convnext"), ["does not fit the network 'test_vit'"]),
        (
            lambda: {k: v for k, v in weights(side=32).items() if k != "blocks.3.mlp.fc1.bias"},
            ["Missing key", "blocks.3.mlp.fc1.bias"],
        ),
        (lambda: weights(side=32) | {"decoder.weight": torch.ones(1)}, ["decoder.weight"]),
        (lambda: weights("vit_tiny_patch16_224", 32, 0), ["size mismatch"]),
        (lambda: {"head.weight": torch.ones(1)}, ["holds no parameters"]),
        (lambda: {"model": {}, "args": "none"}, ["holds no parameters"]),
        (lambda: {"epoch": 3}, ["must map parameter names to tensors"]),
    ],
)
def test_files_of_other_networks_are_refused(
    content: Any, parts: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content(), path)
    with pytest.raises(CheckpointError) as caught:
        TimmBackbone("test_vit", str(path), 32)
    for part in [str(path), *parts]:
        assert part in str(caught.value)


def test_another_file_than_expected_is_refused(tmp_path: Path) -> None:
    save_file(weights(side=32), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is not the file that was asked for"):
        TimmBackbone("test_vit", str(tmp_path / "model.safetensors"), 32, sha256="0" * 64)


def test_offline_hub_says_which_file_to_bring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        hub_file("vit_small_patch14_dinov2")
    for part in (
        "`backbone.checkpoint=hub`: 'model.safetensors' of 'timm/vit_small_patch14_dinov2.lvd142m'",
        "`hf download timm/vit_small_patch14_dinov2.lvd142m model.safetensors`",
        "set `backbone.checkpoint` to its path",
    ):
        assert part in str(caught.value)


def test_a_file_in_the_hubs_cache_needs_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--timm--test_vit.r160_in1k"
    place = folder / "snapshots" / ("a" * 40)
    place.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    save_file(weights(side=160), place / "model.safetensors")
    backbone = TimmBackbone("test_vit", "hub", 32)
    assert backbone.checkpoint_sha256 != ""
    TimmConfig(name="test_vit").fetch(Path("downloads"))
    assert caplog.messages[-1].startswith(f"'{place / 'model.safetensors'}' is in the cache")


# What cannot work


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"name": "resnet5O"}, ["`backbone.name=resnet5O`", "Did you mean", "resnet50"]),
        ({"name": "vit_small_dinov2"}, ["Did you mean", "dinov2"]),
        ({"name": "qqqqqqqq"}, ["has no such network. `timm.list_models"]),
        ({"name": "resnet50.imagenet"}, ["has no weights 'imagenet'", "a1_in1k"]),
        ({"input_size": 40}, ["`backbone.input_size=40`", "a multiple of 16, such as 32 or 48"]),
        ({"input_size": 8}, ["`backbone.input_size=8`", "such as 16 or 32"]),
        ({"name": "inception_v3", "image_size": 96}, ["does not divide its input of 96 pixels"]),
        ({"name": "hiera_tiny_224"}, ["cannot be read out", "`backbone.norm=false`"]),
        ({"layers": [7]}, ["`backbone.layers=[7]`", "layers 0..5"]),
    ],
)
def test_networks_and_sizes_that_cannot_work_are_refused(
    settings: dict[str, Any], parts: list[str]
) -> None:
    given = {"name": "test_vit", "checkpoint": "random", "image_size": 64} | settings
    with pytest.raises(ConfigError) as caught:
        TimmBackbone(**given)
    for part in parts:
        assert part in str(caught.value)


def test_a_network_whose_layers_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("timm.models.resnet.ResNet.forward_intermediates")
    layers_of.cache_clear()
    with pytest.raises(ConfigError, match=r"`backbone.name=test_resnet`.*`forward_intermediates`"):
        TimmBackbone("test_resnet", "random", 64)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    layers_of.cache_clear()
    with pytest.raises(ConfigError, match=r"`pip install -e '\.\[networks\]'`"):
        TimmBackbone("test_vit", "random", 32)


def test_inputs_of_layers_are_not_read() -> None:
    backbone = TimmBackbone("test_vit", "random", 32)
    with pytest.raises(ConfigError, match="outputs, not inputs"):
        backbone.native_maps(images(32), NO_TIME, [0], "input")


# Through the programs


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["backbone.name=test_vitt"], ["`backbone.name=test_vitt`", "test_vit"]),
        (["backbone.layers=last9"], ["`backbone.layers=last9`", "layers 0..5"]),
        (["features.blocks=[6]"], ["block 6 does not exist", "(layers 0..5, in forward order)"]),
        (["features.hook=input"], ["`features.hook=input`", "at their output only"]),
        (["backbone.precision='8'"], ["`backbone.precision=8`"]),
        (["backbone.input_size=33"], ["`backbone.input_size=33`"]),
    ],
)
def test_a_wrong_setting_is_told_before_anything_is_read(
    overrides: list[str], parts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(composed(tmp_path, *RUN, *overrides))
    for part in parts:
        assert part in str(caught.value)


def test_a_missing_file_is_told_before_anything_is_read(tmp_path: Path) -> None:
    given = f"backbone.checkpoint={tmp_path / 'none.pth'}"
    with pytest.raises(CheckpointError, match="does not exist"):
        checked(composed(tmp_path, *RUN, given))
    planned = checked(composed(tmp_path, *RUN, given), files=False)
    assert any("timed with random ones" in line for line in estimate(planned))


def test_layers_choose_the_blocks_of_a_run(tmp_path: Path) -> None:
    def chosen(*overrides: str) -> list[int]:
        return checked(composed(tmp_path, *RUN, *overrides)).features.blocks

    assert chosen() == [0, 1, 2, 3, 4, 5]
    assert chosen("backbone.layers=last2") == [4, 5]
    assert chosen("backbone.layers=[0,3]") == [0, 3]
    assert chosen("backbone.layers=last2", "features.blocks=[1]") == [1]


def test_a_plan_says_that_there_are_no_timesteps(tmp_path: Path) -> None:
    config = checked(composed(tmp_path, *RUN, "backbone.input_size=64"), files=False)
    assert blocks(config)[:3] == [
        "test_vit: layers, in forward order; no timesteps",
        "block  channels     size  layers",
        "    0        64    4x4    blocks.0",
    ]
    told = estimate(config)
    assert told[0].endswith("of 'test_vit', no timesteps (outputs)")
    assert "(3 training + 2 test images, one each)" in told[2]


def test_a_head_is_trained_and_used(tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = (*RUN, "backbone.layers=last2", "features.cache_gb=0.01")
    train(composed(run, *given, f"paths.cache_dir={tmp_path / 'cache'}"))
    row = (run / "results.csv").read_text().splitlines()[1]
    assert ",test_vit,,4 5,-,mlp-8," in row
    assert (run / "overlays.png").is_file()
    assert len(list((tmp_path / "cache" / "maps").glob("*.safetensors"))) == 5
    image, _ = draw_pony(0, "test", image_size=32)
    Image.fromarray(image).save(tmp_path / "photo.png")
    predict([tmp_path / "photo.png"], run, tmp_path / "masks", "cpu")
    assert (tmp_path / "masks" / "photo.png").is_file()
