"""The schemas made known to Hydra."""

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from ddpmseg.config.backbone import BackboneConfig, GuidedDiffusionConfig, PixelsConfig
from ddpmseg.config.dataset import DatasetConfig, FolderDatasetConfig, PoniesConfig
from ddpmseg.config.identity import multirun_key, run_key, sweep_key
from ddpmseg.config.multirun import MultirunConfig
from ddpmseg.config.roots import (
    FeaturesConfig,
    HeadConfig,
    LoggerConfig,
    PathsConfig,
    PretrainConfig,
    SweepConfig,
    TrainConfig,
    TrainerConfig,
)
from ddpmseg.errors import ConfigError

DATASETS = {"folder": FolderDatasetConfig, "ponies": PoniesConfig}
BACKBONES = {"guided_diffusion": GuidedDiffusionConfig, "pixels": PixelsConfig}
"""By the name of the schema in a defaults list, less its `_schema`."""


def schema_of(target: str) -> type[DatasetConfig] | type[BackboneConfig]:
    """The dataclass under the group that builds `target`; ConfigError where there is none."""
    schemas = (*DATASETS.values(), *BACKBONES.values())
    for schema in schemas:
        if schema._target_ == target:
            return schema
    raise ConfigError(
        f"`_target_: {target}` is unknown; allowed are {', '.join(s._target_ for s in schemas)}."
    )


def _ensemble_sha256(folder: str | None) -> str | None:
    if folder is None:
        return None
    # With torch, for which help and completion must not wait.
    from ddpmseg.heads.official import ensemble_sha256

    return ensemble_sha256(folder)


def register() -> None:
    """Make the schemas available to the defaults lists in `conf/`."""
    OmegaConf.register_new_resolver("run_key", run_key, replace=True)
    OmegaConf.register_new_resolver("sweep_key", sweep_key, replace=True)
    # Cached, so that jobs composed in another process inherit the folder of their multirun.
    OmegaConf.register_new_resolver("multirun_key", multirun_key, replace=True, use_cache=True)
    # Cached, so that a run keeps its name whatever happens to the files while it lasts.
    OmegaConf.register_new_resolver(
        "ensemble_sha256", _ensemble_sha256, replace=True, use_cache=True
    )
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="sweep_schema", node=SweepConfig)
    for group, schemas in (("dataset", DATASETS), ("backbone", BACKBONES)):
        for name, schema in schemas.items():
            store.store(group=group, name=f"{name}_schema", node=schema)
    for group, node in (
        ("features", FeaturesConfig),
        ("head", HeadConfig(checkpoint_sha256="${ensemble_sha256:${.checkpoint}}")),
        ("pretrain", PretrainConfig),
        ("trainer", TrainerConfig),
        ("logger", LoggerConfig),
        ("multirun", MultirunConfig),
        ("paths", PathsConfig),
    ):
        store.store(group=group, name="schema", node=node)
