"""The encoders of SwAV and MAE: the original code's maps from the original code's files."""

import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from golden_encoders import (
    FACTS,
    LAYERS,
    golden,
    golden_images,
    mae_state,
    resnet_state,
    save_mae,
    save_swav,
)
from golden_fill import relative_error
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import resnet50

from ddpmseg.backbones.base import Hook
from ddpmseg.backbones.encoder import EncoderBackbone
from ddpmseg.backbones.mae.backbone import MaeBackbone, sincos_positions
from ddpmseg.backbones.swav.backbone import SwavBackbone
from ddpmseg.backbones.swav.resnet import ResNet
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.weights.read import PRECISIONS

EVERY_SECOND = [0, 2, 3, 5, 7, 9, 11, 13, 15]
TINY_LAYERS = [2, 1]
TINY_MAE = {
    "image_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "mlp_ratio": 2.0
}  # fmt: skip


def tiny_swav(
    checkpoint: Path | str = "random", channels: int = 4, **more: int | str
) -> SwavBackbone:
    return SwavBackbone("swav", channels, TINY_LAYERS, str(checkpoint), **more)  # pyright: ignore


def tiny_mae(checkpoint: Path | str = "random", **changes: int | float | str) -> MaeBackbone:
    return MaeBackbone("mae", checkpoint=str(checkpoint), **(TINY_MAE | changes))  # pyright: ignore


def tiny_mae_state() -> dict[str, Tensor]:
    decoder = {"mask_token": torch.ones(1, 1, 8), "decoder_pred.weight": torch.ones(2, 8)}
    return tiny_mae().network.state_dict() | decoder


def maps_of(
    backbone: EncoderBackbone,
    images: Tensor,
    blocks: list[int] | None = None,
    hook: Hook = "output",
) -> dict[int, Tensor]:
    chosen = range(len(backbone.blocks)) if blocks is None else blocks
    return backbone.native_maps(images, torch.zeros(len(images), dtype=torch.long), chosen, hook)


def pictures(side: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", ["swav", "swav_w2"])
def test_resnets_give_the_features_of_the_original_code(name: str, tmp_path: Path) -> None:
    channels = FACTS[name]["channels"]
    state = resnet_state(channels, LAYERS, FACTS[name]["fill_seed"])
    path = tmp_path / "weights.safetensors"
    save_file({f"module.{key}": value for key, value in state.items()}, path)
    backbone = SwavBackbone(name, channels, LAYERS, str(path))
    extractor = FeatureExtractor(backbone, EVERY_SECOND, [0], image_size=64, hook="input")
    # Undoes the extractor's own scaling: these pixels lie between whole numbers.
    maps = extractor.extract_all([((golden_images() + 1) * 127.5, ["a", "b"])], 2)
    pixels = torch.arange(31 * 64, 32 * 64, 15)
    found = maps.pixel_vectors(torch.zeros_like(pixels), pixels).T
    assert extractor.layout.dim == 105 * channels
    assert relative_error(found, golden()[f"{name}_features_image0_row_31"]) <= 1e-5


@pytest.fixture(scope="module")
def mae_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mae(tmp_path_factory.mktemp("mae") / "mae.pth", mae_state())


def golden_mae(path: Path, precision: str = "32") -> MaeBackbone:
    facts = FACTS["mae"]["config"]
    return MaeBackbone(
        "mae",
        facts["img_size"],
        *(facts[key] for key in ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")),
        checkpoint=str(path),
        precision=precision,
    )


def test_the_transformer_gives_the_maps_of_the_original_code(mae_file: Path) -> None:
    maps = maps_of(golden_mae(mae_file), golden_images(), FACTS["mae"]["blocks"])
    found = torch.stack(list(maps.values()), dim=1)
    assert relative_error(found, golden()["mae_native_maps"]) <= 1e-5


def test_positions_are_those_of_the_original_code() -> None:
    assert torch.equal(sincos_positions(96, 8, 8, 8), golden()["mae_pos_embed"])


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.02), ("16", 0.003)])
def test_16_bit_maps_are_close(
    precision: str, bound: float, mae_file: Path, tmp_path: Path
) -> None:
    path = save_swav(tmp_path / "swav.pth", resnet_state(8, LAYERS, 1))
    build = (partial(golden_mae, mae_file), partial(SwavBackbone, "swav", 8, LAYERS, str(path)))
    for make in build:
        exact, rounded = (maps_of(make(precision=p), golden_images()) for p in ("32", precision))
        for block, value in exact.items():
            assert rounded[block].dtype == PRECISIONS[precision]
            assert (rounded[block].float() - value).norm() <= bound * value.norm(), block


