"""The very deep VAE: the original code's maps from the original code's files."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_vdvae import (
    FACTS,
    TINY,
    empty_state,
    golden,
    golden_backbone,
    golden_images,
    golden_state,
    save_vdvae,
    tiny_state,
    tiny_vdvae,
)
from safetensors.torch import save_file
from test_encoders import maps_of, pictures
from torch import Tensor

from ddpmseg.backbones.swav.backbone import SwavBackbone
from ddpmseg.backbones.vdvae.layout import DecoderBlockSpec, EncoderBlockSpec, read_layout
from ddpmseg.backbones.vdvae.settings import VdvaeConfig
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.randomness import keyed_generator
from ddpmseg.weights.read import PRECISIONS

NUM_ENCODER_BLOCKS = 12


@pytest.fixture(scope="module")
def golden_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vdvae(tmp_path_factory.mktemp("vdvae") / "vdvae.th", golden_state())


def assert_golden(value: Tensor, name: str) -> None:
    """Maps above 8 x 8 are stored of image 0, at every fourth row and column."""
    if value.shape[-1] > 8:
        value = value[:1, :, ::4, ::4]
    expected = golden()[name]
    assert value.shape == expected.shape
    assert (value - expected).abs().max() <= 1e-4 * expected.square().mean().sqrt(), name


def test_weights_are_those_of_the_recipe() -> None:
    for key, total in FACTS["weight_sums"].items():
        assert golden_state()[key].sum().item() == pytest.approx(total, abs=1e-4)


def test_maps_are_those_of_the_original_code(golden_file: Path) -> None:
    maps = maps_of(golden_backbone(golden_file), golden_images())
    assert len(maps) == 22
    for block, value in maps.items():
        decoder = block - NUM_ENCODER_BLOCKS
        assert_golden(value, f"enc_block{block}" if decoder < 0 else f"mean_dec_block{decoder}")


def test_sampled_maps_are_those_of_the_original_code(golden_file: Path) -> None:
    backbone = golden_backbone(golden_file)
    seen = backbone._shift + backbone._scale * golden_images()[:1]
    with torch.no_grad():
        _, *maps = backbone.network.maps(seen, lambda block, _: golden()[f"eps{block}"][0])
    for block, value in enumerate(maps[NUM_ENCODER_BLOCKS:]):
        assert_golden(value, f"sample_dec_block{block}")


def test_images_are_scaled_as_in_its_training(golden_file: Path) -> None:
    backbone, seen = golden_backbone(golden_file), []
    backbone.network.encoder.in_conv.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    maps_of(backbone, golden_images(), [0])
    expected = golden()["x_preprocessed"]
    assert torch.allclose(seen[0].permute(0, 2, 3, 1)[:, : expected.shape[1]], expected, atol=1e-5)


def test_the_published_network_has_its_names_and_shapes() -> None:
    settings, facts = vars(VdvaeConfig()), FACTS["published"]
    state = empty_state(settings)
    lines = (f"{key} {'x'.join(map(str, state[key].shape))}\n" for key in sorted(state))
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == facts["key_shapes_sha256"]
    assert sum(value.numel() for value in state.values()) == facts["num_parameters"]


def test_the_published_layout_has_its_skips() -> None:
    usual = VdvaeConfig()
    layout = read_layout(usual.enc_blocks, usual.dec_blocks)
    assert (len(layout.encoder), len(layout.decoder), layout.image_size) == (68, 66, 256)
    last = layout.last_of_each_side()
    skips = {str(side): block for (part, side), block in last.items() if part == "encoder"}
    assert skips == FACTS["published"]["skip_block_per_resolution"]


def test_a_layout_is_read() -> None:
    layout = read_layout(["8", "8x2", "8d4", "2"], ["2x2", "8m2"])
    assert layout.encoder == (
        *[EncoderBlockSpec(8)] * 3,
        EncoderBlockSpec(8, 4),
        EncoderBlockSpec(2),
    )
    assert layout.decoder == (DecoderBlockSpec(2), DecoderBlockSpec(2), DecoderBlockSpec(8, 2))
    assert layout.sides() == [8, 8, 8, 2, 2, 2, 2, 8]


def test_blocks_are_described_for_people() -> None:
    blocks = tiny_vdvae().blocks
    assert [block.modules for block in blocks[1:3] + blocks[6:8]] == [
        "enc_blocks[1], then averaged by 2", "enc_blocks[2]", "dec_blocks[0]",
        "dec_blocks[1], adds 1x1",
    ]  # fmt: skip
    strides = [(block.input_stride, block.stride) for block in blocks]
    assert strides[:6] == [(1, 1), (1, 2), (2, 2), (2, 2), (2, 8), (8, 16)]
    assert strides[6:] == [(16, 16), (8, 8), (2, 2), (2, 2), (1, 1)]


def test_kernels_fit_the_smallest_maps() -> None:
    state = empty_state(TINY)
    kernels = [state[f"encoder.enc_blocks.{i}.c2.weight"].shape[-1] for i in range(6)]
    assert kernels == [3, 3, 3, 3, 3, 1]
    kernels = [state[f"decoder.dec_blocks.{i}.enc.c3.weight"].shape[-1] for i in range(5)]
    assert kernels == [1, 1, 3, 3, 3]


def test_default_blocks_are_the_last_of_each_side() -> None:
    usual = VdvaeConfig()
    full = tiny_vdvae(enc_blocks=usual.enc_blocks, dec_blocks=usual.dec_blocks)
    assert full.default_blocks == (11, 24, 42, 50, 56, 78, 88, 110, 124, 132)
    assert tiny_vdvae().default_blocks == (3, 9)
    small = tiny_vdvae(enc_blocks=["4x1", "4d4", "1x1"], dec_blocks=["1x1", "4m1"])
    assert small.default_blocks == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("wanted", "encoder", "decoder"), [([0, 2], 3, 0), ([5], 6, 0), ([1, 7], 6, 2), ([10], 6, 5)]
)
def test_blocks_behind_the_deepest_wanted_do_not_run(
    wanted: list[int], encoder: int, decoder: int
) -> None:
    backbone, ran = tiny_vdvae(), []
    for part in (backbone.network.encoder.enc_blocks, backbone.network.decoder.dec_blocks):
        for block in part:
            block.register_forward_hook(lambda *_, part=part: ran.append(part))
    assert sorted(maps_of(backbone, pictures(16), wanted)) == wanted
    assert len(ran) == encoder + decoder
    assert sum(part is backbone.network.decoder.dec_blocks for part in ran) == decoder


def test_sampled_latents_depend_on_the_seed_alone(tmp_path: Path) -> None:
    path = save_vdvae(tmp_path / "vdvae.th", tiny_state())
    images = pictures(16).expand(2, -1, -1, -1)[[0, 0]]
    one, same, other = (tiny_vdvae(path, latents="sampled", seed=seed) for seed in (3, 3, 4))
    mean, maps = maps_of(tiny_vdvae(path), images), maps_of(one, images)
    for block in range(6):
        assert torch.equal(maps[block], mean[block])
    for block in range(6, 11):
        assert torch.equal(maps[block][0], maps[block][1])
        assert torch.equal(maps[block], maps_of(same, images)[block])
        assert not torch.allclose(maps[block], mean[block], rtol=0.1)
        assert not torch.allclose(maps[block], maps_of(other, images)[block], rtol=0.1)


def test_the_noise_of_a_latent_is_keyed_by_its_block() -> None:
    drawn = tiny_vdvae(latents="sampled", seed=3)._noise(2, 8)
    assert torch.equal(drawn, torch.randn(2, 8, 8, generator=keyed_generator(3, "latents", 2)))


def test_identity_tells_latents_apart(tmp_path: Path) -> None:
    path = save_vdvae(tmp_path / "vdvae.th", tiny_state())
    mean = tiny_vdvae(path).identity()
    assert mean["network"] == "vdvae"
    assert mean == tiny_vdvae(path, seed=7).identity()  # neither weights nor latents are drawn
    sampled = tiny_vdvae(path, latents="sampled").identity()
    assert mean != sampled != tiny_vdvae(path, latents="sampled", seed=7).identity()
    other = tiny_vdvae(path, enc_blocks=["16x2", "16d2", "8x1", "8d4", "2d2"])
    assert other.identity() != mean


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.02), ("16", 0.003)])
def test_16_bit_maps_are_close(precision: str, bound: float, golden_file: Path) -> None:
    exact, rounded = (
        maps_of(golden_backbone(golden_file, p), golden_images()) for p in ("32", precision)
    )
    for block, value in exact.items():
        assert rounded[block].dtype == PRECISIONS[precision]
        assert (rounded[block].float() - value).norm() <= bound * value.norm(), block


def test_images_of_another_size_are_resized() -> None:
    backbone = tiny_vdvae()
    found = maps_of(backbone, pictures(24), [3])[3]
    resized = F.interpolate(pictures(24), (16, 16), mode="bicubic", antialias=True).clamp(-1, 1)
    assert torch.equal(found, maps_of(backbone, resized, [3])[3])


def test_pixel_vectors_have_maps_of_every_size(golden_file: Path) -> None:
    """Those of a single pixel, which say the same everywhere, to those of the image's own size."""
    backbone, images = golden_backbone(golden_file), golden()["x"].permute(0, 3, 1, 2)
    blocks = [1, 8, 11, 12, 15, 19]  # sides 32, 4, 1, 1, 4, 16
    vectors = FeatureExtractor(backbone, blocks, [0], image_size=32)(images, ["a", "b"])
    resized = [
        F.interpolate(value, (32, 32), mode="bilinear")
        for value in maps_of(backbone, golden_images(), blocks).values()
    ]
    expected = torch.cat(resized, dim=1)
    assert torch.allclose(vectors.materialise(), expected, atol=1e-5 * expected.abs().max().item())


