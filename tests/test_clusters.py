"""Figure 4: clusters and components of single maps, and how panels are made comparable."""

from collections.abc import Collection, Sequence
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_fill import filled_backbone
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import Tensor

from ddpmseg.backbones.base import Hook
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags
from ddpmseg.backbones.pixels.backbone import PixelsBackbone
from ddpmseg.errors import ConfigError
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.report.clusters import (
    FIT_POINTS,
    cluster_map,
    cluster_maps,
    default_cluster_choice,
    match_labels,
    panel_order,
    principal_components,
)

TINY = UNetFlags(
    image_size=16, num_channels=32, channel_mult="1,2", num_res_blocks=1, attention_resolutions="8"
)


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coloured_regions(size: int) -> tuple[Tensor, np.ndarray]:
    """An image of three regions in noisy colours, and their labels from largest to smallest."""
    labels = np.zeros((size, size), np.int64)
    labels[: size // 3] = 1
    labels[-size // 4 :, : size // 3] = 2
    colours = torch.tensor([[30, 40, 200], [200, 30, 60], [90, 220, 80]])
    image = colours[torch.from_numpy(labels)] + 5 * random_tensor(size, size, 3)
    return image.round().byte().permute(2, 0, 1), labels


def tiny_images(count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)


def tiny_extractor(precision: str = "32", timesteps: Sequence[int] = (400, 5)) -> FeatureExtractor:
    backbone = filled_backbone(TINY, precision=precision)
    return FeatureExtractor(backbone, [3, 0, 1], timesteps, image_size=16, noise="fresh", seed=3)


@pytest.mark.parametrize("size", [24, 80])
def test_regions_are_found_and_numbered_from_the_largest(size: int) -> None:
    image, labels = coloured_regions(size)
    assert (size**2 > FIT_POINTS) == (size == 80)
    extractor = FeatureExtractor(PixelsBackbone("pixels", size), [0], [50], image_size=size)
    maps = cluster_maps(extractor, image[None], ["a"], k=3)
    assert maps.labels.dtype == np.uint8
    np.testing.assert_array_equal(maps.labels[0, 0, 0], labels)


def test_regions_of_a_small_map_are_found_at_the_size_of_the_image() -> None:
    vectors = 0.05 * random_tensor(8, 8, 6)
    vectors[:, 4:, 0] += 3
    vectors[4:, :, 1] += 3
    found = cluster_map(vectors, 4, 64, seed=0)
    quarters = [found[:32, :32], found[:32, 32:], found[32:, :32], found[32:, 32:]]
    majorities = [np.bincount(quarter.ravel(), minlength=4).argmax() for quarter in quarters]
    assert sorted(majorities) == [0, 1, 2, 3]
    for quarter, label in zip(quarters, majorities, strict=True):
        assert (quarter == label).mean() > 0.97


def test_a_pixel_has_the_centre_nearest_to_its_interpolated_vector() -> None:
    vectors = random_tensor(6, 6, 5) + 10
    found = cluster_map(vectors, 4, 48, seed=7)
    points = vectors.reshape(-1, 5)
    centred = (points - points.mean(0)).numpy()
    model = KMeans(4, n_init=3, random_state=7)  # pyright: ignore[reportArgumentType]
    centres = model.fit(centred).cluster_centers_ + points.mean(0).numpy()
    pixels = F.interpolate(vectors.permute(2, 0, 1)[None], (48, 48), mode="bilinear")[0]
    difference = pixels.permute(1, 2, 0).numpy()[:, :, None] - centres
    expected = (difference**2).sum(-1).argmin(-1)
    assert (found == expected).mean() > 0.999


def test_outlines_are_nearer_to_the_truth_than_those_of_resized_labels() -> None:
    def inside(size: int) -> Tensor:
        """Signed distance from a circle, positive within."""
        places = (torch.arange(size) + 0.5) / size - 0.5
        return 0.3 - (places[:, None] ** 2 + places[None] ** 2).sqrt()

    vectors = torch.stack([torch.tanh(8 * inside(8)), 0.01 * random_tensor(8, 8)], dim=-1)
    truth = inside(64).numpy() > 0

    def agreement(labels: np.ndarray) -> float:
        return max((labels == truth).mean(), (labels != truth).mean())

    smooth = cluster_map(vectors, 2, 64, seed=0)
    mosaic = cluster_map(vectors, 2, 8, seed=0).repeat(8, 0).repeat(8, 1)
    assert agreement(smooth) > 0.97
    assert agreement(mosaic) < 0.95


@pytest.mark.parametrize("k", [2, 4, 5])
def test_a_map_of_four_vectors_has_at_most_four_clusters(k: int) -> None:
    found = cluster_map(random_tensor(2, 2, 3), k, 16, seed=0)
    assert len(np.unique(found)) == min(k, 4)


@given(
    st.integers(1, 6),
    st.lists(st.integers(0, 5), min_size=9, max_size=9),
    st.floats(-3, 3),
    st.just(0.0) | st.floats(0, 1e3),
)
def test_maps_of_few_different_vectors_pass_without_a_warning(
    k: int, chosen: list[int], exponent: float, offset: float
) -> None:
    table = random_tensor(6, 4) * 10**exponent + offset
    found = cluster_map(table[torch.tensor(chosen).view(3, 3)], k, 9, seed=0)
    clusters = min(k, len(set(chosen)))
    assert found.max() < clusters
    if offset <= 10**exponent:
        assert len(np.unique(found[1::3, 1::3])) == clusters


@pytest.mark.parametrize("ripple", [0, 1e-7])
def test_a_constant_map_is_one_cluster_and_has_no_components(ripple: float) -> None:
    vectors = torch.full((4, 4, 3), 3.0) * (1 + ripple * random_tensor(4, 4, 3))
    assert not cluster_map(vectors, 5, 16, seed=0).any()
    assert not principal_components(vectors, 16, seed=0).any()


@given(st.integers(1, 4), st.integers(0, 99))
def test_matching_overlaps_as_much_as_any_renumbering(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, reference = rng.integers(0, k, (2, 5, 6))
    found = match_labels(labels, reference, k)
    best = max((np.array(p)[labels] == reference).sum() for p in permutations(range(k)))
    assert (found == reference).sum() == best
    pairs = set(zip(labels.ravel(), found.ravel(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_matching_undoes_a_renumbering() -> None:
    reference = np.random.default_rng(0).integers(0, 5, (8, 8))
    np.testing.assert_array_equal(
        match_labels(np.array([3, 0, 4, 1, 2])[reference], reference, 5), reference
    )


def test_panels_follow_the_middle_block_at_the_smallest_timestep() -> None:
    assert list(panel_order(4, 2)) == [
        ((1, 0), None),
        ((1, 1), (1, 0)),
        ((0, 0), (1, 0)),
        ((0, 1), (0, 0)),
        ((2, 0), (1, 0)),
        ((2, 1), (2, 0)),
        ((3, 0), (2, 0)),
        ((3, 1), (3, 0)),
    ]


@given(st.integers(1, 7), st.integers(1, 6))
def test_every_panel_comes_once_and_after_its_neighbour(blocks: int, timesteps: int) -> None:
    seen = set()
    for panel, neighbour in panel_order(blocks, timesteps):
        assert neighbour in seen or (neighbour is None and not seen)
        assert panel not in seen
        seen.add(panel)
    assert len(seen) == blocks * timesteps


class _Flipped(PixelsBackbone):
    """The image at t = 0, its negative at t = 1, in every block."""

    def __init__(self, size: int) -> None:
        super().__init__("flipped", size)
        self.blocks = self.blocks * 2
        self.num_timesteps = 2

    def add_noise(self, images: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        return images

    def native_maps(
        self,
        images: Tensor,
        timesteps: Tensor,
        blocks: Collection[int],
        hook: Hook = "output",
    ) -> dict[int, Tensor]:
        return {block: images * (1 - 2 * timesteps).view(-1, 1, 1, 1) for block in blocks}


def test_components_of_opposite_sign_are_turned_round() -> None:
    image = coloured_regions(24)[0]
    extractor = FeatureExtractor(_Flipped(24), [0, 1], [1, 0], image_size=24)
    maps = cluster_maps(extractor, image[None], ["a"], k=3)
    assert maps.timesteps == (0, 1)
    for panel in ((0, 1), (1, 0), (1, 1)):
        np.testing.assert_array_equal(maps.labels[0][panel], maps.labels[0, 0, 0])
        difference = maps.components[0][panel].astype(int) - maps.components[0, 0, 0]
        assert np.abs(difference).max() <= 1
    assert maps.components.std() > 40


def test_components_equal_a_principal_component_analysis() -> None:
    vectors = random_tensor(6, 7, 9) * torch.arange(1, 10) + 4
    points = vectors.reshape(-1, 9).double().numpy()
    scores = torch.from_numpy(PCA(3).fit_transform(points)).view(6, 7, 3)
    resized = F.interpolate(scores.permute(2, 0, 1)[None], (24, 24), mode="bilinear")[0]
    found = principal_components(vectors, 24, seed=0)
    for component in range(3):
        expected = resized[component].numpy()
        sign = np.sign((found[..., component] * expected).sum())
        np.testing.assert_allclose(found[..., component], sign * expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 4, 1), (4, 4, 2), (1, 2, 8), (1, 1, 8)])
def test_missing_components_are_nought(shape: tuple[int, int, int]) -> None:
    found = principal_components(random_tensor(*shape), 8, seed=0)
    rank = min(shape[2], shape[0] * shape[1] - 1)
    assert found.shape == (8, 8, 3)
    assert found.any((0, 1)).tolist() == [True] * rank + [False] * (3 - rank)


def test_x_t_is_what_the_extractor_feeds() -> None:
    images, names = tiny_images(), ["a", "b"]
    extractor = tiny_extractor()
    maps = cluster_maps(extractor, images, names)
    assert maps.noised.shape == (2, 2, 16, 16, 3)
    share_left = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for i, name in enumerate(names):
        for j, t in enumerate((5, 400)):
            noise = extractor.noise(name, t).double().numpy()
            clean = images[i].double().numpy() / 127.5 - 1
            x_t = np.sqrt(share_left[t]) * clean + np.sqrt(1 - share_left[t]) * noise
            expected = np.rint((x_t.clip(-1, 1) + 1) * 127.5).transpose(1, 2, 0)
            difference = maps.noised[i, j].astype(int) - expected
            assert np.abs(difference).max() <= 1
            assert (difference != 0).mean() < 0.01


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_maps_have_one_panel_per_cell_and_images_do_not_depend_on_each_other(
    precision: str,
) -> None:
    images, names = tiny_images(), ["a", "b"]
    together = cluster_maps(tiny_extractor(precision), images, names)
    assert (together.blocks, together.timesteps, together.k) == ((0, 1, 3), (5, 400), 5)
    assert together.labels.shape == (2, 3, 2, 16, 16)
    assert together.labels.max() == 4
    assert together.components.shape == (2, 3, 2, 16, 16, 3)
    np.testing.assert_array_equal(together.images, images.permute(0, 2, 3, 1).numpy())
    alone = cluster_maps(tiny_extractor(precision), images[1:], names[1:])
    for one, other in (
        (alone.labels, together.labels),
        (alone.components, together.components),
        (alone.noised, together.noised),
    ):
        np.testing.assert_array_equal(one[0], other[1])


def test_labels_agree_with_the_neighbours_as_far_as_they_can() -> None:
    maps = cluster_maps(tiny_extractor(), tiny_images(), ["a", "b"], k=4)
    for labels in maps.labels:
        for panel, neighbour in panel_order(3, 2):
            if neighbour is None:
                areas = np.bincount(labels[panel].ravel())
                assert areas.tolist() == sorted(areas, reverse=True)
                continue
            overlaps = [
                (np.array(renumbered)[labels[panel]] == labels[neighbour]).sum()
                for renumbered in permutations(range(4))
            ]
            assert overlaps[0] == max(overlaps)


def test_timesteps_are_shown_in_ascending_order_each_with_its_own_maps() -> None:
    images, names = tiny_images(1), ["a"]
    both = cluster_maps(tiny_extractor(timesteps=(400, 5)), images, names)
    first = cluster_maps(tiny_extractor(timesteps=(5,)), images, names)
    np.testing.assert_array_equal(both.labels[:, :, 0], first.labels[:, :, 0])
    later = cluster_maps(tiny_extractor(timesteps=(400,)), images, names)
    overlap = match_labels(both.labels[0, 1, 1], later.labels[0, 1, 0], 5)
    assert (overlap == later.labels[0, 1, 0]).mean() > 0.99


@pytest.mark.parametrize("k", [0, 257])
def test_an_impossible_number_of_clusters_is_refused(k: int) -> None:
    with pytest.raises(ConfigError, match=f"asked for {k} clusters; give a number from 1 to 256"):
        cluster_maps(tiny_extractor(), tiny_images(), ["a", "b"], k=k)


@pytest.mark.parametrize(
    ("num_blocks", "timesteps", "expected"),
    [
        (18, range(0, 1000, 50), ([6, 8, 10, 12], [50, 200, 400, 600, 800])),
        (12, range(0, 1000, 50), ([4, 5, 7, 8], [50, 200, 400, 600, 800])),
        (5, [10], ([2, 3], [10])),
        (4, [999, 0, 100], ([0, 1, 2, 3], [0, 100, 999])),
        (2, [300, 100], ([0, 1], [100, 300])),
        (1, [], ([0], [])),
    ],
)
def test_default_choice(
    num_blocks: int, timesteps: Sequence[int], expected: tuple[list[int], list[int]]
) -> None:
    assert default_cluster_choice(num_blocks, timesteps) == expected
