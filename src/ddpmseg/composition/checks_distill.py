"""Everything that can be wrong with `task=distill`, found before any weight or image is read."""

from ddpmseg.config import TrainConfig
from ddpmseg.errors import ConfigError
from ddpmseg.records.labelled_samples import images_folder
from ddpmseg.segmenters.deeplab import ARCHITECTURES, find_weights
from ddpmseg.settings import at_least, one_of


def check_distillation(config: TrainConfig, files: bool) -> None:
    """Raise ConfigError for a setting that cannot work, CheckpointError for weights not there.

    Without `files` images and weights may be missing.
    """
    settings, devices = config.segmenter, config.trainer.devices
    if devices > 1:
        raise ConfigError(
            f"`trainer.devices={devices}`: task=distill uses one device, for its batch norms take "
            "the mean of a whole batch. Set `trainer.devices=1`; several runs go side by side with "
            "`-m` and a launcher."
        )
    one_of("segmenter.architecture", settings.architecture, tuple(ARCHITECTURES))
    for name in ("num_epochs", "num_images", "checkpoint_every"):
        at_least(f"segmenter.{name}", getattr(settings, name), 1)
    for name in ("drop_certain", "num_workers"):
        at_least(f"segmenter.{name}", getattr(settings, name), 0)
    if settings.batch_size < 2:
        raise ConfigError(
            f"`segmenter.batch_size={settings.batch_size}`: must be at least 2, for a batch norm "
            "of the network sees one value per image."
        )
    if not settings.learning_rate > 0:  # NaN is not
        raise ConfigError(f"`segmenter.learning_rate={settings.learning_rate}`: must be above 0.")
    if not 0 <= settings.filter_out < 1:
        raise ConfigError(
            f"`segmenter.filter_out={settings.filter_out}`: must be a share, from 0 to below 1."
        )
    if files:
        images_folder(settings)
        find_weights(settings.architecture, settings.checkpoint)
