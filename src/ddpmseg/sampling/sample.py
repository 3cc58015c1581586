"""Draw images from a diffusion model, and label them, as training images of a dataset."""

import logging
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ddpmseg.backbones.guided_diffusion.backbone import GuidedDiffusionBackbone
from ddpmseg.backbones.guided_diffusion.flags import UNetFlags
from ddpmseg.backbones.guided_diffusion.sampler import Sampler, check_steps
from ddpmseg.config import BackboneConfig, TrainConfig
from ddpmseg.data.subsets import least_uncertain, num_filtered, num_most_certain
from ddpmseg.errors import ConfigError
from ddpmseg.io.files import explain_unwritable
from ddpmseg.io.locks import FolderLocks
from ddpmseg.records.samples import SampleFolder, name_of
from ddpmseg.runtime.device import choose_device
from ddpmseg.sampling.label import OVERVIEW, Labeller, label_images, load_labeller, write_overview

log = logging.getLogger(__name__)


def sample(
    config: TrainConfig,
    num: int,
    output: Path,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 8,
    labels: Path | None = None,
    keep: int | None = None,
    filter_out: float | None = None,
    drop_certain: int | None = None,
) -> None:
    """Bring `output` to `num` images of `config.backbone`; what is there already stays.

    Args:
        steps: of the sampling; None: all, as the paper. See `Sampler`.
        batch_size: images per forward pass.
        labels: folder of a finished run whose ensemble labels the images; None: no labels.
        keep: the `keep` most certain images are used, after the `drop_certain` first; None: all.
        filter_out: instead of `keep`, the share of the images that is not used.

    Raises ConfigError for an option that cannot work, a backbone that draws no images, an output
    folder of other settings or a run that does not fit; CheckpointError as the two parts.
    """
    _check_numbers(num, seed, batch_size)
    if filter_out is not None:
        keep = _num_kept(num, keep, filter_out)
    dropped = _num_dropped(num, labels, keep, drop_certain)
    flags = _flags_of(config.backbone)
    steps = flags.diffusion_steps if steps is None else steps
    check_steps("--steps", steps, flags.diffusion_steps)
    device = choose_device(config.trainer.accelerator)
    labeller = None
    if labels is not None:
        labeller = load_labeller(labels, flags.image_size, output.absolute().parent, device)
    backbone = config.backbone.build(device)
    assert isinstance(backbone, GuidedDiffusionBackbone)
    folder = SampleFolder(output)
    with explain_unwritable(output, "another `--output`"):
        folder.claim(_drawn_by(backbone, steps, seed), labeller and labeller.settings)
        with FolderLocks(output).hold({"sample": f"'{output}' is being filled"}):
            _check_fewer(folder, num)
            _draw(folder, Sampler(backbone.unet, flags, steps), num, seed, batch_size)
            del backbone
            if labeller is not None:
                label_images(folder, labeller, num)
                _use(folder, labeller, num, keep, dropped)
    log.info("images in %s", output)


def _draw(folder: SampleFolder, sampler: Sampler, num: int, seed: int, batch_size: int) -> None:
    missing = folder.missing(num)
    log.info("%d of %d images are there already", num - len(missing), num)
    started = time.perf_counter()
    with tqdm(total=len(missing), desc="drawn", disable=not sys.stderr.isatty()) as bar:
        for first in range(0, len(missing), batch_size):
            batch = missing[first : first + batch_size]
            # A pass is always full: so an image is the same, bit by bit, after a stop as without.
            images = sampler(seed, batch + batch[-1:] * (batch_size - len(batch)))
            for index, image in zip(batch, images, strict=False):
                folder.write_image(index, image)
            bar.update(len(batch))
            if not first:
                passes = -(-len(missing) // batch_size)
                seconds = passes * (time.perf_counter() - started)
                log.info("time: about %.0f s for %d images", seconds, len(missing))


def _use(
    folder: SampleFolder, labeller: Labeller, num: int, keep: int | None, dropped: int
) -> None:
    """Choose the images of the dataset among all; draw the picture of some."""
    known, used = folder.uncertainties(), list(range(num))
    if keep is not None:
        used = least_uncertain([known[name_of(index)] for index in used], keep, dropped)
        log.info(
            "%d images used: left out are the %d most certain and the %d most uncertain",
            *(keep, dropped, num - keep - dropped),
        )
    folder.use(used)
    write_overview(folder, used, labeller.classes)
    log.info("see %s", folder.folder / OVERVIEW)


def _flags_of(backbone: BackboneConfig) -> UNetFlags:
    """Flags of a network that draws images; ConfigError for one that does not."""
    flags = backbone.unet_flags()
    if flags is None:
        raise ConfigError(
            f"`backbone={backbone.name}` draws no images: it is no diffusion model. Choose a "
            "network of guided_diffusion, such as ddpm_ponies."
        )
    if backbone == backbone.as_untrained():
        log.warning("backbone '%s' is untrained: its images will be noise", backbone.name)
    return flags


def _drawn_by(backbone: GuidedDiffusionBackbone, steps: int, seed: int) -> dict[str, Any]:
    """What the images depend on. Plain JSON values."""
    identity = backbone.identity()
    del identity["device"]  # decides rounding alone
    return {"backbone": backbone.name, **identity, "steps": steps, "seed": seed}


def _num_kept(num: int, keep: int | None, filter_out: float) -> int:
    """What `filter_out` leaves of `num` images; ConfigError where it is no share, or not alone."""
    if keep is not None:
        raise ConfigError("`--keep` and `--filter-out` say the same in two ways: give one of them.")
    if not 0 <= filter_out < 1:  # NaN is not
        raise ConfigError(f"`--filter-out {filter_out}`: must be a share, from 0 to below 1.")
    kept = num - num_filtered(num, filter_out)
    if not kept:
        raise ConfigError(f"`--filter-out {filter_out}`: leaves none of {num} images. Lower it.")
    return kept


def _num_dropped(num: int, labels: Path | None, keep: int | None, drop_certain: int | None) -> int:
    """How many of the most certain images are left out; ConfigError where the options conflict."""
    if keep is None:
        if drop_certain is not None:
            raise ConfigError(
                "`--drop-certain` goes with `--keep` or `--filter-out`: without them all are used."
            )
        return 0
    if labels is None:
        raise ConfigError(
            "`--keep` and `--filter-out`: which images are the most certain is known only of "
            "labelled ones. Add `--labels RUN`."
        )
    if not 1 <= keep <= num:
        raise ConfigError(f"`--keep {keep}`: must lie in 1..{num}, the number of images.")
    if drop_certain is None:
        return min(num_most_certain(num), num - keep)
    if not 0 <= drop_certain <= num - keep:
        raise ConfigError(
            f"`--drop-certain {drop_certain}`: of {num} images {keep} are kept, so it must lie in "
            f"0..{num - keep}."
        )
    return drop_certain


def _check_numbers(num: int, seed: int, batch_size: int) -> None:
    for option, value, least in (
        ("--num", num, 1),
        ("--batch-size", batch_size, 1),
        ("--seed", seed, 0),
    ):
        if value < least:
            raise ConfigError(f"`{option} {value}`: must be at least {least}.")


def _check_fewer(folder: SampleFolder, num: int) -> None:
    there = folder.num_images()
    if there > num:
        raise ConfigError(
            f"`--num {num}`: '{folder.folder}' holds {there} images already, and none is ever "
            f"taken away. Give at least {there}; `--keep {num}` uses the most certain, "
            f"`dataset.num_labelled={num}` of `ddpmseg train` the first."
        )
