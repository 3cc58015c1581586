"""The encoder of ALAE: the original code's maps from the original code's files."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from golden_alae import FACTS, SETTINGS, alae_state, golden, save_alae
from golden_encoders import save_swav
from golden_fill import relative_error
from safetensors.torch import save_file
from torch import Tensor, nn

from ddpmseg.backbones.alae.backbone import AlaeBackbone, input_level, layer_numbers
from ddpmseg.backbones.alae.style_encoder import (
    EncodeBlock,
    StyleEncoder,
    halving_kernel,
    instance_norm,
    style_encoder_settings,
)
from ddpmseg.backbones.base import Hook
from ddpmseg.backbones.encoder import limit_size
from ddpmseg.backbones.mae.backbone import MaeBackbone
from ddpmseg.backbones.swav.backbone import SwavBackbone
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.weights.read import PRECISIONS
from ddpmseg.weights.shapes import shapes_of

TINY = {"levels": 3, "channels": 4, "max_channels": 8, "latent_size": 5}
"""For images of 16 pixels."""
PUBLISHED = FACTS["published"]


def tiny_alae(checkpoint: Path | str = "random", **changes: int | str) -> AlaeBackbone:
    settings = TINY | {"image_size": 16} | changes
    return AlaeBackbone("alae", checkpoint=str(checkpoint), **settings)  # pyright: ignore


def maps_of(
    backbone: AlaeBackbone, images: Tensor, blocks: list[int] | None = None, hook: Hook = "output"
) -> dict[int, Tensor]:
    chosen = range(len(backbone.blocks)) if blocks is None else blocks
    return backbone.native_maps(images, torch.zeros(len(images), dtype=torch.long), chosen, hook)


def pictures(side: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def golden_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alae") / "model_final.pth"
    return save_alae(path, alae_state(SETTINGS, FACTS["fill_seed"]))


def golden_alae(path: Path, side: int = 128, precision: str = "32") -> AlaeBackbone:
    return AlaeBackbone(
        "alae", **SETTINGS, image_size=side, checkpoint=str(path), precision=precision
    )


def off(value: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the root mean square; of large maps every fourth place."""
    value = value[..., ::4, ::4] if value.shape[-1] > 16 else value
    assert value.shape == expected.shape
    return ((value - expected).abs().max() / expected.square().mean().sqrt()).item()


def test_maps_are_those_of_the_original_code(golden_file: Path) -> None:
    maps = maps_of(golden_alae(golden_file), golden()["x"])
    assert len(maps) == 12
    for layer, value in maps.items():
        kept = golden()[f"block{layer // 2}_{('mid', 'out')[layer % 2]}"]
        assert off(value, kept) <= 1e-4, layer
    entering = maps_of(golden_alae(golden_file), golden()["x"], [0], "input")[0]
    assert off(entering, golden()["block0_in"]) <= 1e-4


def test_a_smaller_image_enters_at_its_own_level(golden_file: Path) -> None:
    backbone = golden_alae(golden_file, side=32)
    assert backbone.input_size == 32
    assert backbone.blocks[0].modules == "encode_block[2].instance_norm_1"
    assert len(backbone.blocks) == 8
    entering = maps_of(backbone, golden()["x32"], [0], "input")[0]
    assert off(entering, golden()["lod3_block2_in"]) <= 1e-4
    assert off(maps_of(backbone, golden()["x32"], [1])[1], golden()["lod3_block2_out"]) <= 1e-4


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.02), ("16", 0.003)])
def test_16_bit_maps_are_close(precision: str, bound: float, golden_file: Path) -> None:
    exact = maps_of(golden_alae(golden_file), golden()["x"])
    for layer, value in maps_of(golden_alae(golden_file, 128, precision), golden()["x"]).items():
        assert value.dtype == PRECISIONS[precision]
        assert (value.float() - exact[layer]).norm() <= bound * exact[layer].norm(), layer


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks_have_their_parameters(name: str) -> None:
    facts = PUBLISHED[name]
    settings = {
        "levels": facts["layer_count"],
        "channels": facts["start_channels"],
        "max_channels": facts["max_channels"],
        "latent_size": facts["latent_size"],
    }
    with torch.device("meta"):
        shapes = shapes_of(StyleEncoder(**settings).state_dict())
        full = AlaeBackbone(
            "alae", **settings, image_size=2 ** (settings["levels"] + 1), checkpoint="random"
        )
    lines = "".join(f"{key} {'x'.join(map(str, shapes[key]))}\n" for key in sorted(shapes))
    assert hashlib.sha256(lines.encode()).hexdigest() == facts["key_shapes_sha256"]
    assert style_encoder_settings(shapes) == settings
    channels = [block.channels for block in full.blocks]
    assert sum(channels) == facts["feature_dim_with_mids"]
    assert sum(channels[1::2]) == facts["feature_dim_block_outputs"]