def test_maps_equal_those_of_torchvisions_own_forward(tmp_path: Path) -> None:
    """The names, the strides and the folded batch norms."""
    state = resnet_state(64, LAYERS, 3)
    network = resnet50(weights=None).eval()
    assert not network.load_state_dict(state, strict=False).unexpected_keys
    expected: list[Tensor] = []
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        for block in stage.children():
            block.register_forward_hook(lambda *given: expected.append(given[2].clone()))
    images = pictures(32, 1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        network(((images + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    save_file(state, tmp_path / "resnet.safetensors")
    backbone = SwavBackbone("swav", 64, LAYERS, str(tmp_path / "resnet.safetensors"))
    for value, wanted in zip(maps_of(backbone, images).values(), expected, strict=True):
        assert relative_error(value, wanted) <= 1e-5


def plain_attention(block: torch.nn.Module, x: Tensor, heads: int) -> Tensor:
    """A transformer's block in twelve lines, as the literature writes it."""
    state = block.state_dict()

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, value: Tensor) -> Tensor:
        centred = value - value.mean(-1, keepdim=True)
        scaled = centred / (value.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    qkv = linear("attn.qkv", norm("norm1", x)).unflatten(-1, (3, heads, -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    x = x + linear("attn.proj", (weights @ v).transpose(1, 2).flatten(2))
    h = linear("mlp.fc1", norm("norm2", x))
    return x + linear("mlp.fc2", h * 0.5 * (1 + torch.erf(h / 2**0.5)))


def test_a_transformer_block_is_the_one_of_the_literature(mae_file: Path) -> None:
    backbone = golden_mae(mae_file)
    tokens = torch.randn(2, 65, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        block = backbone.network.get_submodule("blocks.2")
        assert relative_error(block(tokens), plain_attention(block, tokens, heads=6)) <= 1e-5


@pytest.mark.parametrize("make", [tiny_swav, tiny_mae], ids=["swav", "mae"])
def test_the_input_of_a_block_is_the_output_of_the_one_before(
    make: Callable[[], EncoderBackbone],
) -> None:
    backbone = make()
    inputs, outputs = (maps_of(backbone, pictures(16), hook=hook) for hook in ("input", "output"))
    for block in range(1, len(backbone.blocks)):
        assert torch.equal(inputs[block], outputs[block - 1])


@pytest.mark.parametrize("hook", ["input", "output"])
def test_blocks_behind_the_deepest_wanted_do_not_run(hook: Hook) -> None:
    backbone, ran = tiny_mae(), []
    for index, block in enumerate(backbone.network.get_submodule("blocks").children()):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    maps_of(backbone, pictures(16), [0, 1], hook)
    assert ran == ([0] if hook == "input" else [0, 1])


def test_a_resnet_is_described_for_people() -> None:
    blocks = SwavBackbone("swav", 2, LAYERS, "random").blocks
    assert len(blocks) == 16
    assert [blocks[i].modules for i in EVERY_SECOND] == [
        "layer1[0]", "layer1[2]", "layer2[0]", "layer2[2]", "layer3[0]", "layer3[2]", "layer3[4]",
        "layer4[0]", "layer4[2]",
    ]  # fmt: skip
    assert [blocks[i].at("input") for i in EVERY_SECOND] == [
        (2, 4), (8, 4), (8, 4), (16, 8), (16, 8), (32, 16), (32, 16), (32, 16), (64, 32),
    ]  # fmt: skip


def test_colours_are_scaled_as_imagenets() -> None:
    """White, black and the mean colour, by the numbers of torchvision's documentation."""
    backbone = tiny_swav()
    seen: list[Tensor] = []
    backbone.network.conv1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    mean = torch.tensor([0.485, 0.456, 0.406]) * 2 - 1
    images = torch.stack([torch.ones(3), -torch.ones(3), mean])[..., None, None]
    maps_of(backbone, images.expand(-1, -1, 8, 8).contiguous(), [0])
    expected = torch.tensor(
        [[2.2489, 2.4286, 2.6400], [-2.1179, -2.0357, -1.8044], [0.0, 0.0, 0.0]]
    )
    assert torch.allclose(seen[0][:, :, 0, 0], expected, atol=1e-4)


def test_positions_are_stretched_over_another_grid() -> None:
    own, wide = sincos_positions(8, 2, 2, 2), sincos_positions(8, 4, 6, 2)
    assert wide.shape == (1, 25, 8)
    grid = wide[0, 1:].unflatten(0, (4, 6))
    # The centre of an own place lies between two places of twice the rows, at one of thrice the
    # columns.
    assert torch.equal(grid[0, 1, :4], own[0, 1, :4])
    assert torch.equal(grid[3, 4, :4], own[0, 4, :4])
    angles = torch.tensor([-0.25, 0.25, 0.75, 1.25]).double()
    assert torch.allclose(grid[:, 0, 4].double(), angles.sin())
    assert torch.allclose(grid[:, 5, 7].double(), (angles / 100).cos())


def test_a_transformer_takes_images_of_other_sizes(mae_file: Path) -> None:
    backbone = golden_mae(mae_file)
    small = maps_of(backbone, golden_images()[..., :32, :40], [5])[5]
    assert small.shape == (2, 96, 4, 5)
    with pytest.raises(ConfigError, match=r"sides divisible by 8, got \(64, 60\)"):
        maps_of(backbone, golden_images()[..., :60])
    with pytest.raises(ConfigError, match=r"divisible by 8; `dataset\.image_size` is 60"):
        FeatureExtractor(backbone, [0], [0], image_size=60)


def test_a_resnet_takes_images_its_last_stride_divides() -> None:
    backbone = tiny_swav()
    with pytest.raises(ConfigError, match=r"sides divisible by 8, got \(12, 12\)"):
        maps_of(backbone, pictures(12), [0])
    with pytest.raises(ConfigError, match=r"divisible by 8; `dataset\.image_size` is 12"):
        FeatureExtractor(backbone, [0], [0], image_size=12)


def test_what_only_the_training_needs_is_left_out_and_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tiny_swav(save_swav(tmp_path / "swav.pth", resnet_state(4, TINY_LAYERS, 1)))
    tiny_mae(save_mae(tmp_path / "mae.pth", tiny_mae_state()))
    told = [message for message in caplog.messages if "left out" in message]
    assert told == [
        f"'{tmp_path}/swav.pth': left out what only its training needs: projection_head (1), "
        "prototypes (1)",
        f"'{tmp_path}/mae.pth': left out what only its training needs: decoder_pred (1), "
        "mask_token (1)",
    ]


@pytest.mark.parametrize("name", ["bare.pth", "bare.safetensors", "legacy.pth"])
def test_bare_files_load_the_same(name: str, tmp_path: Path) -> None:
    state = resnet_state(4, TINY_LAYERS, 1)
    original = tiny_swav(save_swav(tmp_path / "swav.pth", state))
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name.startswith("bare"))
    images = pictures(16)
    found, expected = maps_of(tiny_swav(path), images), maps_of(original, images)
    assert all(torch.equal(found[block], value) for block, value in expected.items())


@pytest.mark.parametrize("make", [tiny_swav, tiny_mae], ids=["swav", "mae"])
def test_initial_weights_depend_on_the_seed_only(make: Callable[..., EncoderBackbone]) -> None:
    torch.manual_seed(1)
    one = make(seed=5)
    after = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), after)
    maps, same, others = (maps_of(b, pictures(16))[1] for b in (one, make(seed=5), make(seed=6)))
    assert torch.equal(maps, same)
    assert not torch.equal(maps, others)
    assert one.identity() == make(seed=5).identity() != make(seed=6).identity()
    assert one.checkpoint_sha256 == ""


def test_identity_tells_networks_and_files_apart(tmp_path: Path) -> None:
    path = save_swav(tmp_path / "swav.pth", resnet_state(4, TINY_LAYERS, 1))
    first, second = tiny_swav(path).identity(), tiny_swav(path, precision="bf16").identity()
    assert first["weights"] == tiny_swav(path).checkpoint_sha256
    assert first == tiny_swav(path, seed=7).identity()  # a file's weights are not drawn
    assert first != second
    assert tiny_mae(num_heads=4).identity() != tiny_mae().identity()


def refusal(make: Callable[[Path], EncoderBackbone], path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        make(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_of_another_network_is_answered_with_its_backbone(tmp_path: Path) -> None:
    swav = save_swav(tmp_path / "swav.pth", resnet_state(4, TINY_LAYERS, 1))
    mae = save_mae(tmp_path / "mae.pth", tiny_mae_state())
    assert refusal(tiny_swav, mae).endswith(
        "It is a vision transformer: use it with `backbone=mae`."
    )
    assert refusal(tiny_mae, swav).endswith(
        "It is a ResNet: use it with `backbone=swav or backbone=swav_w2`."
    )
    torch.save({"input_blocks.0.0.weight": torch.ones(1)}, tmp_path / "unet.pt")
    assert "It is a UNet of guided_diffusion" in refusal(tiny_mae, tmp_path / "unet.pt")
    torch.save({"weight": torch.ones(1)}, tmp_path / "other.pt")
    assert refusal(tiny_mae, tmp_path / "other.pt").endswith("(it has weight).")


def test_a_file_of_another_width_or_depth_is_answered_with_its_settings(tmp_path: Path) -> None:
    single = save_swav(tmp_path / "rn50.pth", resnet_state(4, TINY_LAYERS, 1))
    message = refusal(lambda path: tiny_swav(path, channels=8), single)
    assert "conv1.weight is [4, 3, 7, 7] in the file, [8, 3, 7, 7] in the network" in message
    assert message.endswith("The file fits with `backbone.channels=4`.")
    deeper = save_swav(tmp_path / "deep.pth", resnet_state(4, [2, 3], 1))
    assert refusal(tiny_swav, deeper).endswith("The file fits with `'backbone.stages=[2,3]'`.")
    mae = save_mae(tmp_path / "mae.pth", tiny_mae_state())
    other = partial(tiny_mae, image_size=32, depth=2)
    assert refusal(other, mae).endswith(
        "The file fits with `backbone.image_size=16 backbone.depth=3`."
    )


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("blocks.1.mlp.fc1.bias", "Parameters are missing from the file, or it holds others"),
        ("pos_embed", "(there is no 'pos_embed' of 3 axes)"),
        ("blocks.0.mlp.fc1.weight", "(there is no 'blocks.0.mlp.fc1.weight')"),
    ],
)
def test_missing_parameters_are_named(key: str, says: str, tmp_path: Path) -> None:
    state = tiny_mae_state()
    del state[key]
    message = refusal(tiny_mae, save_mae(tmp_path / "mae.pth", state))
    assert f"\n  missing {key} [" in message
    assert says in message


def test_missing_parameters_of_a_resnet_are_named(tmp_path: Path) -> None:
    state = resnet_state(4, TINY_LAYERS, 1)
    del state["bn1.running_var"]
    message = refusal(tiny_swav, save_swav(tmp_path / "swav.pth", state))
    wanted = len(state) + 1
    assert f"(1 of {wanted} parameters differ):\n  missing bn1.running_var [4]\n" in message


def test_learned_positions_are_refused(tmp_path: Path) -> None:
    state = tiny_mae_state()
    state["pos_embed"] = state["pos_embed"] + 0.1
    message = refusal(tiny_mae, save_mae(tmp_path / "mae.pth", state))
    assert "has other position embeddings (`pos_embed`) than the fixed sine and cosine" in message


@pytest.mark.parametrize("make", [tiny_swav, tiny_mae], ids=["swav", "mae"])
def test_no_files_and_damaged_ones(make: Callable[..., EncoderBackbone], tmp_path: Path) -> None:
    (tmp_path / "empty.pth").touch()
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>")
    (tmp_path / "cut.pth").write_bytes(
        save_swav(tmp_path / "whole.pth", resnet_state(4, TINY_LAYERS, 1)).read_bytes()[:5000]
    )
    assert "it is truncated or no weight file" in refusal(make, tmp_path / "empty.pth")
    assert "is a web page" in refusal(make, tmp_path / "page.pth")
    assert "it is truncated or no weight file" in refusal(make, tmp_path / "cut.pth")
    assert "is a folder" in refusal(make, tmp_path)
    assert "does not exist" in refusal(make, tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="is not the file that was asked for"):
        make(tmp_path / "whole.pth", sha256="0" * 64)


def test_blocks_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_mae().check([3], [0])
    assert str(caught.value) == (
        "block 3 does not exist in backbone 'mae' (encoder blocks 0..2, in forward order). "
        "Change `features.blocks`."
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_size": 18}, r"image_size=18`: must be divisible by `backbone.patch_size` \(4\)"),
        ({"num_heads": 3}, r"embed_dim=16`: must be divisible by `backbone.num_heads` \(3\)"),
        ({"embed_dim": 18}, r"embed_dim=18`: must be divisible by 4, for the sines"),
        ({"depth": 0}, "depth=0`: must be above 0"),
    ],
)
def test_settings_that_build_no_transformer(changes: dict[str, int], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        tiny_mae("random", **changes)


@pytest.mark.parametrize(("channels", "layers"), [(0, [1]), (4, []), (4, [1, 0])])
def test_settings_that_build_no_resnet(channels: int, layers: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"a ResNet needs channels, and bottlenecks in each"):
        SwavBackbone("swav", channels, layers, "random")


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.models.vision_transformer", None)
    with pytest.raises(ConfigError, match=r"needs timm, .* `pip install -e '\.\[netw"):
        tiny_mae()


def test_the_shape_alone_leaves_no_trace() -> None:
    """Positions are kept from call to call; those of a network without values must not be."""
    sincos_positions.cache_clear()
    with torch.device("meta"):
        tiny_mae()
    assert not sincos_positions(16, 4, 4, 4).is_meta


@pytest.mark.parametrize(("channels", "millions"), [(64, 23.5), (128, 93.9)])
def test_the_papers_resnets_have_their_parameters(channels: int, millions: float) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in ResNet(channels, LAYERS).parameters())
    assert round(count / 1e6, 1) == millions
