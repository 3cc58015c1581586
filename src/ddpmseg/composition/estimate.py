"""What a run will take, said before it starts."""

import logging
import os
import time
from collections.abc import Callable

import torch

from ddpmseg import ranks
from ddpmseg.composition.resolve import ResolvedSegmentation
from ddpmseg.config import TrainConfig
from ddpmseg.data.datamodule import LabelledImages
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.features.layout import other_size
from ddpmseg.heads.probes import StackedProbes

log = logging.getLogger(__name__)
LONG = 0.5
"""Seconds beside which a processor's warming up hardly counts."""


def num_training_images(config: TrainConfig, dataset: LabelledSet) -> int:
    """Labelled images a run trains on; none where the head comes fitted."""
    return 0 if config.head.comes_fitted else len(dataset.train)


def describe(run: ResolvedSegmentation, num_train: int, num_test: int) -> list[str]:
    """Lines about the vectors, the maps kept in memory and the forward passes of a run."""
    config, layout = run.config, run.layout
    timesteps = len(layout.timesteps)
    values, size = layout.values_per_image(), layout.image_size
    kept = num_train * values * 4
    full = num_train * layout.dim * size**2 * 4
    when = ", no timesteps" if layout.timeless else f" at t = {config.features.timesteps}"
    passes = "one each" if layout.timeless else f"{timesteps} timesteps each"
    features = (
        f"features: {layout.dim} per pixel, blocks {layout.blocks} of "
        f"'{config.backbone.name}'{when} ({config.features.hook}s)"
    )
    lines = [features, *filter(None, [other_size(run.network, size)])]
    if not num_train:
        return [
            *lines,
            f"forward passes: {num_test * timesteps} ({num_test} test images, {passes})",
        ]
    return [
        *lines,
        f"memory: native maps of {num_train} training images take {kept / 2e9:.2f} GB in 16 bits, "
        f"{kept / 1e9:.2f} GB in 32 (vectors of all their pixels would take {full / 1e9:.1f} GB); "
        "test images stream through",
        f"forward passes: {(num_train + num_test) * timesteps} "
        f"({num_train} training + {num_test} test images, {passes})",
    ]


def forecast(extractor: FeatureExtractor, images: LabelledImages, num_train: int) -> None:
    """Log how long the forward passes will take; runs none where the cache has all maps."""
    timesteps, cache = len(extractor.timesteps), extractor.cache
    num_images = num_train + len(images.dataset.test)
    missing = num_images * timesteps / ranks.num_ranks()
    if cache is not None:
        # The loaders hold the share of this process.
        loaders = [images.train_dataloader()] if num_train else []
        loaders.append(images.test_dataloader())
        batches = [(some, names) for loader in loaders for some, _, names in loader]
        pairs = timesteps * sum(len(names) for _, names in batches)
        missing = sum(extractor.num_missing(*batch) for batch in batches)
        found = pairs - missing
        log.info("cache: %d of %d (image, t) pairs are in '%s'", found, pairs, cache.folder)
        values = num_images * extractor.layout.values_per_image()
        needed = values * extractor.backbone.dtype.itemsize
        if needed > cache.max_bytes:
            log.warning(
                "the maps of this run take %.3g GB, `features.cache_gb` is %.3g: the next run will "
                "compute most of them again. Raise it, or in a multirun `multirun.share_gb`.",
                *(needed / 1e9, cache.max_bytes / 1e9),
            )
    # Timed without the cache, which has no use for maps of an empty image.
    per_image = seconds_per_image(extractor.without_cache()) if missing else 0.0
    seconds, device = missing / timesteps * per_image, extractor.backbone.device
    log.info("time: about %.0f s of forward passes on %s", seconds, device)


def seconds_per_image(extractor: FeatureExtractor) -> float:
    """Measured on one image, or on a full batch where that takes less than `LONG`.

    So the forecast of work that takes minutes costs one of its images.
    """
    device, size = extractor.backbone.device, extractor.layout.image_size
    count = extractor.images_per_pass

    def passes(count: int) -> Callable[[], object]:
        images = torch.zeros(count, 3, size, size, dtype=torch.uint8)
        return lambda: extractor(images, [f"estimate/{index}" for index in range(count)])

    if device.type == "cpu" and count > 1 and not extractor.backbone.compiled:
        # A GPU computes many images in the time of one.
        seconds = _timed(passes(1), device)
        if seconds >= LONG:
            return seconds
    return _timed(passes(count), device, warm=extractor.backbone.compiled) / count


def seconds_of_probes(extractor: FeatureExtractor, probes: StackedProbes) -> tuple[float, float]:
    """Seconds of a training step on 1024 pixels, and of segmenting one image, on what is extracted.

    Measured on noise, in 32 bits: training in 16 is a little faster.
    """
    size, device = extractor.layout.image_size, extractor.backbone.device
    probes = probes.to(device)
    maps = extractor(torch.zeros(1, 3, size, size, dtype=torch.uint8), ["estimate/0"])
    images = torch.zeros(len(probes.seeds), 1024, dtype=torch.long, device=device)
    pixels = torch.randint(size * size, images.shape, device=device)

    def step() -> None:
        vectors = maps.pixel_vectors(images.flatten(), pixels.flatten())
        probes(vectors.view(*images.shape, -1)).sum().backward()

    reader = probes.label_reader(extractor.backbone.dtype)
    return _timed(step, device), _timed(lambda: reader(maps), device)


def other_work() -> str:
    """A warning where more processes want to run than there are cores; empty where they fit."""
    cores, waiting = os.cpu_count() or 1, os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if waiting <= cores:
        return ""
    return (
        f" while other work keeps the machine busy (load {waiting:.1f} on {cores} cores): on an "
        "idle one it is faster"
    )


def _timed(work: Callable[[], object], device: torch.device, warm: bool = False) -> float:
    """Seconds of a second run, or of the first on a CPU where it takes `LONG`.

    warm: the first is not counted, however long it takes.
    """
    first = _once(work, device)
    if device.type == "cpu" and first >= LONG and not warm:
        return first
    return _once(work, device)


def _once(work: Callable[[], object], device: torch.device) -> float:
    _finish(device)
    started = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    """Wait for the work that was given to the device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