def test_layers_are_described_for_people() -> None:
    blocks = tiny_alae().blocks
    assert [block.modules for block in blocks] == [
        f"encode_block[{level}].instance_norm_{norm}" for level in range(3) for norm in (1, 2)
    ]
    assert [block.at("output") for block in blocks] == [
        (4, 1),
        (8, 2),
        (8, 2),
        (8, 4),
        (8, 4),
        (8, 8),
    ]
    assert [block.at("input") for block in blocks] == [
        (4, 1),
        (4, 1),
        (8, 2),
        (8, 2),
        (8, 4),
        (8, 4),
    ]


def test_the_input_of_a_layer_is_the_output_of_the_one_before() -> None:
    backbone = tiny_alae()
    inputs, outputs = (maps_of(backbone, pictures(16), hook=hook) for hook in ("input", "output"))
    for layer in range(1, 6):
        assert torch.equal(inputs[layer], outputs[layer - 1])


def test_levels_behind_the_deepest_wanted_layer_do_not_run() -> None:
    backbone, ran = tiny_alae(), []
    for name, module in backbone.network.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    maps_of(backbone, pictures(16), [0, 2])
    assert ran == [
        "from_rgb.0.from_rgb",
        "encode_block.0.conv_1",
        "encode_block.0.blur",
        "encode_block.0.conv_2",
        "encode_block.1.conv_1",
    ]


def test_only_what_an_image_passes_is_kept() -> None:
    names = {name.rpartition(".")[0] for name, _ in tiny_alae(image_size=8).named_parameters()}
    assert len(tiny_alae(image_size=8).blocks) == 4
    assert not any("style" in name or "encode_block.2" in name for name in names)
    assert "network.from_rgb.1.from_rgb" not in names


def test_halving_is_a_convolution_and_a_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(5, 3, 3, 3, generator=generator)
    images = torch.randn(2, 3, 8, 12, generator=generator)
    apart = F.avg_pool2d(F.conv2d(images, kernel, padding=1), 2)
    together = F.conv2d(images, halving_kernel(kernel), stride=2, padding=1)
    assert relative_error(together, apart) <= 1e-5


def test_folding_leaves_the_maps_of_a_block() -> None:
    block = EncodeBlock(4, 6, 3).eval()
    nn.init.normal_(block.bias_1)
    nn.init.normal_(block.bias_2)
    images = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = block.second(block.first(images))
        block.fold()
        assert relative_error(block.second(block.first(images)), expected) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_are_those_of_torch_with_statistics_in_32_bits(dtype: torch.dtype) -> None:
    images = torch.randn(2, 5, 16, 16, generator=torch.Generator().manual_seed(0)) * 1e-2 + 3
    images = images.to(dtype, memory_format=torch.channels_last)
    expected = F.instance_norm(images.double(), eps=1e-5)
    found = instance_norm(images)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(found, expected) <= (2e-5 if dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize(
    ("side", "input_size", "level"),
    [
        (256, None, 0),
        (128, None, 1),
        (130, None, 0),
        (65, None, 1),
        (3, None, 6),
        (64, 256, 0),
        (512, 256, 0),
    ],
)
def test_images_enter_at_the_level_of_their_side(
    side: int, input_size: int | None, level: int
) -> None:
    assert input_level(7, side, input_size) == level
    assert layer_numbers(7, side, input_size) == list(range(14 - 2 * level))


def test_images_of_another_side_are_resized() -> None:
    images = pictures(8)
    enlarged = F.interpolate(images, (16, 16), mode="bicubic", antialias=True).clamp(-1, 1)
    for given in (tiny_alae(image_size=8, input_size=16), tiny_alae(image_size=12)):
        found, expected = maps_of(given, images), maps_of(tiny_alae(), enlarged)
        for layer, value in expected.items():
            # No map stays larger than the image.
            assert torch.equal(found[layer], limit_size(value, 8, 8))
    assert (
        FeatureExtractor(tiny_alae(image_size=12), [1], [0], image_size=12).layout.maps[0].size == 8
    )


def test_sizes_that_no_level_takes_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_alae(image_size=24)
    assert str(caught.value) == (
        "images of 24 pixels are larger than the network, which takes 16: set `backbone.input_size="
        "16` to resize them, or `dataset.image_size=16`."
    )
    with pytest.raises(ConfigError) as caught:
        tiny_alae(input_size=12)
    assert str(caught.value) == (
        "`backbone.input_size=12`: a network of 3 levels takes images of 16, 8, 4 pixels; null "
        "rounds `dataset.image_size` up to one."
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"levels": 0}, "`backbone.levels=0`: must be above 0"),
        ({"latent_size": -1}, "`backbone.latent_size=-1`: must be above 0"),
        ({"max_channels": 3}, r"max_channels=3`: must be at least `backbone\.channels` \(4\)"),
    ],
)
def test_settings_that_build_no_encoder(changes: dict[str, int], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        tiny_alae("random", **changes)


@pytest.mark.parametrize("name", ["old.pth", "bare.pth", "bare.safetensors", "parallel.pth"])
def test_other_files_load_the_same(name: str, tmp_path: Path) -> None:
    state = alae_state(TINY, 1)
    original = tiny_alae(save_alae(tmp_path / "model.pth", state))
    path = tmp_path / name
    if name == "old.pth":
        save_alae(path, state, legacy=True)
    elif path.suffix == ".safetensors":
        save_file(state, path)
    else:
        wrapped = {f"module.{key}": value for key, value in state.items()}
        torch.save(wrapped if name.startswith("parallel") else state, path)
    found, expected = maps_of(tiny_alae(path), pictures(16)), maps_of(original, pictures(16))
    assert all(torch.equal(found[layer], value) for layer, value in expected.items())


def test_initial_weights_depend_on_the_seed_only() -> None:
    torch.manual_seed(1)
    one = tiny_alae(seed=5)
    after = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), after)
    maps, same, others = (
        maps_of(b, pictures(16))[1] for b in (one, tiny_alae(seed=5), tiny_alae(seed=6))
    )
    assert torch.equal(maps, same)
    assert not torch.equal(maps, others)