def test_only_outputs_can_be_read() -> None:
    with pytest.raises(ConfigError, match=r"`features.hook=input`: .* at their output only"):
        tiny_vdvae().check([0], [0], "input")


def test_initial_weights_are_the_originals() -> None:
    backbone = tiny_vdvae(seed=5)
    state = backbone.network.state_dict()
    biases = [value for key, value in state.items() if key.endswith("bias") or "bias_xs" in key]
    assert not any(value.any() for value in biases)
    assert not state["decoder.dec_blocks.3.prior.c4.weight"].any()
    # Uniform within 1 / sqrt(fan in), then scaled by 1 / sqrt(blocks).
    ends = state["encoder.enc_blocks.4.c4.weight"].abs().max().item()
    assert 0.8 < ends * (4 * 6) ** 0.5 <= 1
    assert 0.8 < state["decoder.dec_blocks.0.z_proj.weight"].abs().max() * (2 * 5) ** 0.5 <= 1
    maps, same, others = (
        maps_of(b, pictures(16))[9] for b in (backbone, tiny_vdvae(seed=5), tiny_vdvae(seed=6))
    )
    assert torch.equal(maps, same)
    assert not torch.equal(maps, others)


@pytest.mark.parametrize("name", ["bare.th", "bare.safetensors", "legacy.pt"])
def test_bare_files_load_the_same(name: str, tmp_path: Path) -> None:
    original = tiny_vdvae(save_vdvae(tmp_path / "vdvae.th", tiny_state()))
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(tiny_state(), path)
    else:
        torch.save(tiny_state(), path, _use_new_zipfile_serialization=name.startswith("bare"))
    found, expected = (maps_of(b, pictures(16)) for b in (tiny_vdvae(path), original))
    assert all(torch.equal(found[block], value) for block, value in expected.items())


