"""K-means clusters and principal components of single maps (paper, figure 4).

Every map is clustered by itself at its native resolution. Not labels are resized to the image but
squared distances to the centres, bilinearly: as bilinear weights sum to one, the smallest of them
is the centre nearest to the pixel's interpolated vector, the vector that a probe sees. Resized
labels would show the cells of the map as a mosaic. The paper does not say how it clusters.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, Integer, UInt8
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ddpmseg.errors import ConfigError
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.randomness import keyed_generator
from ddpmseg.report.study import ClusterMaps

PAPER_BLOCKS, PAPER_NUM_BLOCKS = (6, 8, 10, 12), 18
PAPER_TIMESTEPS = (50, 200, 400, 600, 800)
FIT_POINTS = 4096
"""Vectors of a map that centres and directions are fitted to, at most; all are then assigned."""
RESTARTS = 3

_Panel = tuple[int, int]


def default_cluster_choice(
    num_blocks: int, timesteps: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Blocks and timesteps for figure 4: the paper's, or what comes nearest to them. Ascending.

    The paper shows blocks 6, 8, 10, 12 of 18 and t = 50, 200, 400, 600, 800. Blocks are those of
    the same relative depth (4, 5, 7, 8 of 12), or all where there are at most four. Of `timesteps`
    those nearest to the paper's are taken, the smaller of two equally near, each once.
    """
    if num_blocks <= len(PAPER_BLOCKS):
        blocks = set(range(num_blocks))
    else:
        blocks = {round(block * num_blocks / PAPER_NUM_BLOCKS) for block in PAPER_BLOCKS}
    nearest = {
        min(timesteps, key=lambda t: (abs(t - wanted), t))
        for wanted in PAPER_TIMESTEPS
        if timesteps
    }
    return sorted(blocks), sorted(nearest)


def evenly_chosen(num_blocks: int, at_most: int = 6) -> list[int]:
    """Blocks of a network without timesteps for such a figure: the first, the last, and between."""
    if num_blocks <= at_most:
        return list(range(num_blocks))
    return [round(i * (num_blocks - 1) / (at_most - 1)) for i in range(at_most)]


@torch.inference_mode()
def cluster_maps(
    extractor: FeatureExtractor,
    images: UInt8[Tensor, "n 3 s s"],
    names: Sequence[str],
    k: int = 5,
    seed: int = 0,
) -> ClusterMaps:
    """Cluster every map of every image for the extractor's blocks and timesteps, both ascending.

    A map with fewer than `k` different vectors gets fewer clusters. Panels of an image are then
    made comparable one after the other, each by its neighbour (see `panel_order`): labels by the
    assignment with the largest overlap in pixels, components by the sign of their correlation. In
    the first panel labels go from the largest cluster to the smallest.

    Raises ConfigError for a `k` outside 1..256.
    """
    if not 1 <= k <= 256:
        raise ConfigError(f"k-means was asked for {k} clusters; give a number from 1 to 256.")
    blocks, timesteps = extractor.blocks, sorted(extractor.timesteps)
    where = {(spec.block, spec.timestep): i for i, spec in enumerate(extractor.layout.maps)}
    size = extractor.layout.image_size
    shape = (len(images), len(blocks), len(timesteps), size, size)
    labels, components = np.empty(shape, np.uint8), np.empty((*shape, 3), np.uint8)
    for i, name in enumerate(names):
        maps = extractor(images[i : i + 1], [name])
        oriented: dict[_Panel, Float32[np.ndarray, "s s 3"]] = {}
        for panel, neighbour in panel_order(len(blocks), len(timesteps)):
            row, column = panel
            vectors = maps.map(where[blocks[row], timesteps[column]])[0].float().cpu()
            found = cluster_map(vectors, k, size, seed)
            principal = principal_components(vectors, size, seed)
            if neighbour is None:
                labels[i][panel] = _largest_first(found, k)
                oriented[panel] = principal
            else:
                labels[i][panel] = match_labels(found, labels[i][neighbour], k)
                oriented[panel] = _same_signs(principal, oriented[neighbour])
            components[i][panel] = _as_colours(oriented[panel])
    return ClusterMaps(
        blocks=tuple(blocks),
        timesteps=tuple(timesteps),
        k=k,
        images=images.permute(0, 2, 3, 1).cpu().numpy(),
        noised=_noised(extractor, images, names, timesteps),
        labels=labels,
        components=components,
    )


def panel_order(num_blocks: int, num_timesteps: int) -> Iterator[tuple[_Panel, _Panel | None]]:
    """Panels (row of a block, column of a timestep), each with an earlier one to be matched with.

    The first is the middle block (the deeper of two) at the smallest t. At that t every block
    follows its neighbour towards the middle; elsewhere a panel follows its block's next smaller t.
    """
    middle = (num_blocks - 1) // 2
    for row in (*range(middle, -1, -1), *range(middle + 1, num_blocks)):
        towards_middle = (row + (1 if row < middle else -1), 0)
        for column in range(num_timesteps):
            if column:
                yield (row, column), (row, column - 1)
            else:
                yield (row, 0), None if row == middle else towards_middle


