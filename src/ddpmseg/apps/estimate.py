"""What a run will take, said before it starts."""

import time

import torch

from ddpmseg.config import TrainConfig
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.features.layout import FeatureLayout


def describe(
    config: TrainConfig, layout: FeatureLayout, num_train: int, num_test: int
) -> list[str]:
    """Lines about the vectors, the maps kept in memory and the forward passes of a run."""
    timesteps = len({spec.timestep for spec in layout.maps})
    values, size = layout.values_per_image(), layout.image_size
    kept = num_train * values * 4
    full = num_train * layout.dim * size**2 * 4
    return [
        f"features: {layout.dim} per pixel, blocks {sorted(config.features.blocks)} of "
        f"'{config.backbone.name}' at t = {config.features.timesteps} ({config.features.hook}s)",
        f"memory: native maps of {num_train} training images take {kept / 2e9:.2f} GB in 16 bits, "
        f"{kept / 1e9:.2f} GB in 32 (vectors of all their pixels would take {full / 1e9:.1f} GB); "
        "test images stream through",
        f"forward passes: {(num_train + num_test) * timesteps} "
        f"({num_train} training + {num_test} test images, {timesteps} timesteps each)",
    ]


def seconds_per_image(extractor: FeatureExtractor) -> float:
    """Measured on one full batch of noise, after one to warm up."""
    count, size = extractor.images_per_pass, extractor.layout.image_size
    images = torch.zeros(count, 3, size, size, dtype=torch.uint8)
    names = [f"estimate/{index}" for index in range(count)]
    extractor(images, names)
    started = time.perf_counter()
    extractor(images, names)
    if extractor.backbone.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / count