def test_what_no_map_needs_is_left_out_and_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = save_vdvae(tmp_path / "vdvae.th", tiny_state())
    tiny_vdvae(path)
    assert caplog.messages == [
        f"'{path}': left out what only its training needs: decoder.out_net (2)"
    ]


def refusal(path: Path, **changes: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        tiny_vdvae(path, **changes)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_of_another_width_is_answered_with_its_settings(tmp_path: Path) -> None:
    changes = {"width": 12, "bottleneck_multiple": 0.25, "zdim": 3, "no_bias_above": 2}
    path = save_vdvae(tmp_path / "vdvae.th", tiny_state(**changes))
    message = refusal(path)
    assert "missing decoder.bias_xs.2 [1, 8, 8, 8]" in message
    assert message.endswith(
        "The file fits with `backbone.width=12 backbone.bottleneck_multiple=0.25 backbone.zdim=3 "
        "backbone.no_bias_above=2`."
    )
    tiny_vdvae(path, **changes)


def test_a_file_of_another_layout_is_answered_with_its_blocks(tmp_path: Path) -> None:
    state = tiny_state(enc_blocks=["16d2", "8x4", "8d8"], dec_blocks=["1x2", "8m1", "16m8"], zdim=3)
    path = save_vdvae(tmp_path / "vdvae.th", state)
    assert refusal(path).endswith(
        "It has 6 encoder and 4 decoder blocks, `backbone.enc_blocks` and `backbone.dec_blocks` "
        "name 6 and 5: set them as in its training. The file fits with `backbone.zdim=3`."
    )


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("decoder.dec_blocks.1.prior.c4.bias", "Parameters are missing from the file, or it holds"),
        ("encoder.in_conv.weight", "(there is no 'encoder.in_conv.weight' of 4 axes)"),
        ("decoder.dec_blocks.0.z_proj.weight", "(there is no 'decoder.dec_blocks.0.z_proj.wei"),
    ],
)
def test_missing_parameters_are_named(key: str, says: str, tmp_path: Path) -> None:
    state = tiny_state()
    del state[key]
    message = refusal(save_vdvae(tmp_path / "vdvae.th", state))
    assert f"\n  missing {key} [" in message
    assert says in message


