"""What the cells of a sweep depend on, and the folder they lie in."""

from omegaconf import OmegaConf

from ddpmseg.composition.identity import classes_sha256, readout_arithmetic, weights_sha256
from ddpmseg.config import SweepConfig, sweep_request
from ddpmseg.data.labelled import LabelledSet
from ddpmseg.data.survey import known_survey
from ddpmseg.records.cells import CellStore
from ddpmseg.records.identity import Identity
from ddpmseg.sweeps.grid import pieces_to_do
from ddpmseg.sweeps.report import NETWORK, network_record
from ddpmseg.sweeps.resolve import CONTROLS, ResolvedSweep


def settings_identity(config: SweepConfig) -> Identity:
    """As far as it is known before any file is read."""
    return Identity(sweep_request(OmegaConf.structured(config)))


def sweep_identity(sweep: ResolvedSweep, dataset: LabelledSet) -> Identity:
    """What the cells depend on. Raises DataError for a damaged image."""
    config, classes = sweep.config, dataset.classes
    return Identity(
        settings_identity(config).settings,
        readout_arithmetic(
            *(config.backbone, config.sweep.head, sweep.device, sweep.precision),
            classes.num_classes,
        ),
        {
            "weights": weights_sha256(config.backbone),
            "images": known_survey(config.dataset, dataset).sha256,
            "classes": classes_sha256(classes),
        },
    )


def claim(sweep: ResolvedSweep, store: CellStore, dataset: LabelledSet, command: str) -> None:
    """Make the folder that of this sweep; raises as `CellStore.claim`.

    command: what computes it again, for the report.
    """
    store.claim(
        sweep_identity(sweep, dataset),
        {
            NETWORK: network_record(sweep.network),
            "classes": dataset.classes.record(),
            "num_labelled": len(dataset.train),
            "num_test": len(dataset.test),
            "command": command,
        },
        OmegaConf.to_yaml(OmegaConf.structured(sweep.config), resolve=True),
    )


def is_finished(sweep: ResolvedSweep, store: CellStore) -> bool:
    """Whether all requested cells are done and whole.

    Raises ConfigError if the folder holds cells of another identity.
    """
    store.check(settings_identity(sweep.config), settings_only=True)
    if pieces_to_do(sweep, store) or any(map(store.is_damaged, ("", *CONTROLS))):
        return False
    store.check(sweep_identity(sweep, sweep.config.dataset.build()))
    return True
