"""Extracts the features of the labelled images, divided over the devices."""

from collections.abc import Callable

import torch

from ddpmseg import ranks
from ddpmseg.data.datamodule import LabelledImages
from ddpmseg.features.extract import CPU, FeatureExtractor
from ddpmseg.features.maps import NativeMaps


def extract_training_set(
    extractor: FeatureExtractor,
    images: LabelledImages,
    advance: Callable[[int], object] = lambda _: None,
) -> tuple[NativeMaps, torch.Tensor]:
    """Native maps and masks (n, s, s) of the labelled images.

    Every rank extracts its share. Rank 0 returns all maps, the other ranks their own. Maps are on
    the device of `device_of_maps`. Calls `advance` with
    the number of images after each batch.
    """
    masks = []

    def batches():
        for pictures, truth, names in images.train_dataloader():
            masks.append(truth)
            yield pictures, names
            advance(len(names))

    count = len(images.dataset.train)
    parts = ranks.shares(count, images.batch_size)
    device = device_of_maps(extractor, count)
    maps = extractor.extract_all(
        batches(),
        count if ranks.is_first() else len(parts[ranks.rank()]),
        device if ranks.num_ranks() == 1 else CPU,  # ranks exchange maps on the CPU
    )
    for group in maps.groups.values():
        ranks.collect_rows(group, parts)
    all_masks = [mask for part in ranks.gathered(masks) for mask in part]
    return maps.to(device), torch.cat(all_masks)


def device_of_maps(extractor: FeatureExtractor, num_images: int) -> torch.device:
    """The GPU if the maps of these images take less than half of its free memory, or the CPU."""
    device, dtype = extractor.backbone.device, extractor.backbone.dtype
    num_bytes = num_images * extractor.layout.values_per_image() * dtype.itemsize
    if device.type == "cuda" and num_bytes < torch.cuda.mem_get_info()[0] / 2:
        return device
    return CPU
