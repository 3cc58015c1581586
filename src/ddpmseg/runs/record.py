"""What a run of task=segment leaves in its folder, whoever started it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from ddpmseg.backbones.base import Backbone
from ddpmseg.config import CACHE, FeaturesConfig, TrainConfig
from ddpmseg.data.class_table import ClassTable
from ddpmseg.heads.base import Head
from ddpmseg.heads.export import HEAD, save_head
from ddpmseg.metrics.segmentation import Scores
from ddpmseg.numbering import NO_TIMESTEP
from ddpmseg.records.cell_grid import METRICS
from ddpmseg.records.results import score_columns


@dataclass(frozen=True, eq=False)
class Tested:
    """The result of a test. uncertainties: of the images, batch by batch."""

    scores: Scores
    uncertainties: Sequence[Tensor]
    num_test: int

    def as_fractions(self) -> dict[str, float]:
        """The scores by name, in 0..1."""
        return {name: float(getattr(self.scores, name)) for name in METRICS}

    def columns(self) -> dict[str, object]:
        """Those of a row of `results.csv`."""
        return {"num_test": self.num_test, **score_columns(self.scores, self.uncertainties)}


def write_head(folder: Path, head: Head, classes: ClassTable, features: FeaturesConfig) -> None:
    """Write the fitted head, and with it the classes and features it was fitted to."""
    settings = {key: value for key, value in asdict(features).items() if key not in CACHE}
    save_head(head, folder / HEAD, {"class_names": classes.names, "features": settings})


def described(
    config: TrainConfig, backbone: Backbone, head: Head, num_labelled: int
) -> dict[str, object]:
    """The columns of a row of `results.csv` that say what was fitted to what."""
    timeless = backbone.num_timesteps is None
    timesteps = [NO_TIMESTEP] if timeless else config.features.timesteps
    return {
        "dataset": config.dataset.name,
        "backbone": config.backbone.name,
        "checkpoint_sha256": backbone.checkpoint_sha256,
        "blocks": " ".join(map(str, config.features.blocks)),
        "timesteps": " ".join(map(str, timesteps)),
        "head": head.label,
        **config.head.record(),
        "members": head.members,
        "seed": config.seed,
        "num_labelled": "" if config.head.comes_fitted else num_labelled,
    }