def cluster_map(
    vectors: Float[Tensor, "h w c"], k: int, size: int, seed: int
) -> Int64[np.ndarray, "{size} {size}"]:
    """Labels 0..k-1 of one map at the size of the image, numbered as k-means happens to."""
    from sklearn.cluster import KMeans  # here, for it takes seconds to import: pandas comes along

    points = vectors.flatten(0, 1)
    points = points - points.mean(0)
    fitted = _some(points, seed)
    clusters = _distinguishable(fitted, points_scale=vectors.square().sum(-1).max(), at_most=k)
    # Pyright takes the default of n_init, 'auto', for its type.
    model = KMeans(clusters, n_init=RESTARTS, random_state=seed)  # pyright: ignore[reportArgumentType]
    model.fit(fitted.numpy())
    centres = torch.from_numpy(model.cluster_centers_).to(points)
    # The square of the vector itself is left out: it is the same for every centre.
    distances = centres.square().sum(1) - 2 * points @ centres.T
    return _resize(distances.view(*vectors.shape[:2], clusters), size).argmin(0).numpy()


def match_labels(
    labels: Integer[np.ndarray, "h w"], reference: Integer[np.ndarray, "h w"], k: int
) -> Int64[np.ndarray, "h w"]:
    """Renumber labels 0..k-1 so that as many pixels as possible have the label of `reference`."""
    pairs = labels.astype(np.int64) * k + reference
    overlap = np.bincount(pairs.ravel(), minlength=k * k).reshape(k, k)
    renumbered = linear_sum_assignment(overlap, maximize=True)[1]
    return renumbered[labels]


def principal_components(
    vectors: Float[Tensor, "h w c"], size: int, seed: int
) -> Float32[np.ndarray, "{size} {size} 3"]:
    """First three principal components of one map, bilinearly resized; 0 where there is none.

    The largest coordinate of a direction is positive. A component with less than a millionth of the
    first one's variance is rounding and counts as none.
    """
    points = vectors.flatten(0, 1).double()
    points = points - points.mean(0)
    fitted = _some(points, seed)
    channels = fitted.shape[1]
    covariance = (fitted.T @ fitted / len(fitted)).numpy()
    variance, directions = scipy.linalg.eigh(
        covariance, subset_by_index=[max(0, channels - 3), channels - 1]
    )
    scale = vectors.double().square().sum(-1).max().item()
    variance, directions = variance[::-1], directions[:, ::-1]
    kept = variance > 1e-6 * variance[0] + 1e-12 * scale
    directions = directions[:, kept]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(0)[None], axis=0)
    scores = np.zeros((len(points), 3), np.float32)
    scores[:, : directions.shape[1]] = points.numpy() @ (directions * np.sign(largest))
    resized = _resize(torch.from_numpy(scores).view(*vectors.shape[:2], 3), size)
    return resized.numpy().transpose(1, 2, 0)


def _noised(
    extractor: FeatureExtractor, images: Tensor, names: Sequence[str], timesteps: Sequence[int]
) -> UInt8[np.ndarray, "n t s s 3"]:
    """x_t with the noise the extractor draws, clipped to [-1, 1]."""
    backbone = extractor.backbone
    device, count = backbone.device, len(timesteps)
    times = torch.tensor(timesteps, device=device)
    rows = []
    for image, name in zip(images, names, strict=True):
        clean = (image.to(device).float() / 127.5 - 1).expand(count, -1, -1, -1)
        noise = extractor.noise.of_pairs([(name, t) for t in timesteps], device)
        x_t = backbone.add_noise(clean, times, noise).float().clamp(-1, 1)
        rows.append(((x_t + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu())
    return torch.stack(rows).numpy()


def _some(points: Float[Tensor, "p c"], seed: int) -> Float[Tensor, "q c"]:
    """At most `FIT_POINTS` of the points, drawn by the seed."""
    if len(points) <= FIT_POINTS:
        return points
    order = torch.randperm(len(points), generator=keyed_generator(seed, "cluster points"))
    return points[order[:FIT_POINTS]]


def _distinguishable(points: Float[Tensor, "p c"], points_scale: Tensor, at_most: int) -> int:
    """How many points are apart, picked one by one, the farthest from those picked first.

    Apart: by more than a hundredth of the first distance, and by more than float32 rounds vectors
    whose largest squared length is `points_scale`. More clusters than that are none.
    """
    distance = (points - points[0]).square().sum(1)
    least = 1e-4 * distance.max() + 1e-12 * points_scale
    for count in range(1, at_most):
        if distance.max() <= least:
            return count
        farthest = points[distance.argmax()]
        distance = torch.minimum(distance, (points - farthest).square().sum(1))
    return at_most


def _resize(channels_last: Float[Tensor, "h w c"], size: int) -> Float[Tensor, "c {size} {size}"]:
    stacked = channels_last.permute(2, 0, 1)[None]
    return F.interpolate(stacked, size=(size, size), mode="bilinear", align_corners=False)[0]


def _largest_first(labels: Int64[np.ndarray, "h w"], k: int) -> Int64[np.ndarray, "h w"]:
    """Renumber the clusters by area, equal ones in their order."""
    by_area = np.argsort(-np.bincount(labels.ravel(), minlength=k), kind="stable")
    return np.argsort(by_area)[labels]


def _same_signs(
    components: Float32[np.ndarray, "s s 3"], neighbour: Float32[np.ndarray, "s s 3"]
) -> Float32[np.ndarray, "s s 3"]:
    """Turn round each component that correlates negatively with the neighbour's."""
    centred, other = (c - c.mean((0, 1)) for c in (components, neighbour))
    return np.where((centred * other).sum((0, 1)) < 0, -components, components)


def _as_colours(components: Float32[np.ndarray, "s s 3"]) -> UInt8[np.ndarray, "s s 3"]:
    """2nd to 98th percentile of each component to 0..255; mid grey where it is constant."""
    low, high = np.percentile(components, [2, 98], axis=(0, 1))
    width = high - low
    share = np.divide(components - low, width, out=np.full(components.shape, 0.5), where=width > 0)
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
