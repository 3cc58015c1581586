"""Looking before leaping: what a composed configuration would do."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hydra import compose as hydra_compose
from omegaconf import DictConfig, OmegaConf

from ddpmseg.composition.build import build_extractor
from ddpmseg.composition.checks import typed_config
from ddpmseg.composition.estimate import (
    describe,
    num_training_images,
    other_work,
    seconds_per_image,
)
from ddpmseg.composition.resolve import resolve_segmentation
from ddpmseg.config import SweepConfig, TrainConfig, run_request
from ddpmseg.config.groups import groups_of
from ddpmseg.config.overrides import COMPOSING, check_overrides, composition_error
from ddpmseg.config.search_path import packaged_folder
from ddpmseg.data.settings import SMALLEST_IMAGE
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.features.layout import check_image_size
from ddpmseg.records.published import SOURCE, load_published
from ddpmseg.settings import at_least

Typed = TypeVar("Typed", TrainConfig, SweepConfig)


def compose(
    config_dir: Path | None,
    overrides: list[str],
    typed: Callable[[DictConfig], Typed] = typed_config,
    program: str = "train",
) -> Typed:
    """The configuration of `ddpmseg PROGRAM` with these overrides, as `typed` makes it of Hydra's.

    Files in `config_dir`, where it is given, hide those of the same name in the usual folders (see
    `ddpmseg.config.search_path`). Raises ConfigError.
    """
    folder = packaged_folder() if config_dir is None else config_dir
    if not folder.is_dir():
        raise ConfigError(
            f"`--config-dir {folder}`: there is no such folder. Name one with configuration files, "
            "such as backbone/NAME.yaml, or leave the option out."
        )
    with groups_of(program, folder) as groups:
        check_overrides(overrides, groups.choices)
        try:
            cfg = hydra_compose(program, overrides)
        except COMPOSING as error:
            raise composition_error(error) from error
    return typed(cfg)


def estimate(config: TrainConfig) -> list[str]:
    """The published score, memory, forward passes, and time measured on one batch: lines of text.

    Missing images are counted as the class table says, and missing weights are replaced by random
    ones, which take as long. Raises as `resolve`, and ConfigError for another task.
    """
    if config.task != "segment":
        raise ConfigError(f"`task={config.task}`: only what task=segment takes is estimated.")
    run = resolve_segmentation(config, files=False)
    notes = []
    dataset = config.dataset
    if missing := dataset.missing():
        notes.append(f"images: '{missing}' is not there; as the class table counts")
        num_train, num_test = dataset.announced()
    else:
        images = dataset.build()
        num_train, num_test = num_training_images(config, images), len(images.test)
    backbone = config.backbone
    try:
        backbone.weight_file()
    except CheckpointError as error:
        notes.append(f"weights: timed with random ones. {error}")
        backbone = backbone.as_untrained()
    network = backbone.build(run.device)
    others = other_work()  # before the measurement adds its own
    extractor = build_extractor(config.features, network, config.dataset.image_size, config.seed)
    seconds = seconds_per_image(extractor)
    return [
        *_published(config),
        *notes,
        *describe(run, num_train, num_test),
        f"time: about {(num_train + num_test) * seconds:.0f} s of forward passes on "
        f"{network.device} ({1000 * seconds:.0f} ms an image), measured just now{others}",
    ]


def _published(config: TrainConfig) -> list[str]:
    """What the paper reports for this method on this dataset, as a line of text or none."""
    published = load_published()
    found = published.score_of(run_request(OmegaConf.structured(config)))
    if found is None:
        return []
    method, score = found
    dataset = published.datasets[config.dataset.name]
    return [f"published: {method} on {dataset} has mIoU {score} ({SOURCE})"]


def blocks(config: TrainConfig) -> list[str]:
    """A table of the maps of the backbone's blocks at `dataset.image_size`, read at the hook.

    Raises ConfigError for a size that the backbone cannot take.
    """
    backbone, hook = config.backbone.shape(), config.features.hook
    at_least("dataset.image_size", config.dataset.image_size, SMALLEST_IMAGE)
    check_image_size(backbone, config.dataset.image_size)
    notes = (" (inputs)" if hook == "input" else "") + (
        "; no timesteps" if backbone.num_timesteps is None else ""
    )
    lines = [f"{backbone.name}: {backbone.block_kind}s, {backbone.block_order}{notes}"]
    lines.append("block  channels     size  layers")
    for block in backbone.blocks:
        channels, _ = block.at(hook)  # pyright: ignore[reportArgumentType]
        side = backbone.map_size(block.index, hook, config.dataset.image_size)  # pyright: ignore
        lines.append(f"{block.index:>5}  {channels:>8}  {side:>3}x{side:<3}  {block.modules}")
    return lines
