"""The pictures of a sweep's report: example images, and clusters of their maps."""

from pathlib import Path

import numpy as np

from ddpmseg.composition.build import build_extractor
from ddpmseg.data.datamodule import LabelledImages
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.io.files import written_whole
from ddpmseg.records.cells import CellStore
from ddpmseg.report.clusters import cluster_maps, default_cluster_choice, evenly_chosen
from ddpmseg.report.study import ClusterMaps
from ddpmseg.sweeps.networks import NetworkSlot
from ddpmseg.sweeps.resolve import ResolvedSweep

EXAMPLES, CLUSTERS = "examples.npz", "clusters.npz"


def write_examples(folder: Path, dataset: LabelledSet, count: int) -> None:
    """Keep the first test images and their masks, of which every cell keeps its prediction."""
    samples = [dataset.test[index] for index in range(min(count, len(dataset.test)))]
    if not samples or (folder / EXAMPLES).exists():
        return
    with written_whole(folder / EXAMPLES) as unfinished, unfinished.open("wb") as file:
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
    with written_whole(folder / CLUSTERS) as unfinished, unfinished.open("wb") as file:
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
    """What `write_clusters` wrote, if it did."""
    arrays = read_arrays(folder / CLUSTERS)
    if not arrays:
        return None
    return ClusterMaps(
        blocks=tuple(arrays["blocks"].tolist()),
        timesteps=tuple(arrays["timesteps"].tolist()),
        k=int(arrays["k"]),
        images=arrays["images"],
        noised=arrays["noised"],
        labels=arrays["labels"],
        components=arrays["components"],
    )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What an .npz file holds; empty where there is none."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
