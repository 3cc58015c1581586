"""Fit a head to a few labelled images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ddpmseg.api.classes import Classes, class_table
from ddpmseg.api.features import features_config, recorded_settings, settings_of
from ddpmseg.api.images import Pictures, each_mask, fitted_samples
from ddpmseg.api.messages import python_names
from ddpmseg.api.segmenter import Segmenter
from ddpmseg.api.settings import chosen
from ddpmseg.backbones.base import Backbone, Hook
from ddpmseg.backbones.settings import BackboneConfig
from ddpmseg.composition.build import build_extractor, build_head
from ddpmseg.composition.identity import run_identity
from ddpmseg.composition.resolve import ResolvedRun
from ddpmseg.config import TrainConfig
from ddpmseg.data.arrays import LabelledArrays
from ddpmseg.data.datamodule import LabelledImages
from ddpmseg.data.settings import ArraysConfig
from ddpmseg.data.survey import known_survey, survey
from ddpmseg.features.noise import NoiseKind
from ddpmseg.heads.base import Head
from ddpmseg.heads.pixels import LabelledPixels
from ddpmseg.heads.segmenter import HeadSegmenter
from ddpmseg.records.results import write_per_class, write_results
from ddpmseg.records.run_folder import claim_run, hold_run, mark_finished
from ddpmseg.runs.record import Tested, described, write_head
from ddpmseg.runtime.device import trainer_arguments, trainer_precision
from ddpmseg.runtime.logs import quiet_libraries
from ddpmseg.training.callbacks import StepBar
from ddpmseg.training.extraction import extract_training_set
from ddpmseg.training.head import gradient_descent

UNSCORED = {"miou": "nan", "miou_present": "nan", "pixel_accuracy": "nan", "num_test": 0}


def fit(
    backbone: Backbone,
    images: Pictures,
    masks: Pictures,
    blocks: Sequence[int] | None = None,
    timesteps: Sequence[int] | None = None,
    head: str = "mlp",
    *,
    classes: Classes = None,
    seed: int = 0,
    members: int | None = None,
    hook: Hook | None = None,
    noise: NoiseKind = "shared",
    pass_size: int | None = None,
    tiny_annotations: str = "scaled",
    progress: bool = True,
    **head_settings: Any,
) -> Segmenter:
    """Fit a head to the pixels of labelled images, as `ddpmseg train` does.

    Args:
        backbone, blocks, timesteps, hook, noise, pass_size, progress: as of `ddpmseg.extract`.
        images, masks: n images and as many masks of their heights and widths, with a label per
            pixel, 0..K - 1, or 255 for a pixel without a class; see `ddpmseg.api.images.Pictures`.
        head: 'mlp' (the paper's ensemble), 'linear', or one of an installed package.
        classes: what the labels mean: names in their order, their number, the name of a shipped
            table such as 'ponies', or the path of a YAML file. None: as many as there are labels.
        seed: draws the noise, the first weights and the order of pixels.
        members: classifiers of the ensemble, which vote; None: 10 where the head is one.
        tiny_annotations: what becomes of a class that covers under 20 pixels (at 256x256) of an
            image. 'scaled' ignores it there, the 20 scaled to the image's area: the original code's
            rule at 256 pixels only. 'reference' ignores it under 20 pixels at any size, as the
            original code; 'keep' trains on it.
        head_settings: further settings of the head by name, such as `protocol='paper'`,
            `hidden=[64]` or `max_steps=100`.

    Raises DataError for images and masks that cannot be used or do not fit each other, ConfigError
    for a setting that cannot work, TrainingError where the loss is not finite.

    >>> import ddpmseg
    >>> backbone = ddpmseg.load_backbone("ddpm_ponies", device="cpu")
    >>> images, masks = ddpmseg.ponies(4)
    >>> segmenter = ddpmseg.fit(
    ...     backbone, images, masks, [6], [50], classes="ponies", members=2, max_steps=50,
    ...     progress=False,
    ... )
    >>> photos, truths = ddpmseg.ponies(2, "test")
    >>> labels = segmenter(photos)
    >>> labels.shape, labels.dtype, segmenter.classes.names[:3]
    ((2, 64, 64), dtype('uint8'), ('background', 'body', 'leg'))
    >>> segmenter.probabilities(photos).shape
    (2, 11, 64, 64)
    >>> segmenter.score(photos, truths)["pixel_accuracy"] > 0.5
    True
    """
    quiet_libraries()
    with python_names():
        given = head_settings | ({} if members is None else {"members": members})
        config = chosen("head", head, given)
        table = class_table(classes, (mask for _, mask in each_mask(masks)))
        size = backbone.image_size
        samples = fitted_samples(images, masks, table, size, tiny_annotations)
        dataset = LabelledArrays("arrays", table, size, samples)
        config.seed = seed
        config.backbone = settings_of(backbone) or BackboneConfig(name=backbone.name)
        config.features = features_config(backbone, blocks, timesteps, hook, noise, pass_size)
        config.dataset = ArraysConfig.of(dataset, survey(dataset).sha256, tiny_annotations)
        config.trainer.accelerator = backbone.device.type
        config.head.check()
        extractor = build_extractor(config.features, backbone, size, seed)
        fitted = build_head(config.head, extractor.layout, table, seed)
        if not config.head.comes_fitted:
            pictures = LabelledImages(dataset, extractor.images_per_pass)
            with tqdm(
                total=len(samples), desc="extract", unit="image", disable=not progress
            ) as bar:
                maps, labels = extract_training_set(extractor, pictures, bar.update)
            pixels = LabelledPixels(labels, table.ignore_label)
            precision = trainer_precision(
                config.trainer.precision, config.head.exact, backbone.device
            )
            arguments = trainer_arguments(config.trainer, precision, None)
            arguments["enable_progress_bar"] = False
            shown = [StepBar("fit")] if progress else []
            train = gradient_descent(config.head.build_protocol(), arguments, shown)
            fitted.fit_to(maps, pixels, seed, train)
    model = HeadSegmenter(fitted, extractor, config.head.vote)  # pyright: ignore[reportArgumentType]

    def save(folder: Path, overwrite: bool, tested: Tested | None) -> None:
        _save(config, backbone, fitted, dataset, folder, overwrite, tested)

    return Segmenter(config, table, lambda: model, {}, save)


def _save(
    config: TrainConfig,
    backbone: Backbone,
    head: Head,
    dataset: LabelledArrays,
    folder: Path,
    overwrite: bool,
    tested: Tested | None,
) -> None:
    recorded_settings(backbone)
    config.paths.output_dir, config.paths.overwrite = str(folder), overwrite
    precision = trainer_precision(config.trainer.precision, config.head.exact, backbone.device)
    run = ResolvedRun(config, backbone.device, precision)
    images_sha256 = known_survey(config.dataset, dataset).sha256
    with hold_run(folder):
        claim_run(config, run_identity(run, images_sha256), {"classes": dataset.classes.record()})
        write_head(folder, head, dataset.classes, config.features)
        if tested is not None:
            write_per_class(folder, dataset.classes, tested.scores)
        row = described(config, backbone, head, len(dataset.train))
        write_results(folder, row | (UNSCORED if tested is None else tested.columns()))
        mark_finished(folder)
