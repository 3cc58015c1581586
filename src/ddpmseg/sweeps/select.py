"""Which blocks and timesteps to read out together: proposed from labelled training images alone."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ddpmseg.command_line import command
from ddpmseg.composition.build import build_extractor
from ddpmseg.config import FeaturesConfig, SweepConfig
from ddpmseg.config.groups import overrides_of
from ddpmseg.data.datamodule import LabelledImages
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.errors import ConfigError, DataError
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.finished.open import open_sweep
from ddpmseg.heads.pixels import LabelledPixels
from ddpmseg.heads.ridge import cross_validated_counts, mean_iou
from ddpmseg.runtime.device import choose_device
from ddpmseg.sweeps.selection import Budget, Chosen, Search, channels, paper_rule
from ddpmseg.training.extraction import extract_training_set

log = logging.getLogger(__name__)
SAMPLED_PIXELS = 12_000
"""Of all training images together."""
FOLDS = 4
BALANCE = 0.5
"""Rare classes are sampled more often, as by head.protocol=fast."""


@dataclass(frozen=True)
class Selection:
    """A proposed set beside the paper's rule, both with their cross-validated mean IoU.

    The scores rank sets; they are those of a quick closed-form classifier, not of a trained head.
    """

    chosen: Chosen
    score: float
    rule: Chosen
    rule_score: float
    width: dict[int, int]
    evaluated: int
    seconds: float
    timeless: bool
    """A network without timesteps: the rule is to read all blocks."""
    settings: Mapping[str, Any]
    """Overrides of `ddpmseg train` that use the proposed set in place of the sweep's grid."""

    def lines(self) -> list[str]:
        def line(name: str, chosen: Chosen, score: float) -> str:
            blocks, timesteps = chosen
            when = f", t = {list(timesteps)}: {len(timesteps)} forward passes,"
            return (
                f"{name:<13} blocks {list(blocks)}{':' if self.timeless else when} "
                f"{channels(chosen, self.width)} channels, cross-validated mIoU {100 * score:.1f} %"
            )

        return [
            line("proposed", self.chosen, self.score),
            line("all blocks" if self.timeless else "paper's rule", self.rule, self.rule_score),
            f"{self.evaluated} sets compared in {self.seconds:.0f} s on the labelled training "
            "images; test images were not used. This command trains a head on the proposed ones:",
            command("train", settings=self.settings),
        ]


