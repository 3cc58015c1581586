"""Extraction: seconds of a forward pass for one (image, t), and how far the maps differ."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.cases import CASES, Case, Options, PlainExtractor, half_precision, ours, prepared
from benchmarks.floor import PER_PASS
from benchmarks.record import FASTER, Recorder
from benchmarks.stages import as_plain_maps, extractor_of
from benchmarks.timing import alternate, clocked
from ddpmseg.config import TrainConfig

log = logging.getLogger(__name__)

IMAGES = {"tiny": 2, "small": 8, "full": 1}
LIMITS = {"32": 1e-5, "bf16": 2e-2, "16": 2e-2}
"""Largest relative error by precision: norm of the difference over norm of the plain map."""
TF32 = 2e-3
"""That of the plain map itself on a GPU, whose convolutions torch lets round to 10 bits."""


def run(options: Options) -> None:
    """Rows of the network of `options.size`.

    Variants: the straightforward way, and the package in 32 bits, in the 16 bits of the device, and
    compiled (not in tiny, where compiling would take longer than all the rest).
    """
    case = CASES[options.size]
    with prepared(case, options) as config:
        _measure(case, config, options)


def _measure(case: Case, config: TrainConfig, options: Options) -> None:
    device = options.device
    record = Recorder(options.results, "extraction", case.name, device)
    dataset = config.dataset.build()
    images = torch.stack([dataset.test[i].image for i in range(IMAGES[options.size])])
    names = [f"test/{dataset.test.names[i]}" for i in range(len(images))]
    straightforward = PlainExtractor(config, device)

    def one_by_one() -> list[plain.Maps]:
        return [straightforward(image) for image in images]

    half = half_precision(device)
    variants: dict[str, tuple[str, bool]] = {"ours, 32 bits": ("32", False)}
    variants["ours, 16 bits"] = (half, False)
    if options.size != "tiny":
        variants["ours, 16 bits, compiled"] = (half, True)
    work: dict[str, Callable[[], list[plain.Maps]]] = {"plain": one_by_one}
    for name, (precision, compiled) in variants.items():
        extractor = extractor_of(config, ours(config, device, precision, compiled))

        def together(extractor=extractor) -> list[plain.Maps]:
            maps = extractor(images, names)
            return [as_plain_maps(maps, index) for index in range(len(maps))]

        work[name] = together

    timed = alternate(work, options.repeats, device)
    passes = len(images) * len(config.features.timesteps)
    reference = timed["plain"]
    for name, one in timed.items():
        record.add(name, PER_PASS, "s", [s / passes for s in one.seconds])
        record.add(name, "first run of all", "s", [one.first], "with warming up or compiling")
    for name, (precision, _) in variants.items():
        record.add_ratio(name, FASTER, reference.seconds, timed[name].seconds)
        for block, error in _errors(timed[name].result, reference.result).items():
            limit = max(LIMITS[precision], TF32 if device.type == "cuda" else 0)
            record.check(name, f"relative error, block {block}", error, limit)
    size = config.dataset.image_size
    spent = [
        clocked(lambda: plain.pixel_vectors(reference.result[0], size), device)[0]
        for _ in range(options.repeats)
    ]
    per_map = [seconds / len(config.features.timesteps) for seconds in spent]
    record.add("plain", "resizing the maps of one (image, t), besides", "s", per_map)
    record.save()


def _errors(found: list[plain.Maps], expected: list[plain.Maps]) -> dict[int, float]:
    """Block -> norm of the difference over norm of the expected maps, all images and timesteps."""

    def joined(maps: list[plain.Maps], block: int) -> Tensor:
        return torch.cat([value.flatten() for one in maps for key, value in one.items()
                          if key[1] == block])  # fmt: skip

    errors = {}
    for block in sorted({block for _, block in expected[0]}):
        right = joined(expected, block)
        errors[block] = ((joined(found, block) - right).norm() / right.norm()).item()
    return errors
