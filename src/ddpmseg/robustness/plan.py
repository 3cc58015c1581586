"""Finished runs opened again, with all that is needed to test their heads on other images."""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddpmseg.composition.build import cache_folder
from ddpmseg.composition.identity import readout_arithmetic, run_identity
from ddpmseg.composition.resolve import resolve_segmentation
from ddpmseg.config import PathsConfig, TrainConfig
from ddpmseg.data.corrupted import CorruptedVersions
from ddpmseg.data.corruptions import Corruption, check_size
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.errors import ConfigError, DataError, UserError
from ddpmseg.finished.open import FinishedRun, open_run
from ddpmseg.finished.run_folders import read_runs
from ddpmseg.heads.export import HEAD
from ddpmseg.io.files import file_sha256
from ddpmseg.records.identity import Identity, listed_differences
from ddpmseg.records.published import load_published
from ddpmseg.records.runs import METHOD, Run
from ddpmseg.robustness.store import OutcomeStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What `ddpmseg.robustness.run.robustness` was asked for, which explains it."""

    corruptions: tuple[Corruption, ...]
    output: Path
    images: int | None
    seed: int
    cache_dir: Path | None
    accelerator: str


@dataclass(frozen=True, eq=False)
class Plan:
    """A finished run, as compared with others and as opened, and where its tests are recorded.

    versions: of the test images of `dataset`.
    """

    run: Run
    opened: FinishedRun
    dataset: LabelledSet
    versions: CorruptedVersions
    store: OutcomeStore

    @property
    def folder(self) -> Path:
        return self.opened.folder

    @property
    def num_test(self) -> int:
        return len(self.dataset.test)

    @property
    def ignore_label(self) -> int:
        return self.dataset.classes.ignore_label


def open_runs(paths: Sequence[Path], request: Request) -> list[Plan]:
    """The finished runs in and below `paths`, after all checks that need no network.

    Test images are read, and those that several runs share only once. Raises UserError that names
    the run which cannot be tested.
    """
    images: dict[str, tuple[LabelledSet, CorruptedVersions]] = {}
    plans = []
    for run in finished_runs(paths):
        try:
            plans.append(_open_run(run, request, images))
        except UserError as error:
            raise type(error)(f"run '{run.folder}': {error}") from error
    return plans


def finished_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs in and below `paths`; those left out are named on stderr.

    Raises DataError for a path that is itself left out, or has no run, ConfigError for no folder.
    """
    found, left_out = read_runs(paths, load_published())
    headless = [run for run in found if run.settings["task"] != "segment"]
    found = [run for run in found if run not in headless]
    left_out += [(Path(run.folder), "a run of task=distill, which has no head") for run in headless]
    named = {path.resolve(): path for path in paths}
    for folder, reason in left_out:
        if folder.resolve() in named:
            raise DataError(f"run '{folder}': {reason}.")
        sys.stderr.write(f"left out: '{folder}': {reason}\n")
    places = [Path(run.folder).resolve() for run in found]
    places += [folder.resolve() for folder, _ in left_out]
    for resolved, path in named.items():
        if not any(place.is_relative_to(resolved) for place in places):
            raise DataError(f"there is no run of ddpmseg train in '{path}'.")
    if not found:
        given = ", ".join(map(str, paths))
        raise DataError(f"there is no finished run of ddpmseg train in {given}.")
    return found


def _open_run(
    run: Run, request: Request, images: dict[str, tuple[LabelledSet, CorruptedVersions]]
) -> Plan:
    """`images` holds the test images of earlier runs, and then also those of this one."""
    opened = open_run(Path(run.folder))
    config = opened.config
    config.trainer.accelerator, config.trainer.devices = request.accelerator, 1
    config.paths.output_dir = run.folder
    # A run does not record its own: it decides no result.
    cache_dir = request.cache_dir or os.environ.get("DDPMSEG_CACHE") or PathsConfig.cache_dir
    config.paths.cache_dir = str(cache_dir)
    config.head = config.head.without_files()  # its ensemble is in the folder like any other
    resolved = resolve_segmentation(config)
    check_size(request.corruptions, config.dataset.image_size)
    shared = f"{config.dataset} {config.paths.cache_dir}"
    if shared not in images:
        images[shared] = _open_images(config, request)
    dataset, versions = images[shared]
    _ = opened.head  # damaged ones are refused before anything is computed
    now = run_identity(resolved)
    if (weights := now.digests["weights"]) != opened.identity.digests.get("weights", weights):
        opened.check_weights(weights)
    if different := _known_to_both(now, opened.identity):
        log.warning(
            "'%s' is not tested as it was trained: %s", run.folder, listed_differences(different)
        )
    identity = {
        "settings": {key: value for key, value in run.settings.items() if key != METHOD},
        "head_sha256": file_sha256(opened.folder / HEAD),
        "checkpoint_sha256": opened.results.get("checkpoint_sha256"),
        "images_sha256": versions.sha256,
        "seed": request.seed,
        "arithmetic": readout_arithmetic(
            *(config.backbone, config.head, resolved.device, "", opened.classes.num_classes)
        ),
        "libraries": versions.libraries,
    }
    store = OutcomeStore(request.output, identity, opened.classes.num_classes)
    return Plan(run, opened, dataset, versions, store)


def _known_to_both(now: Identity, earlier: Identity) -> list[str]:
    """The differences of machine and files, where both identities know them.

    Version 0.1 recorded less, and a head that came fitted has no protocol.
    """

    def shared(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in one.items() if key in other}

    these, those = (
        Identity({}, shared(a.arithmetic, b.arithmetic), shared(a.digests, b.digests))
        for a, b in ((now, earlier), (earlier, now))
    )
    return these.differences(those)


def _open_images(config: TrainConfig, request: Request) -> tuple[LabelledSet, CorruptedVersions]:
    dataset, images = config.dataset.build(), request.images
    if images is not None:
        if not 1 <= images <= len(dataset.test):
            raise ConfigError(
                f"--images {images}: there are {len(dataset.test)} test images. Give a number of "
                f"1..{len(dataset.test)}, or leave it out for all."
            )
        dataset = replace(config.dataset, num_test=images).build()
    place = cache_folder(config.paths, "corruptions")
    return dataset, CorruptedVersions(place, dataset.test, "test", request.seed)
