"""Open the folder of a finished run or sweep; what is read from it is checked here alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from ddpmseg.backbones.base import Backbone
from ddpmseg.composition.build import build_extractor
from ddpmseg.composition.checks import TASKS
from ddpmseg.config import SweepConfig, TrainConfig, run_request
from ddpmseg.data.class_table import ClassTable, read_class_table
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.data.survey import known_survey
from ddpmseg.errors import CheckpointError, ConfigError, DataError
from ddpmseg.features.extract import FeatureExtractor
from ddpmseg.finished.config_file import read_config
from ddpmseg.heads.base import Head
from ddpmseg.heads.export import HEAD, load_head
from ddpmseg.heads.segmenter import HeadSegmenter, ImageSegmenter
from ddpmseg.io.record_file import read_record
from ddpmseg.records.cells import CellStore
from ddpmseg.records.folder_kind import RECORD, RESULTS, UNET, kind_of
from ddpmseg.records.identity import IDENTITY, Identity
from ddpmseg.records.results import read_results
from ddpmseg.segmenters.deeplab import DeepLab
from ddpmseg.segmenters.export import SEGMENTER, load_segmenter
from ddpmseg.segmenters.segment import NetworkSegmenter


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A finished run of `ddpmseg train`.

    config: what it ran with. results: the row of its `results.csv`; of task=pretrain, which scores
    nothing, empty. record: its `record.json`; empty for a run of version 0.1.
    """

    folder: Path
    config: TrainConfig
    results: Mapping[str, str]
    record: Mapping[str, Any]

    @cached_property
    def identity(self) -> Identity:
        """What its results depend on; of a run of version 0.1, settings and weights alone."""
        if IDENTITY in self.record:
            return Identity.read(self.record, str(self.folder / RECORD))
        weights = {"weights": self.results.get("checkpoint_sha256", "")}
        return Identity(run_request(OmegaConf.structured(self.config)), {}, weights)

    @cached_property
    def classes(self) -> ClassTable:
        """The classes it was trained for.

        Raises CheckpointError where its head or segmenter knows others, ConfigError where a run of
        version 0.1, which recorded no classes, names a table that is not there.
        """
        if "classes" in self.record:
            table = read_class_table(self.record["classes"], str(self.folder / RECORD))
        else:
            table = self.config.dataset.class_table()
        trained_for = tuple(self._trained[1].get("class_names", ()))
        if trained_for != table.names:
            raise CheckpointError(
                f"'{self.folder}' was trained for the classes {listed(trained_for)}, its class "
                f"table '{self._table}' now has {listed(table.names)}. Restore the table."
            )
        return table

    @property
    def _table(self) -> str:
        """Where its class table is."""
        return (
            f"{self.folder / RECORD}" if "classes" in self.record else self.config.dataset.classes
        )

    @property
    def head(self) -> Head:
        """The trained head of a run of task=segment, in eval mode on the CPU.

        Raises CheckpointError where it is missing, damaged or has outputs for other classes.
        """
        head = self._trained[0]
        assert isinstance(head, Head)
        if head.num_classes != self.classes.num_classes:
            raise CheckpointError(
                f"'{self.folder / HEAD}' has {head.num_classes} outputs for "
                f"{self.classes.num_classes} classes. Repeat the run with `paths.overwrite=true`."
            )
        return head

    @property
    def segmenter(self) -> DeepLab:
        """The trained network of a run of task=distill; raises as `head`."""
        network = self._trained[0]
        assert isinstance(network, DeepLab)
        return network

    @cached_property
    def _trained(self) -> tuple[Head | DeepLab, dict[str, Any]]:
        if self.config.task == "distill":
            return load_segmenter(self.folder / SEGMENTER)
        return load_head(self.folder / HEAD)

    def extractor(self, device: torch.device) -> FeatureExtractor:
        """The network with its weights on `device`, reading the features of the head.

        Raises CheckpointError where the weights are not those that the head was trained on, or the
        head reads another number of features.
        """
        backbone = self.config.backbone.build(device)
        self.check_weights(backbone.checkpoint_sha256)
        config = self.config
        extractor = build_extractor(
            config.features, backbone, config.dataset.image_size, config.seed
        )
        if self.head.dim != extractor.layout.dim:
            raise CheckpointError(
                f"'{self.folder / HEAD}' reads D = {self.head.dim} features per pixel, by the "
                f"config.yaml beside it they are {extractor.layout.dim}. Repeat the run with "
                "`paths.overwrite=true`."
            )
        return extractor

    def image_segmenter(self, device: torch.device) -> ImageSegmenter:
        """What it has trained, on `device`; raises as `extractor`."""
        if self.config.task == "distill":
            return NetworkSegmenter(self.segmenter, device)
        vote = self.config.head.vote
        return HeadSegmenter(self.head, self.extractor(device), vote)  # pyright: ignore

    def check_weights(self, found: str) -> None:
        """Raise CheckpointError where the weights with this SHA-256 are not those of its head."""
        expected = self.results.get("checkpoint_sha256")
        if found != expected:
            raise CheckpointError(
                f"the weights of '{self.config.backbone.name}' are not those on whose features the "
                f"head of '{self.folder}' was trained: their SHA-256 is {found}, it was "
                f"{expected}. Restore the file, or train the run again."
            )