def test_files_of_other_networks_are_answered_with_their_backbone(tmp_path: Path) -> None:
    resnet = SwavBackbone("swav", 4, [1], "random").network
    torch.save({"layer1.0.conv1.weight": torch.ones(1)}, tmp_path / "resnet.pt")
    assert "layer1.0.conv1.weight" in dict(resnet.named_parameters())
    assert refusal(tmp_path / "resnet.pt").endswith(
        "It is a ResNet: use it with `backbone=swav or backbone=swav_w2`."
    )
    path = save_vdvae(tmp_path / "vdvae.th", tiny_state())
    with pytest.raises(CheckpointError, match=r"It is a very deep VAE: use it with `backbone=vdv"):
        SwavBackbone("swav", 4, [1], str(path))


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trap_was_sprung",)


def test_damaged_files_and_code_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = save_vdvae(tmp_path / "whole.th", tiny_state())
    (tmp_path / "cut.th").write_bytes(whole.read_bytes()[:5000])
    assert "it is truncated or no weight file" in refusal(tmp_path / "cut.th")
    torch.save(tiny_state() | {"extra": Trap()}, tmp_path / "code.th")
    assert "reading it would execute code" in refusal(tmp_path / "code.th")
    assert not Path("trap_was_sprung").exists()
    assert "does not exist" in refusal(tmp_path / "none.th")
    with pytest.raises(CheckpointError, match="is not the file that was asked for"):
        tiny_vdvae(whole, sha256="0" * 64)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"enc_blocks": []}, r"`backbone.enc_blocks` is empty: its entries are as 32x11"),
        ({"dec_blocks": []}, r"`backbone.dec_blocks` is empty: its entries are as 32x11"),
        ({"enc_blocks": ["16x1", "8y2"]}, r"has the entry '8y2': entries are as 32x11 .* and 32d2"),
        ({"enc_blocks": ["16x0"]}, "has the entry '16x0'"),
        ({"enc_blocks": ["16m8"]}, "has the entry '16m8'"),
        ({"enc_blocks": ["16x99999"]}, "has the entry '16x99999'"),
        ({"dec_blocks": ["16d2"]}, r"has the entry '16d2': entries are as .* and 32m16"),
        (
            {"enc_blocks": ["16x1", "8x1"]},
            r"'8x1' follows blocks that leave maps of 16 x 16\. ",
        ),
        ({"enc_blocks": ["16x1", "16d3"]}, r"'16d3' cannot divide maps of 16 x 16 by 3"),
        ({"dec_blocks": ["4x1"]}, r"'4x1' needs maps of 4 x 4 .* whose sides are \[1, 2, 8, 16\]"),
        (
            {"dec_blocks": ["1x1", "8m2"]},
            r"'8m2' adds maps of 2 x 2, which must .* it \(\[1\]",
        ),
        ({"dec_blocks": ["8x1", "8m8"]}, "'8m8' adds maps of 8 x 8"),
        ({"width": 0}, "`backbone.width=0`: must be above 0"),
        ({"zdim": 0}, "`backbone.zdim=0`: must be above 0"),
        ({"pixel_std": 0.0}, r"`backbone.pixel_std=0.0`: must be above 0"),
        ({"bottleneck_multiple": 0.1}, r"leaves 0 of `backbone.width=8` channels between"),
        ({"latents": "prior"}, "`backbone.latents=prior`: must be one of mean, sampled"),
    ],
)
def test_settings_that_build_no_network(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        tiny_vdvae(**changes)