def test_identity_tells_files_sizes_and_precisions_apart(tmp_path: Path) -> None:
    path = save_alae(tmp_path / "model.pth", alae_state(TINY, 1))
    first = tiny_alae(path).identity()
    assert first["weights"] == tiny_alae(path).checkpoint_sha256
    assert first == tiny_alae(path, seed=7).identity()
    assert first != tiny_alae(path, precision="bf16").identity()
    assert first != tiny_alae(path, image_size=8).identity()
    assert tiny_alae(seed=1).identity() != tiny_alae(seed=2).identity()


def refusal(path: Path, **changes: int | str) -> str:
    with pytest.raises(CheckpointError) as caught:
        tiny_alae(path, **changes)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_of_other_sizes_is_answered_with_its_settings(tmp_path: Path) -> None:
    path = save_alae(tmp_path / "model.pth", alae_state(TINY, 1))
    message = refusal(path, levels=4, latent_size=6, image_size=32)
    assert message.endswith("The file fits with `backbone.levels=3 backbone.latent_size=5`.")
    message = refusal(path, channels=2)
    assert "from_rgb.0.from_rgb.weight is [4, 3, 1, 1] in the file, [2, 3, 1, 1]" in message
    assert message.endswith("The file fits with `backbone.channels=4`.")


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("encode_block.1.bias_2", "Parameters are missing from the file, or it holds others"),
        ("encode_block.0.blur.weight", "Parameters are missing from the file, or it holds others"),
        (
            "encode_block.0.style_1.weight",
            "(there is no 'encode_block.0.style_1.weight' of 2 axes)",
        ),
        ("encode_block.2.conv_2.weight", "(there is no 'encode_block.2.conv_2.weight' of 4 axes)"),
    ],
)
def test_missing_parameters_are_named(key: str, says: str, tmp_path: Path) -> None:
    state = alae_state(TINY, 1)
    del state[key]
    message = refusal(save_alae(tmp_path / "model.pth", state))
    assert f"\n  missing {key} [" in message
    assert says in message


def test_files_of_other_networks_are_answered_with_their_backbone(tmp_path: Path) -> None:
    swav = save_swav(tmp_path / "swav.pth", {"layer1.0.conv1.weight": torch.ones(1)})
    assert refusal(swav).endswith(
        "It is a ResNet: use it with `backbone=swav or backbone=swav_w2`."
    )
    path = save_alae(tmp_path / "model.pth", alae_state(TINY, 1))
    for make in (
        lambda: SwavBackbone("swav", 4, [1], str(path)),
        lambda: MaeBackbone("mae", 16, 4, 16, 1, 2, 2.0, str(path)),
    ):
        with pytest.raises(CheckpointError) as caught:
            make()
        assert str(caught.value).endswith(
            "It is the encoder of an ALAE: use it with `backbone=alae`."
        )


class Trap:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_no_files_damaged_ones_and_traps(tmp_path: Path) -> None:
    path = save_alae(tmp_path / "whole.pth", alae_state(TINY, 1))
    (tmp_path / "empty.pth").touch()
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:4000])
    assert "it is truncated or no weight file" in refusal(tmp_path / "empty.pth")
    assert "it is truncated or no weight file" in refusal(tmp_path / "cut.pth")
    assert "does not exist" in refusal(tmp_path / "none.pth")
    torch.save({"models": {"generator_s": {"a": torch.ones(1)}}}, tmp_path / "half.pth")
    assert "must map parameter names to tensors; it" in refusal(tmp_path / "half.pth")
    marker = tmp_path / "executed"
    models = {"discriminator_s": alae_state(TINY, 1)}
    torch.save({"models": models, "auxiliary": Trap(marker)}, tmp_path / "trap.pth")
    assert "reading it would execute code stored in it" in refusal(tmp_path / "trap.pth")
    assert not marker.exists()
    with pytest.raises(CheckpointError, match="is not the file that was asked for"):
        tiny_alae(path, sha256="0" * 64)