def select(
    folder: Path, passes: int = 3, max_channels: int | None = None, accelerator: str = "auto"
) -> Selection:
    """Search among the blocks and timesteps of a sweep's finished cells.

    passes: timesteps at most. max_channels: features of a pixel vector at most; None: as many as
    the paper's rule has, or all blocks of a network without timesteps. Of the cells only their
    places in the grid are used, never their scores.

    Raises ConfigError for a folder that holds no sweep and for a budget that allows no cell,
    DataError where no cell is finished, or a single image is labelled.
    """
    started = time.perf_counter()
    opened = open_sweep(folder)
    config, done = opened.config, opened.store.done()
    blocks = sorted({block for block, _, _ in done})
    timesteps = sorted({timestep for _, timestep, _ in done})
    dataset = opened.dataset()
    if len(dataset.train) < 2:
        raise DataError(
            "one labelled image cannot be cross-validated: `select` needs at least two. Set "
            "`dataset.num_labelled` to more in the sweep."
        )
    backbone = opened.backbone(choose_device(accelerator))
    width = {block: backbone.blocks[block].at(config.sweep.hook)[0] for block in blocks}  # pyright: ignore[reportArgumentType]
    timeless = backbone.num_timesteps is None
    rule = paper_rule(len(backbone.blocks), blocks, timesteps)
    if timeless:
        # The paper's blocks are those of a decoder.
        rule = (tuple(blocks), tuple(timesteps))
    budget = Budget(passes, max_channels or channels(rule, width))
    cheapest = min(width.values())
    if passes < 1 or budget.channels < cheapest:
        raise ConfigError(
            f"a budget of {passes} passes and {budget.channels} channels allows no cell; the "
            f"smallest takes 1 pass and {cheapest} channels."
        )
    sample = draw_sample(dataset, config.seed)
    log.info(
        "candidates: %d blocks x %d timesteps; %.2f GB for %d pixels of %d training images",
        len(blocks),
        len(timesteps),
        2 * len(sample.labels) * len(timesteps) * sum(width.values()) / 1e9,
        len(sample.labels),
        len(dataset.train),
    )
    vectors = {}
    for timestep in timesteps:
        extractor = build_extractor(
            config.sweep.features(blocks, [timestep]), backbone, dataset.image_size, config.seed
        )
        vectors |= _sampled(extractor, dataset, sample)

    def score(chosen: Chosen) -> float:
        some = [vectors[block, t] for t in chosen[1] for block in chosen[0]]
        counts = cross_validated_counts(
            torch.cat(some, dim=1).float(),
            sample.labels,
            sample.images % min(FOLDS, len(dataset.train)),
            sample.weights,
            dataset.classes.num_classes,
        )
        return mean_iou(counts)

    search = Search(score, width, budget)
    chosen = search.run(rule, timesteps)
    return Selection(
        chosen=chosen,
        score=search.scores[chosen],
        rule=rule,
        rule_score=search.scores.get(rule) or score(rule),
        width=width,
        evaluated=len(search.scores),
        timeless=timeless,
        settings=_settings(config, chosen, timeless),
        seconds=time.perf_counter() - started,
    )


def _settings(config: SweepConfig, chosen: Chosen, timeless: bool) -> dict[str, Any]:
    """Overrides of `ddpmseg train` that read the chosen maps as the sweep read its own."""
    settings = overrides_of(dataset=config.dataset, backbone=config.backbone)
    usual = FeaturesConfig()
    read = {"seed": config.seed or None} | {
        f"features.{key}": value if value != getattr(usual, key) else None
        for key, value in (("hook", config.sweep.hook), ("noise", config.sweep.noise))
    }
    settings |= {key: value for key, value in read.items() if value is not None}
    settings["features.blocks"] = list(chosen[0])
    if not timeless:
        settings["features.timesteps"] = list(chosen[1])
    return settings


@dataclass(frozen=True, eq=False)
class Sample:
    """Training pixels (image, row * size + column), their labels, the pixels each stands for."""

    images: Int64[Tensor, " p"]
    pixels: Int64[Tensor, " p"]
    labels: Int64[Tensor, " p"]
    weights: Float[Tensor, " p"]


def draw_sample(dataset: LabelledSet, seed: int) -> Sample:
    """Pixels of all classes of the training masks, rare classes more densely."""
    masks = torch.stack([sample.mask for sample in dataset.train])
    labelled = LabelledPixels(masks, dataset.classes.ignore_label)
    positions, labels, weights = labelled.stratified(SAMPLED_PIXELS, BALANCE, seed)
    per_image = masks.shape[-1] ** 2
    return Sample(positions // per_image, positions % per_image, labels, weights)


def _sampled(
    extractor: FeatureExtractor, dataset: LabelledSet, sample: Sample
) -> dict[tuple[int, int], Float[Tensor, "p c"]]:
    """Standardised vectors of the sample in 16 bits, by (block, timestep)."""
    maps, _ = extract_training_set(extractor, LabelledImages(dataset, extractor.images_per_pass))
    place = maps.device
    vectors = maps.pixel_vectors(sample.images.to(place), sample.pixels.to(place)).float()
    deviation = vectors.std(dim=0, correction=0).clamp_min(1e-6)
    scaled = ((vectors - vectors.mean(dim=0)) / deviation).half().cpu()
    return {
        (spec.block, spec.timestep): scaled[:, columns].clone()
        for spec, columns in zip(maps.layout.maps, maps.layout.slices, strict=True)
    }
