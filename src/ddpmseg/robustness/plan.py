"""Finished runs opened again, with all that is needed to test their heads on other images."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ddpmseg.composition.build import build_backbone, build_dataset, build_extractor, cache_folder
from ddpmseg.composition.checks import check_training
from ddpmseg.config import PathsConfig, TrainConfig
from ddpmseg.data.corrupted import CorruptedVersions
from ddpmseg.data.corruptions import Corruption, check_size
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.errors import CheckpointError, ConfigError, DataError, UserError
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.heads.export import load_head
from ddpmseg.heads.mlp import StackedMLP
from ddpmseg.io.files import file_sha256
from ddpmseg.records.load import load_config
from ddpmseg.records.published import load_published
from ddpmseg.records.results import read_results
from ddpmseg.records.run_folders import read_runs
from ddpmseg.records.runs import METHOD, Run
from ddpmseg.robustness.store import OutcomeStore
from ddpmseg.runtime.device import choose_device

HEAD = "head.safetensors"


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
    """A finished run, and where its tests are recorded.

    recorded: the row of its `results.csv`. versions: of the test images of `dataset`.
    """

    run: Run
    config: TrainConfig
    recorded: dict[str, str]
    dataset: LabelledSet
    versions: CorruptedVersions
    store: OutcomeStore

    @property
    def folder(self) -> Path:
        return Path(self.run.folder)

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
    opened: dict[str, tuple[LabelledSet, CorruptedVersions]] = {}
    plans = []
    for run in finished_runs(paths):
        try:
            plans.append(_open_run(run, request, opened))
        except UserError as error:
            raise type(error)(f"run '{run.folder}': {error}") from error
    return plans


def finished_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs in and below `paths`; those left out are told on stderr.

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
            raise DataError(f"there is no run of train.py in '{path}'.")
    if not found:
        raise DataError(f"there is no finished run of train.py in {', '.join(map(str, paths))}.")
    return found


def open_head(plan: Plan) -> tuple[StackedMLP, FeatureExtractor]:
    """The head of a run and the network with its weights.

    Raises CheckpointError where the two are not of one run.
    """
    head, _ = load_head(plan.folder / HEAD)
    device = choose_device(plan.config.trainer.accelerator)
    backbone = build_backbone(plan.config.backbone, device)
    found, expected = backbone.checkpoint_sha256, plan.recorded["checkpoint_sha256"]
    if found != expected:
        raise CheckpointError(
            f"the weights of '{backbone.name}' are not those on whose features the head of "
            f"'{plan.folder}' was trained: their SHA-256 is {found}, it was {expected}. Restore "
            "the file, or train the run again."
        )
    extractor = build_extractor(plan.config, backbone)
    outputs = plan.dataset.classes.num_classes
    if (head.dim, head.num_classes) != (extractor.layout.dim, outputs):
        raise CheckpointError(
            f"'{plan.folder / HEAD}' reads D = {head.dim} features and has {head.num_classes} "
            f"outputs; by the config.yaml beside it they are {extractor.layout.dim} and {outputs}. "
            "Train the run again."
        )
    return head, extractor


def _open_run(
    run: Run, request: Request, opened: dict[str, tuple[LabelledSet, CorruptedVersions]]
) -> Plan:
    """`opened` holds the test images of earlier runs, and then also those of this one."""
    folder = Path(run.folder)
    config = load_config(folder)
    config.trainer.accelerator, config.trainer.devices = request.accelerator, 1
    config.paths.output_dir = str(folder)
    # A run does not record its own: it decides no result.
    cache_dir = request.cache_dir or os.environ.get("DDPMSEG_CACHE") or PathsConfig.cache_dir
    config.paths.cache_dir = str(cache_dir)
    config.head.checkpoint = None  # its ensemble is in the folder like any other
    if not (folder / HEAD).is_file():
        raise CheckpointError(f"there is no {HEAD}. Train the run again.")
    check_training(config)
    check_size(request.corruptions, config.dataset.image_size)
    shared = f"{config.dataset} {config.paths.cache_dir}"
    if shared not in opened:
        opened[shared] = _open_images(config, request)
    dataset, versions = opened[shared]
    recorded = read_results(folder)
    identity = {
        "settings": {key: value for key, value in run.settings.items() if key != METHOD},
        "head_sha256": file_sha256(folder / HEAD),
        "checkpoint_sha256": recorded["checkpoint_sha256"],
        "images_sha256": versions.sha256,
        "seed": request.seed,
        "libraries": versions.libraries,
    }
    store = OutcomeStore(request.output, identity)
    return Plan(run, config, recorded, dataset, versions, store)


def _open_images(config: TrainConfig, request: Request) -> tuple[LabelledSet, CorruptedVersions]:
    dataset, images = build_dataset(config.dataset), request.images
    if images is not None:
        if not 1 <= images <= len(dataset.test):
            raise ConfigError(
                f"--images {images}: there are {len(dataset.test)} test images. Give a number of "
                f"1..{len(dataset.test)}, or leave it out for all."
            )
        dataset = build_dataset(replace(config.dataset, num_test=images))
    place = cache_folder(config.paths, "corruptions")
    return dataset, CorruptedVersions(place, dataset.test, "test", request.seed)