@dataclass(frozen=True, eq=False)
class FinishedSweep:
    """A sweep with at least one finished cell. identity: what its cells depend on."""

    folder: Path
    config: SweepConfig
    store: CellStore
    identity: Identity

    @cached_property
    def classes(self) -> ClassTable:
        return self.store.classes()

    def dataset(self) -> LabelledSet:
        """The images and masks; DataError if they are not those of the cells."""
        dataset = self.config.dataset.build()
        found = known_survey(self.config.dataset, dataset).sha256
        expected = self.identity.digests["images"]
        if expected and found != expected:
            raise DataError(
                f"the images and masks of '{dataset.name}' are not those of the cells in "
                f"'{self.folder}': their SHA-256 is {found}, it was {expected}. Restore them, or "
                "sweep again in another folder."
            )
        return dataset

    def backbone(self, device: torch.device) -> Backbone:
        """The network with its weights; CheckpointError where these are not those of the cells."""
        backbone = self.config.backbone.build(device)
        expected = self.identity.digests["weights"]
        if backbone.checkpoint_sha256 != expected:
            raise CheckpointError(
                f"the weights of '{backbone.name}' are not those of the cells in '{self.folder}': "
                f"their SHA-256 is {backbone.checkpoint_sha256}, it was {expected}. Restore the "
                "file, or sweep again in another folder."
            )
        return backbone


def open_finished(folder: Path) -> FinishedRun | FinishedSweep:
    """What a finished `ddpmseg train` or `ddpmseg sweep` left in `folder`.

    Networks are not read here, only when they are asked for. Raises ConfigError for a folder of
    neither or of a later version, DataError where nothing is finished or the results are damaged.
    """
    return open_sweep(folder) if kind_of(folder) == "sweep" else open_run(folder, TASKS)


def open_run(folder: Path, tasks: Sequence[str] = ("segment",)) -> FinishedRun:
    """A finished run of one of these tasks.

    Raises as `open_finished`, and ConfigError for a sweep, a multirun or a run of another task.
    """
    others = {"sweep": "a sweep", "multirun": "a multirun: name one of its runs"}
    if kind := others.get(kind_of(folder) or ""):
        raise ConfigError(f"'{folder}' is the folder of {kind}. Name a run of ddpmseg train.")
    record = {}
    if (folder / RECORD).exists():
        record = read_record(folder / RECORD, "Repeat the run with `paths.overwrite=true`.")
    config = read_config(folder, TrainConfig)
    if config.task not in tasks:
        raise ConfigError(
            f"'{folder}' is a run of task={config.task}. Name a run of "
            f"{' or '.join(f'task={task}' for task in tasks)}."
        )
    last = UNET if config.task == "pretrain" else RESULTS
    if not (folder / last).is_file():
        raise DataError(f"'{folder}' is unfinished: there is no {last}. Repeat its command.")
    results = {} if config.task == "pretrain" else read_results(folder)
    return FinishedRun(folder, config, results, record)


def open_sweep(folder: Path) -> FinishedSweep:
    """A sweep with finished cells; raises as `open_finished`, ConfigError for anything else."""
    store = CellStore(folder)
    identity = store.identity()
    if not store.done():
        raise DataError(f"'{folder}' holds no finished cell. Run the sweep first.")
    return FinishedSweep(folder, read_config(folder, SweepConfig), store, identity)


def listed(names: Sequence[str]) -> str:
    """Such as 'a, b, c', the first six of them."""
    shown = ", ".join(names[:6])
    return f"{shown}, ... ({len(names)})" if len(names) > 6 else shown
