"""From images to pixel vectors: the reference's numbers, plain resizing, and independence."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from golden_fill import FACTS, filled_backbone, golden, golden_backbone, golden_maps, relative_error
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from ddpmseg.backbones.base import Hook
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags
from ddpmseg.backbones.pixels.backbone import PixelsBackbone
from ddpmseg.errors import ConfigError
from ddpmseg.features.bilinear import axis_matrix, pixel_weights
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.features.layout import FeatureLayout, MapSpec, feature_layout
from ddpmseg.features.maps import NativeMaps
from ddpmseg.features.noise import NoiseKind, NoiseSource
from ddpmseg.features.project import Projection
from ddpmseg.randomness import keyed_generator

TINY = UNetFlags(
    image_size=16, num_channels=32, channel_mult="1,2", num_res_blocks=1, attention_resolutions="8"
)


def test_network_is_the_golden_one() -> None:
    backbone = golden_backbone()
    state = backbone.unet.state_dict()
    assert sum(p.numel() for p in backbone.parameters()) == FACTS["num_parameters"]
    for key, total in FACTS["unet_weight_sum"].items():
        assert state[key].double().sum().item() == pytest.approx(total, rel=1e-5)


def test_shared_noise_is_the_references_tensor() -> None:
    noise = NoiseSource("shared", FACTS["noise_seed"], 64)("any image", 50)
    assert torch.equal(noise, golden()["noise"][0])


def test_native_maps_equal_golden() -> None:
    maps = golden_maps("output")
    compared = 0
    for index, spec in enumerate(maps.layout.maps):
        expected = golden().get(f"native_t{spec.timestep}_block{spec.block}")
        if expected is None:
            continue
        found = maps.map(index)[0].permute(2, 0, 1)
        step = spec.size // expected.shape[-1]
        assert relative_error(found[:, ::step, ::step], expected) <= 1e-5, spec
        compared += 1
    assert compared == 10


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.03), ("16", 0.01)])
def test_16_bit_native_maps_are_near_golden(precision: str, bound: float) -> None:
    backbone = golden_backbone(precision)
    noise, image = golden()["noise"], golden()["image"][:1]
    times = torch.tensor([50, 250])
    x_t = backbone.add_noise(image.expand(2, -1, -1, -1), times, noise.expand(2, -1, -1, -1))
    for block, found in backbone.native_maps(x_t, times, FACTS["blocks"]).items():
        assert found.dtype == backbone.dtype
        for row, timestep in enumerate((50, 250)):
            expected = golden()[f"native_t{timestep}_block{block}"]
            step = found.shape[-1] // expected.shape[-1]
            difference = found[row, :, ::step, ::step].float() - expected
            assert difference.norm() <= bound * expected.norm(), (timestep, block)


@pytest.mark.parametrize(
    ("hook", "name", "image", "rows"),
    [
        ("output", "features_image0_rows_20_24", 0, (20, 24)),
        ("output", "features_image1_rows_40_44", 1, (40, 44)),
        ("input", "features_in_image0_rows_20_22", 0, (20, 22)),
    ],
)
def test_pixel_features_equal_golden(
    hook: Hook, name: str, image: int, rows: tuple[int, int]
) -> None:
    maps = golden_maps(hook)
    key = "feature_dim" if hook == "output" else "feature_dim_input_activations"
    assert maps.layout.dim == FACTS[key]
    pixels = torch.tensor([row * 64 + column for row in range(*rows) for column in range(0, 64, 5)])
    vectors = maps.pixel_vectors(torch.full_like(pixels, image), pixels)
    found = vectors.T.reshape(maps.layout.dim, rows[1] - rows[0], 13)
    assert relative_error(found, golden()[name]) <= 1e-5


@st.composite
def map_shapes(draw: st.DrawFn) -> tuple[int, int, list[tuple[int, int]]]:
    """Images, side of an image, and (channels, side) of one to five maps in any order."""
    image_size = draw(st.sampled_from([8, 12, 16, 24]))
    sides = [image_size // stride for stride in (1, 2, 3, 4, 8) if image_size % stride == 0]
    shapes = st.tuples(st.integers(1, 5), st.sampled_from(sides))
    return draw(st.integers(1, 3)), image_size, draw(st.lists(shapes, min_size=1, max_size=5))


def random_maps(num_images: int, image_size: int, shapes: list[tuple[int, int]]) -> NativeMaps:
    specs = [MapSpec(0, block, *shape) for block, shape in enumerate(shapes)]
    layout = FeatureLayout(tuple(specs), image_size)
    maps = NativeMaps.empty(layout, num_images, torch.float32, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for group in maps.groups.values():
        group.normal_(generator=generator)
    return maps


def resized_and_concatenated(maps: NativeMaps) -> Tensor:
    """(n, d, s, s) as the reference builds it."""
    size = (maps.layout.image_size,) * 2
    native = [maps.map(i).permute(0, 3, 1, 2) for i in range(len(maps.layout.maps))]
    return torch.cat(
        [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in native], dim=1
    )


@given(map_shapes(), st.lists(st.integers(0, 2**20), min_size=1, max_size=20))
def test_pixel_vectors_equal_resizing_and_concatenation(
    shapes: tuple[int, int, list[tuple[int, int]]], chosen: list[int]
) -> None:
    maps = random_maps(*shapes)
    expected = resized_and_concatenated(maps)
    assert expected.shape[1] == maps.layout.dim
    assert torch.allclose(maps.materialise(), expected, atol=1e-5)
    size = maps.layout.image_size
    images = torch.tensor(chosen) // size**2 % len(maps)
    pixels = torch.tensor(chosen) % size**2
    vectors = maps.pixel_vectors(images, pixels)
    assert vectors.dtype == torch.float32
    assert torch.allclose(vectors, expected[images, :, pixels // size, pixels % size], atol=1e-5)


@given(map_shapes(), st.integers(1, 7))
def test_projection_equals_linear_on_the_vectors(
    shapes: tuple[int, int, list[tuple[int, int]]], outputs: int
) -> None:
    maps = random_maps(*shapes)
    generator = torch.Generator().manual_seed(outputs)
    weight = torch.randn(outputs, maps.layout.dim, generator=generator)
    bias = torch.randn(outputs, generator=generator)
    before = {size: group.clone() for size, group in maps.groups.items()}
    expected = torch.einsum("od,ndhw->nohw", weight, resized_and_concatenated(maps))
    found = Projection(maps.layout, weight, bias, torch.float32)(maps).permute(0, 3, 1, 2)
    assert torch.allclose(found, expected + bias[:, None, None], rtol=1e-5, atol=1e-5)
    assert all(torch.equal(maps.groups[size], group) for size, group in before.items())


def test_projection_of_the_golden_maps_equals_linear_on_the_vectors() -> None:
    maps = golden_maps("output")[:1]
    weight = torch.randn(16, maps.layout.dim, generator=torch.Generator().manual_seed(0))
    bias = torch.arange(16.0)
    expected = F.linear(maps.materialise().permute(0, 2, 3, 1), weight, bias)
    found = Projection(maps.layout, weight, bias, torch.float32)(maps)
    assert relative_error(found, expected) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_vectors_and_projections_of_16_bit_maps_have_16_bits(dtype: torch.dtype) -> None:
    maps = golden_maps("output")[:1]
    half = NativeMaps(maps.layout, {s: group.to(dtype) for s, group in maps.groups.items()})
    pixels = torch.arange(0, 64 * 64, 37)
    images = torch.zeros_like(pixels)
    vectors = half.pixel_vectors(images, pixels)
    assert vectors.dtype == dtype
    assert relative_error(vectors, maps.pixel_vectors(images, pixels)) < 0.01
    weight = torch.randn(4, maps.layout.dim, generator=torch.Generator().manual_seed(0))
    found = Projection(maps.layout, weight, torch.zeros(4), dtype)(half)
    assert found.dtype == dtype
    expected = Projection(maps.layout, weight, torch.zeros(4), torch.float32)(maps)
    assert relative_error(found, expected) < 0.02


@given(st.integers(1, 6), st.integers(1, 8))
def test_weights_of_a_pixel_belong_to_cells_and_sum_to_one(size: int, stride: int) -> None:
    cells, weights = pixel_weights(size, size * stride, torch.float32)
    assert cells.min() >= 0
    assert cells.max() < size * size
    assert weights.min() >= 0
    assert torch.allclose(weights.sum(1), torch.ones(len(weights)))


RESIZED = [(16, 256), (8, 256), (7, 64), (32, 64), (37, 70)]
"""Sides of a map and an image; the last ones have shares that no 16 bits hold."""


@pytest.mark.parametrize(("map_size", "image_size"), RESIZED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_weights_sum_to_one_and_are_the_same_in_training_and_testing(
    map_size: int, image_size: int, dtype: torch.dtype
) -> None:
    """The vectors of training are those interpolated, those of testing are resized."""
    layout = FeatureLayout((MapSpec(0, 0, 64, map_size),), image_size)
    generator = torch.Generator().manual_seed(0)
    native = 3 + torch.randn(1, map_size, map_size, 64, generator=generator)
    maps = NativeMaps(layout, {map_size: native.to(dtype)})
    trained = maps.materialise()[0].double()
    tested = Projection(layout, torch.eye(64), torch.zeros(64), dtype)(maps)[0].double()
    exact = F.interpolate(
        maps.map(0).permute(0, 3, 1, 2).double(), size=image_size, mode="bilinear"
    )[0]
    rounding = (exact.to(dtype).double() - exact).norm() / exact.norm()
    assert (trained - exact).norm() / exact.norm() < 1.2 * rounding
    ratio = trained.sum(0) / tested.permute(2, 0, 1).sum(0)
    assert (ratio - 1).abs().max() < rounding  # the roundings of 64 channels nearly cancel
    bias = (trained.mean(0) / exact.mean(0) - 1).abs()
    assert bias.mean() < 0.15 * rounding
    _, weights = pixel_weights(map_size, image_size, dtype)
    assert (weights.double().sum(1) == 1).all()
    assert (axis_matrix(map_size, image_size, dtype).double().sum(1) == 1).all()


def test_layout_is_timestep_major_and_block_ascending() -> None:
    backbone = filled_backbone(TINY)
    layout = feature_layout(backbone, [2, 0], [50, 5], "output", 16)
    assert [(m.timestep, m.block) for m in layout.maps] == [(50, 0), (50, 2), (5, 0), (5, 2)]
    assert [(m.channels, m.size) for m in layout.maps[:2]] == [(64, 8), (32, 16)]
    assert layout.dim == 2 * (64 + 32)
    assert layout.slices[2] == slice(96, 160)
    assert layout.groups == {8: (0, 2), 16: (1, 3)}
    assert layout.columns(16).tolist() == [*range(64, 96), *range(160, 192)]
    assert layout.values_per_image() == 2 * (64 * 8 * 8 + 32 * 16 * 16)


@pytest.mark.parametrize(
    ("blocks", "timesteps", "image_size", "message"),
    [
        ([], [5], 16, "`features.blocks` must list at least one number, each once; got []."),
        ([1], [], 16, "`features.timesteps` must list at least one number, each once; got []."),
        ([1, 1], [5], 16, "each once; got [1, 1]"),
        ([1], [5, 9, 5], 16, "each once; got [5, 9, 5]"),
        ([1], [5], 17, "divisible by 2; `dataset.image_size` is 17."),
        ([4], [5], 16, "block 4 does not exist in backbone 'filled' (decoder blocks 0..3"),
    ],
)
def test_impossible_layouts_are_refused(
    blocks: list[int], timesteps: list[int], image_size: int, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        feature_layout(filled_backbone(TINY), blocks, timesteps, "output", image_size)
    assert message in str(caught.value)


def test_a_backbone_without_timesteps_gives_each_block_once() -> None:
    layout = feature_layout(PixelsBackbone("pixels", 16), [0], [50, 150], "output", 16)
    assert layout.maps == (MapSpec(50, 0, 3, 16),)


def tiny_images(count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)


def tiny_extractor(noise: NoiseKind, batch_size: int, timesteps: list[int]) -> FeatureExtractor:
    return FeatureExtractor(
        filled_backbone(TINY),
        [0, 1, 3],
        timesteps,
        image_size=16,
        noise=noise,
        seed=3,
        batch_size=batch_size,
    )


@pytest.mark.parametrize("noise", get_args(NoiseKind))
def test_maps_do_not_depend_on_batch_order_or_earlier_calls(noise: NoiseKind) -> None:
    images, names, timesteps = tiny_images(), list("abcde"), [400, 5, 60]
    expected = tiny_extractor(noise, 16, timesteps)(images, names).materialise()
    order = [3, 0, 4, 1, 2]
    for batch_size in (1, 2, 7):
        extractor = tiny_extractor(noise, batch_size, timesteps)
        extractor(images.flip(0), ["x", "y", "z", "v", "w"])
        shuffled = extractor(images[order], [names[i] for i in order]).materialise()
        assert relative_error(shuffled, expected[order]) <= 1e-5
        batches = [(images[:2], names[:2]), (images[2:], names[2:])]
        assert relative_error(extractor.extract_all(batches, 5).materialise(), expected) <= 1e-5


def test_maps_of_a_timestep_do_not_depend_on_the_other_timesteps() -> None:
    images, names = tiny_images(2), ["a", "b"]
    together = tiny_extractor("fresh", 16, [400, 5, 60])(images, names)
    for position, timestep in enumerate([400, 5, 60]):
        alone = tiny_extractor("fresh", 16, [timestep])(images, names)
        for block in range(3):
            found = together.map(3 * position + block)
            assert relative_error(found, alone.map(block)) <= 1e-5


def test_pixels_pass_through_the_extractor_unchanged() -> None:
    images = tiny_images(2)
    extractor = FeatureExtractor(PixelsBackbone("pixels", 16), [0], [50, 150], image_size=16)
    vectors = extractor(images, ["a", "b"]).materialise()
    assert torch.allclose((vectors + 1) * 127.5, images.float(), atol=1e-4)


PAIRS = [("a", 5), ("a", 60), ("b", 5), ("b", 60)]


@pytest.mark.parametrize(
    ("kind", "identity"),
    [
        ("shared", lambda name, t: None),
        ("timestep", lambda name, t: t),
        ("image", lambda name, t: name),
        ("fresh", lambda name, t: (name, t)),
    ],
)
def test_noise_is_shared_by_exactly_the_pairs_it_should_be(kind: NoiseKind, identity) -> None:
    source, again = NoiseSource(kind, 7, 8), NoiseSource(kind, 7, 8)
    drawn = {pair: source(*pair) for pair in PAIRS}
    repeated = {pair: again(*pair) for pair in reversed(PAIRS)}
    for one in PAIRS:
        assert torch.equal(drawn[one], repeated[one])
        assert not torch.equal(drawn[one], NoiseSource(kind, 8, 8)(*one))
        for other in PAIRS:
            same = identity(*one) == identity(*other)
            assert torch.equal(drawn[one], drawn[other]) == same, (one, other)


@pytest.mark.parametrize("kind", get_args(NoiseKind))
def test_noise_of_many_pairs_is_that_of_each(kind: NoiseKind) -> None:
    source = NoiseSource(kind, 7, 8)
    together = source.of_pairs(PAIRS, torch.device("cpu"))
    assert torch.equal(together, torch.stack([source(*pair) for pair in PAIRS]))
    if kind == "shared":
        assert together.untyped_storage().nbytes() == 3 * 8 * 8 * 4
        assert together.data_ptr() == source.of_pairs(PAIRS, torch.device("cpu")).data_ptr()


@pytest.mark.parametrize("kind", get_args(NoiseKind))
def test_noise_is_standard_normal_on_the_cpu(kind: NoiseKind) -> None:
    noise = NoiseSource(kind, 0, 64)("a", 5)
    assert noise.shape == (3, 64, 64)
    assert noise.dtype == torch.float32
    assert noise.device.type == "cpu"
    assert abs(noise.mean().item()) < 0.03
    assert abs(noise.std().item() - 1) < 0.03


@pytest.mark.usefixtures("unchecked")
def test_unknown_noise_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`features\.noise=shard`: must be one of shared"):
        NoiseSource("shard", 0, 8)  # pyright: ignore[reportArgumentType]


KEYS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5), min_size=1, max_size=4)


def stream(*key: int | str) -> list[int]:
    return torch.randint(2**62, (4,), generator=keyed_generator(*key)).tolist()


@given(KEYS, KEYS)
@example([1, 2], [2, 1])
@example([1], [1, 0])
@example(["1"], [1])
@example(["ab"], ["a", "b"])
def test_streams_are_equal_exactly_when_their_keys_are(one: list, other: list) -> None:
    assert stream(*one) == stream(*one)
    assert (stream(*one) == stream(*other)) == (one == other)


def test_nearby_keys_give_unlike_streams() -> None:
    keys = [(a, b) for a in range(20) for b in range(20)]
    assert len({tuple(stream(*key)) for key in keys}) == len(keys)
    draws = torch.stack([torch.randn(500, generator=keyed_generator(*key)) for key in keys])
    correlation = torch.corrcoef(draws) - torch.eye(len(keys))
    assert correlation.abs().max() < 0.25


def test_streams_do_not_touch_or_depend_on_the_global_generator() -> None:
    torch.manual_seed(1)
    expected, first = torch.rand(3), stream(1, "a")
    torch.manual_seed(1)
    assert stream(1, "a") == first
    assert torch.equal(torch.rand(3), expected)
