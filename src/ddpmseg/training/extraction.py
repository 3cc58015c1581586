"""Features of the labelled images, shared out over the devices."""

import torch

from ddpmseg import ranks
from ddpmseg.data.datamodule import LabelledImages
from ddpmseg.features.extract import CPU, FeatureExtractor
from ddpmseg.features.maps import NativeMaps


def extract_training_set(
    extractor: FeatureExtractor, images: LabelledImages
) -> tuple[NativeMaps, torch.Tensor]:
    """Native maps and masks (n, s, s) of the labelled images.

    Every rank extracts its share, and rank 0 gets all maps; the others return their own. They are
    on the GPU where they take less than half of what is free there, else on the CPU.
    """
    masks = []

    def batches():
        for pictures, truth, names in images.train_dataloader():
            masks.append(truth)
            yield pictures, names

    count = len(images.dataset.train)
    parts = ranks.shares(count, images.batch_size)
    place = _place_of_maps(extractor, count)
    maps = extractor.extract_all(
        batches(),
        count if ranks.is_first() else len(parts[ranks.rank()]),
        place if ranks.num_ranks() == 1 else CPU,  # between ranks they travel from CPU to CPU
    )
    for group in maps.groups.values():
        ranks.collect_rows(group, parts)
    every_mask = [mask for part in ranks.gathered(masks) for mask in part]
    return maps.to(place), torch.cat(every_mask)


def _place_of_maps(extractor: FeatureExtractor, num_images: int) -> torch.device:
    device, dtype = extractor.backbone.device, extractor.backbone.dtype
    num_bytes = num_images * extractor.layout.values_per_image() * dtype.itemsize
    if device.type == "cuda" and num_bytes < torch.cuda.mem_get_info()[0] / 2:
        return device
    return CPU
