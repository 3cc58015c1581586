"""e4e and StyleGAN2: the original code's maps, from files as the original code writes them."""

import json
import logging
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from golden_encoders import resnet_state, save_swav
from golden_fill import FOLDER
from golden_gan import (
    OPTIONS,
    TINY,
    golden,
    golden_e4e,
    golden_generator,
    save_e4e,
    tiny_state,
)
from safetensors.torch import save_file
from torch import Tensor

from ddpmseg.backbones.encoder import EncoderBackbone, limit_size
from ddpmseg.backbones.gan.e4e import E4E
from ddpmseg.backbones.gan.encoder import GAN_ENCODER, GanEncoderBackbone
from ddpmseg.backbones.gan.inversion import GAN_INVERSION, GanInversionBackbone
from ddpmseg.backbones.swav.backbone import SwavBackbone
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.features.layout import FeatureLayout, MapSpec, feature_layout
from ddpmseg.features.maps import NativeMaps
from ddpmseg.weights.read import PRECISIONS

TOLERANCE = 1e-4
"""Largest difference as a share of the root mean square; the smallest mistake known gives 0.17."""


def tiny_inversion(
    checkpoint: Path | str = "random", **changes: int | str | None
) -> GanInversionBackbone:
    return GanInversionBackbone("gan", checkpoint=str(checkpoint), **(TINY | changes))  # pyright: ignore


def tiny_encoder(
    checkpoint: Path | str = "random", **changes: int | str | None
) -> GanEncoderBackbone:
    settings = {"channels": 16, "input_size": 32} | changes
    return GanEncoderBackbone("gan", checkpoint=str(checkpoint), **settings)  # pyright: ignore


Make = Callable[..., EncoderBackbone]
BOTH = pytest.mark.parametrize("make", [tiny_inversion, tiny_encoder], ids=["inversion", "encoder"])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_e4e(tmp_path_factory.mktemp("e4e") / "e4e.pt", tiny_state())


def maps_of(
    backbone: EncoderBackbone, images: Tensor, blocks: list[int] | None = None
) -> dict[int, Tensor]:
    chosen = range(len(backbone.blocks)) if blocks is None else blocks
    return backbone.native_maps(images, torch.zeros(len(images), dtype=torch.long), chosen)


