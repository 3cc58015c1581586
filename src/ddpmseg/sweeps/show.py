"""The pictures of a sweep's report: example images, and clusters of their maps."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8

from ddpmseg.composition.build import build_extractor
from ddpmseg.data.datamodule import LabelledImages
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.io.array_file import read_npz
from ddpmseg.io.damage import DAMAGE, reason_of
from ddpmseg.io.files import atomic_write
from ddpmseg.records.cells import CellStore
from ddpmseg.report.clusters import cluster_maps, default_cluster_choice, evenly_chosen
from ddpmseg.report.study import ClusterMaps
from ddpmseg.sweeps.networks import NetworkSlot
from ddpmseg.sweeps.resolve import ResolvedSweep

log = logging.getLogger(__name__)
Arrays = Mapping[str, np.ndarray]
Images = UInt8[np.ndarray, "n s s 3"]
Masks = UInt8[np.ndarray, "n s s"]
Found = TypeVar("Found")
EXAMPLES, CLUSTERS = "examples.npz", "clusters.npz"


def write_examples(folder: Path, dataset: LabelledSet, count: int) -> None:
    """Keep the first test images and their masks, of which every cell keeps its prediction."""
    samples = [dataset.test[index] for index in range(min(count, len(dataset.test)))]
    if not samples or read_examples(folder):
        return
    with atomic_write(folder / EXAMPLES) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(
            file,
            images=np.stack([sample.image.permute(1, 2, 0).numpy() for sample in samples]),
            truths=np.stack([sample.mask.numpy() for sample in samples]),
        )


def write_clusters(sweep: ResolvedSweep, dataset: LabelledSet, networks: NetworkSlot) -> None:
    """Cluster maps of the first test images (paper, figure 4), unless that is done already.

    Unless `sweep.clusters` says which, blocks and timesteps are chosen among all finished cells.
    """
    folder, config, network = sweep.folder, sweep.config, sweep.network
    settings = config.sweep.clusters
    cells = CellStore(folder).read()
    count = min(settings.images, len(dataset.test))
    if not count or not cells:
        return
    timesteps = sorted({cell.timestep for cell in cells})
    num_blocks = len(network.blocks)
    if network.num_timesteps is None:
        blocks = evenly_chosen(num_blocks)
    else:
        blocks, timesteps = default_cluster_choice(num_blocks, timesteps)
    blocks = settings.blocks or blocks
    timesteps = settings.timesteps or timesteps
    earlier = read_clusters(folder)
    wanted = (tuple(blocks), tuple(timesteps), settings.k, count)
    if earlier and wanted == (earlier.blocks, earlier.timesteps, earlier.k, len(earlier.images)):
        return
    extractor = build_extractor(
        config.sweep.features(blocks, timesteps),
        networks.get(config.backbone),
        dataset.image_size,
        config.seed,
    )
    images, _, names = next(iter(LabelledImages(dataset, count).test_dataloader()))
    maps = cluster_maps(extractor, images, names, settings.k)
    with atomic_write(folder / CLUSTERS) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(
            file,
            blocks=np.array(maps.blocks),
            timesteps=np.array(maps.timesteps),
            k=np.array(maps.k),
            images=maps.images,
            noised=maps.noised,
            labels=maps.labels,
            components=maps.components,
        )


def read_clusters(folder: Path) -> ClusterMaps | None:
    """What `write_clusters` wrote, if it did; None, with a warning, where that is damaged."""
    return _read(folder / CLUSTERS, _clusters)


def read_examples(folder: Path) -> tuple[Images, Masks] | None:
    """The images and masks that `write_examples` kept, if it did; damage as `read_clusters`."""
    return _read(folder / EXAMPLES, _examples)


def _read(path: Path, made_of: Callable[[Arrays], Found]) -> Found | None:
    if not path.exists():
        return None
    try:
        return made_of(read_npz(path))
    except DAMAGE as error:
        log.warning(
            "'%s' is damaged (%s): its pictures are left out; the command of the sweep makes them "
            "anew",
            *(path, reason_of(error)),
        )
        return None


def _examples(arrays: Arrays) -> tuple[Images, Masks]:
    images, truths = arrays["images"], arrays["truths"]
    _check(images, (*truths.shape, 3))
    _check(truths, (len(images), *images.shape[1:3]))
    return images, truths


def _clusters(arrays: Arrays) -> ClusterMaps:
    blocks, timesteps = arrays["blocks"], arrays["timesteps"]
    images, maps = arrays["images"], (len(blocks), len(timesteps))
    count, height, width = images.shape[:3]
    _check(images, (count, height, width, 3))
    _check(arrays["noised"], (count, len(timesteps), height, width, 3))
    _check(arrays["labels"], (count, *maps, height, width))
    _check(arrays["components"], (count, *maps, height, width, 3))
    return ClusterMaps(
        blocks=tuple(arrays["blocks"].tolist()),
        timesteps=tuple(arrays["timesteps"].tolist()),
        k=int(arrays["k"]),
        images=arrays["images"],
        noised=arrays["noised"],
        labels=arrays["labels"],
        components=arrays["components"],
    )


def _check(pixels: np.ndarray, shape: tuple[int, ...]) -> None:
    if pixels.dtype != np.uint8 or pixels.shape != shape or not pixels.size:
        raise ValueError(f"pixels of type {pixels.dtype} and shape {pixels.shape}")