def pictures(side: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def off(value: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the root mean square."""
    assert value.shape == expected.shape
    return ((value - expected).abs().max() / expected.square().mean().sqrt()).item()


def pixel_vectors(maps: list[Tensor], size: int, image: int, pixels: Tensor) -> Tensor:
    """Vectors of some pixels of an image, as the heads get them: (features, pixels)."""
    specs = [MapSpec(0, index, value.shape[1], value.shape[2]) for index, value in enumerate(maps)]
    native = NativeMaps.empty(
        FeatureLayout(tuple(specs), size, True), len(maps[0]), maps[0].dtype, torch.device("cpu")
    )
    for index, value in enumerate(maps):
        native.map(index).copy_(value.permute(0, 2, 3, 1))
    return native.pixel_vectors(torch.full_like(pixels, image), pixels).T


@torch.inference_mode()
def test_the_encoder_gives_the_maps_of_the_original_code() -> None:
    first, *body, coarse, fine = golden_e4e().encoder.iterate_maps(golden("e4e")["x"])
    assert off(first[0, ::4, ::4, ::4], golden("e4e")["enc_input_layer"]) <= TOLERANCE
    for index, value in enumerate(body):
        channels, step = (16 if 7 <= index < 21 else 8), (2 if index < 7 else 1)
        expected = golden("e4e")[f"enc_body{index}"]
        assert off(value[0, ::channels, ::step, ::step], expected) <= TOLERANCE, index
    assert off(coarse[0, ::8], golden("e4e")["fpn_p2"]) <= TOLERANCE
    assert off(fine[0, ::16], golden("e4e")["fpn_p1"]) <= TOLERANCE


@torch.inference_mode()
def test_the_codes_are_those_of_the_original_code() -> None:
    codes = torch.stack(list(golden_e4e().codes(golden("e4e")["x"])), dim=1)
    assert off(codes, golden("e4e")["codes"]) <= TOLERANCE


@torch.inference_mode()
def test_the_generator_gives_the_maps_of_the_original_code() -> None:
    """On codes of both images; pixel vectors as DatasetGAN and EditGAN put them together."""
    tensors = golden("e4e")
    constant, *maps = golden_e4e().decoder.iterate_maps(2, tensors["codes"].unbind(dim=1))
    assert off(constant[0, ::8], tensors["dec_const"]) <= TOLERANCE
    assert off(maps[0][1, ::8], tensors["dec_conv1"]) <= TOLERANCE
    for index, value in enumerate(maps[1:]):
        channels, step = (16, 16, 32, 32, 64, 64)[index], 1 if index < 4 else 2
        expected = tensors[f"dec_convs{index}"]
        assert off(value[1, ::channels, ::step, ::step], expected) <= TOLERANCE, index
    found = pixel_vectors(maps, 32, 0, 13 * 32 + torch.arange(0, 32, 8))
    assert off(found, tensors["features_image0_row_13"]) <= TOLERANCE
    found = pixel_vectors([constant, *maps], 32, 1, 20 * 32 + torch.arange(0, 32, 16))
    assert off(found, tensors["features_with_const_image1_row_20"]) <= TOLERANCE


@torch.inference_mode()
def test_the_generator_is_that_of_stylegan2_ada() -> None:
    """The same function under other names; below its own size too, where maps are limited."""
    tensors = golden("stylegan2")
    generator = golden_generator()
    constant, *maps = generator.iterate_maps(2, tensors["ws"].unbind(dim=1))
    names = [f"b{4 << (i + 1) // 2}_conv{(i + 1) % 2}" for i in range(7)]
    for name, value in zip(names, maps, strict=True):
        step = 2 if value.shape[-1] > 8 else 1
        assert off(value[:, :, ::step, ::step], tensors[f"map_{name}"]) <= TOLERANCE, name
    found = pixel_vectors(maps, 32, 0, 9 * 32 + torch.arange(32))
    assert off(found, tensors["features_image0_row_9"]) <= TOLERANCE
    found = pixel_vectors([constant, *maps], 32, 1, 20 * 32 + torch.arange(32))
    assert off(found, tensors["features_with_const_image1_row_20"]) <= TOLERANCE
    small = [limit_size(value, 16, 16) for value in maps]
    assert {value.shape[-1] for value in small} == {4, 8, 16}
    found = pixel_vectors(small, 16, 0, 5 * 16 + torch.arange(16))
    assert off(found, tensors["features_size16_image0_row_5"]) <= TOLERANCE


def test_a_published_file_has_the_parameters_of_the_network() -> None:
    """Names and shapes of the file for FFHQ at 1024 pixels."""
    keys = json.loads((FOLDER / "e4e_keys.json").read_text())
    state = {key: torch.empty(shape, device="meta") for key, shape in keys.items()}
    kept, others = GAN_INVERSION.part_of(state)
    with torch.device("meta"):
        network = E4E(1024, 512)
        encoder = GanEncoderBackbone("gan", 512, 256, "random")
    wanted = network.state_dict()
    assert wanted.pop("latent_avg").shape == (18, 512)
    assert {key: list(value.shape) for key, value in wanted.items()} == {k: keys[k] for k in kept}
    assert [other.split()[0] for other in others] == [
        "decoder.style", "decoder.to_rgb1", "decoder.to_rgbs"
    ]  # fmt: skip
    shapes = {key: tuple(shape) for key, shape in keys.items()}
    assert GAN_INVERSION.settings(shapes) == {"size": 1024, "channels": 512}
    assert GAN_ENCODER.settings(shapes) == {"channels": 512}
    assert len(encoder.blocks) == 26


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.04), ("16", 0.005)])
@BOTH
def test_16_bit_maps_are_close(make: Make, precision: str, bound: float, file: Path) -> None:
    exact, rounded = (maps_of(make(file, precision=p), pictures(32)) for p in ("32", precision))
    for block, value in exact.items():
        assert rounded[block].dtype == PRECISIONS[precision]
        assert (rounded[block].float() - value).norm() <= bound * value.norm(), block


def test_16_bits_do_not_overflow_with_large_styles(tmp_path: Path) -> None:
    """A normalisation undoes them; on the way there a style of 1e6 does not fit float16."""
    state = tiny_state()
    large = {key: value * 1e6 if "modulation" in key else value for key, value in state.items()}
    usual, scaled = (
        maps_of(
            tiny_inversion(save_e4e(tmp_path / "e4e.pt", weights), precision="16"), pictures(32)
        )
        for weights in (state, large)
    )
    for block, value in usual.items():
        assert (scaled[block] - value).float().norm() <= 0.01 * value.float().norm(), block


def test_the_constant_is_the_same_for_every_image_and_needs_no_codes(file: Path) -> None:
    backbone, ran = tiny_inversion(file), []
    backbone.network.encoder.input_layer.register_forward_hook(lambda *_: ran.append(1))
    constant = maps_of(backbone, pictures(32), [0])[0]
    assert not ran
    assert torch.equal(constant[0], constant[1])
    assert torch.equal(constant[0], tiny_state()["decoder.input.input"][0])
    others = maps_of(backbone, pictures(32), [1])[1]
    assert not torch.allclose(others[0], others[1])


def test_heads_of_layers_behind_the_deepest_wanted_do_not_run(file: Path) -> None:
    backbone, ran = tiny_inversion(file), []
    for index, head in enumerate(backbone.network.encoder.styles):
        head.register_forward_hook(lambda *_, index=index: ran.append(index))
    maps_of(backbone, pictures(32), [1, 2])
    assert ran == [0, 1]
    ran.clear()
    maps_of(backbone, pictures(32))  # the last head is for colours only
    assert ran == [0, 1, 2, 3, 4]


def test_every_layer_has_a_code_of_its_own(file: Path) -> None:
    """The first head reaches all layers, every other its own and those behind it."""
    usual = maps_of(tiny_inversion(file), pictures(32))
    for head in range(5):
        backbone = tiny_inversion(file)
        backbone.network.encoder.styles[head].linear.bias.data.add_(1)  # pyright: ignore
        changed = maps_of(backbone, pictures(32))
        same = [block for block in usual if torch.equal(usual[block], changed[block])]
        assert same == list(range(head + 1))


def test_blocks_are_described_for_people() -> None:
    with torch.device("meta"):
        inversion = GanInversionBackbone("gan", 1024, 512, 256, "random")
        encoder = GanEncoderBackbone("gan", 512, 256, "random")
    assert len(inversion.blocks) == 18
    assert [inversion.blocks[i].modules for i in (0, 1, 2, 17)] == [
        "constant", "conv1", "convs[0]", "convs[15]"
    ]  # fmt: skip
    assert [(b.channels, 1024 // b.stride) for b in inversion.blocks[8:]] == [
        (512, 64), (512, 64), (256, 128), (256, 128), (128, 256), (128, 256),
        (64, 512), (64, 512), (32, 1024), (32, 1024),
    ]  # fmt: skip
    assert [encoder.blocks[i].at("input") for i in (0, 3, 7, 21, 24, 25)] == [
        (64, 1), (64, 2), (128, 4), (256, 8), (512, 16), (512, 8)
    ]  # fmt: skip
    assert sum(block.channels for block in encoder.blocks[:24]) == 5824
    assert [(b.channels, b.stride, b.modules) for b in encoder.blocks[23:]] == [
        (512, 16, "body[23]"), (512, 8, "pyramid[1/8]"), (512, 4, "pyramid[1/4]")
    ]  # fmt: skip


@pytest.mark.parametrize("side", [8, 6, 4])
def test_maps_larger_than_the_image_are_reduced_without_a_change_to_pixel_vectors(
    side: int, file: Path
) -> None:
    """A generator of 16 pixels read out for smaller images; its encoder sees them at 32."""
    backbone, images = tiny_inversion(file), pictures(side)
    layout = feature_layout(backbone, range(6), [0], "output", side)
    assert [spec.size for spec in layout.maps] == [4, 4, *4 * [side]]
    maps = maps_of(backbone, images)
    assert [value.shape[-1] for value in maps.values()] == [4, 4, *4 * [side]]
    with torch.inference_mode():
        native = list(backbone.network.iterate_maps(backbone.fit_input(images)))
    assert [value.shape[-1] for value in native] == [4, 4, 8, 8, 16, 16]
    pixels = torch.arange(side**2)
    found = pixel_vectors(list(maps.values()), side, 1, pixels)
    assert off(found, pixel_vectors(native, side, 1, pixels)) <= 1e-5


@BOTH
def test_images_are_resized_for_the_encoder_as_the_original_code_does(
    make: Make, file: Path
) -> None:
    """Pillow's bilinear filter, which the original code resizes 8-bit images with."""
    from PIL import Image

    small = torch.randint(256, (1, 3, 48, 48), generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(small[0].permute(1, 2, 0).byte().numpy())
    seen = make(file).fit_input(small / 127.5 - 1)
    smaller = picture.resize((32, 32), Image.Resampling.BILINEAR)
    expected = torch.tensor(list(smaller.tobytes())).view(32, 32, 3).permute(2, 0, 1)
    # Pillow rounds to whole numbers twice, along each axis.
    assert ((seen[0] + 1) * 127.5 - expected).abs().max() <= 1.01
    images = pictures(32)
    assert torch.equal(make(file).fit_input(images), images)


def test_the_average_code_is_added_where_the_training_did(tmp_path: Path, file: Path) -> None:
    average = torch.load(file, weights_only=True)["latent_avg"]
    left_out = OPTIONS | {"start_from_latent_avg": False}
    codes = []
    for changes in ({}, {"opts": left_out}, {"opts": left_out, "latent_avg": None}):
        network = tiny_inversion(save_e4e(tmp_path / "e4e.pt", tiny_state(), **changes)).network
        with torch.inference_mode():
            codes.append(torch.stack(list(network.codes(pictures(32))), dim=1))
    with_average, without, also_without = codes
    assert torch.equal(without, also_without)
    assert torch.allclose(with_average - without, average.expand_as(without), atol=1e-5)


def test_one_file_feeds_both(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    encoder, inversion = tiny_encoder(file), tiny_inversion(file)
    assert encoder.checkpoint_sha256 == inversion.checkpoint_sha256 != ""
    told = [message.partition("needs: ")[2] for message in caplog.messages if "left out" in message]
    assert told == [
        "decoder (36), encoder.styles (66)",
        "decoder.style (1), decoder.to_rgb1 (1), decoder.to_rgbs (1)",
    ]
    found = maps_of(encoder, pictures(32), [23])[23]
    with torch.inference_mode():
        *_, expected, _, _ = inversion.network.encoder.iterate_maps(pictures(32))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["bare.pth", "bare.safetensors", "namespace.pt"])
def test_files_of_other_layouts_load_the_same(name: str, tmp_path: Path, file: Path) -> None:
    average = torch.load(file, weights_only=True)["latent_avg"]
    path, bare = tmp_path / name, tiny_state() | {"latent_avg": average}
    if path.suffix == ".safetensors":
        save_file(bare, path)
    elif path.suffix == ".pth":
        torch.save(bare, path)
    else:
        save_e4e(path, tiny_state(), opts=Namespace(**OPTIONS), optimizer={"state": {}})
    found, expected = (maps_of(tiny_inversion(p), pictures(32)) for p in (path, file))
    assert all(torch.equal(found[block], value) for block, value in expected.items())


@BOTH
def test_initial_weights_depend_on_the_seed_only(make: Make) -> None:
    torch.manual_seed(1)
    one = make(seed=5)
    after = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), after)
    maps, same, others = (maps_of(b, pictures(32))[2] for b in (one, make(seed=5), make(seed=6)))
    assert torch.equal(maps, same)
    assert not torch.equal(maps, others)
    assert one.identity() == make(seed=5).identity() != make(seed=6).identity()


def test_identity_tells_networks_and_files_apart(file: Path) -> None:
    first = tiny_inversion(file).identity()
    assert first["weights"] == tiny_inversion(file).checkpoint_sha256
    assert first == tiny_inversion(file, seed=7).identity()
    assert first != tiny_inversion(file, precision="bf16").identity()
    assert first != tiny_inversion(file, input_size=48).identity()
    assert first != tiny_encoder(file).identity()


def refusal(make: Callable[[Path], EncoderBackbone], path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        make(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_of_another_network_is_answered_with_its_backbone(
    tmp_path: Path, file: Path
) -> None:
    swav = save_swav(tmp_path / "swav.pth", resnet_state(4, [2, 1], 1))
    assert refusal(tiny_inversion, swav).endswith(
        "It is a ResNet: use it with `backbone=swav or backbone=swav_w2`."
    )
    assert refusal(lambda path: SwavBackbone("swav", 4, [2, 1], str(path)), file).endswith(
        "It is an encoder of e4e with its generator: use it with `backbone=gan_inversion or "
        "backbone=gan_encoder`."
    )


def test_a_file_of_another_size_is_answered_with_its_settings(file: Path) -> None:
    message = refusal(partial(tiny_inversion, size=32), file)
    assert "\n  missing encoder.styles.6.convs.0.weight [16, 16, 3, 3]\n" in message
    assert message.endswith("The file fits with `backbone.size=16`.")
    assert refusal(partial(tiny_encoder, channels=32), file).endswith(
        "The file fits with `backbone.channels=16`."
    )


def test_a_file_of_another_encoder_is_refused_where_codes_matter(tmp_path: Path) -> None:
    """The layout of pSp is the same, but its heads give whole codes."""
    options = OPTIONS | {"encoder_type": "GradualStyleEncoder"}
    path = save_e4e(tmp_path / "psp.pt", tiny_state(), opts=options)
    assert refusal(tiny_inversion, path).endswith(
        "cannot be used: its encoder is a GradualStyleEncoder, which combines codes in "
        "another way than e4e (Encoder4Editing)."
    )
    assert len(tiny_encoder(path).blocks) == 26


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("encoder.body.3.res_layer.1.weight", "Parameters are missing from the file"),
        ("encoder.input_layer.0.weight", "those of no network that is known here"),
        ("decoder.convs.3.conv.weight", "its generator has 3 layers 'decoder.convs'"),
        ("decoder.noises.noise_4", "Parameters are missing from the file"),
        ("decoder.convs.0.conv.blur.kernel", "Parameters are missing from the file"),
    ],
)
def test_missing_parameters_are_named(key: str, says: str, tmp_path: Path) -> None:
    state = tiny_state()
    del state[key]
    message = refusal(tiny_inversion, save_e4e(tmp_path / "e4e.pt", state))
    assert f"\n  missing {key} [" in message
    assert says in message


def test_a_missing_average_code_is_named(tmp_path: Path) -> None:
    path = save_e4e(tmp_path / "e4e.pt", tiny_state(), latent_avg=None)
    assert "(1 of " in (message := refusal(tiny_inversion, path))
    assert "\n  missing latent_avg [6, 16]\n" in message
    assert len(tiny_encoder(path).blocks) == 26  # which needs none


@BOTH
def test_no_files_and_damaged_ones(make: Make, tmp_path: Path, file: Path) -> None:
    (tmp_path / "cut.pt").write_bytes(file.read_bytes()[:5000])
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html>Google Drive - Virus scan warning")
    torch.save({"state_dict": tiny_state(), "opts": Path("x")}, tmp_path / "objects.pt")
    assert "it is truncated or no weight file" in refusal(make, tmp_path / "cut.pt")
    assert "is a web page" in refusal(make, tmp_path / "page.pt")
    assert "reading it would execute code" in refusal(make, tmp_path / "objects.pt")
    assert "does not exist" in refusal(make, tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is not the file that was asked for"):
        make(file, sha256="0" * 64)


@pytest.mark.parametrize(
    ("make", "changes", "says"),
    [
        (tiny_inversion, {"size": 48}, "size=48`: must be a power of two, at least 8"),
        (tiny_inversion, {"size": 4}, "size=4`: must be a power of two, at least 8"),
        (tiny_inversion, {"input_size": 272}, "input_size=272`: must be a multiple of 16, at most"),
        (tiny_inversion, {"channels": 12}, "channels=12`: must be a multiple of 8"),
        (tiny_encoder, {"channels": 0}, "channels=0`: must be a multiple of 8"),
        (tiny_encoder, {"input_size": 40}, "input_size=40`: must be a multiple of 16;"),
        (tiny_encoder, {"input_size": 0}, "input_size=0`: must be a multiple of 16;"),
    ],
)
def test_settings_that_build_no_network(make: Make, changes: dict[str, int], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make(**changes)


def test_the_generator_is_read_at_its_outputs_only() -> None:
    with pytest.raises(ConfigError, match="are read at their output only"):
        tiny_inversion().check([1], [0], "input")
    with pytest.raises(ConfigError) as caught:
        tiny_inversion().check([6], [0])
    assert str(caught.value) == (
        "block 6 does not exist in backbone 'gan' (generator layers 0..5, in forward order). "
        "Change `features.blocks`."
    )


@pytest.mark.parametrize(
    ("size", "dim"), [(256, 5376), (512, 5504), (1024, 5568)], ids=["256", "512", "1024"]
)
def test_the_published_generators_have_their_dimensions(size: int, dim: int) -> None:
    with torch.device("meta"):
        backbone = GanInversionBackbone("gan", size, 512, 256, "random")
    assert sum(block.channels for block in backbone.blocks[1:]) == dim
