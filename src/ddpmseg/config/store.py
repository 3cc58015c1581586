"""The schemas made known to Hydra."""

import re
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import ModuleInfo, iter_modules

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import MISSING, OmegaConf

from ddpmseg import backbones
from ddpmseg.backbones.settings import BackboneConfig
from ddpmseg.config.backbone import BACKBONES
from ddpmseg.config.dataset import DatasetConfig, FolderDatasetConfig, PoniesConfig
from ddpmseg.config.identity import (
    multirun_key,
    multirun_name,
    network_name,
    run_key,
    sweep_key,
)
from ddpmseg.config.multirun import MultirunConfig
from ddpmseg.config.roots import (
    FeaturesConfig,
    HeadConfig,
    PathsConfig,
    PretrainConfig,
    SweepConfig,
    TrainConfig,
    TrainerConfig,
)
from ddpmseg.config.search_path import OwnFilesFirst
from ddpmseg.config.segmenter import SegmenterConfig
from ddpmseg.errors import ConfigError

DATASETS = {"folder": FolderDatasetConfig, "ponies": PoniesConfig}
"""By the name of the schema in a defaults list, less its `_schema`."""


def backbone_schemas() -> dict[str, type[BackboneConfig]]:
    """The package's own, and the dataclass of every module of `ddpmseg.backbones` that has one.

    By the module's name. Found by looking: who adds a backbone has no list to add it to. Imported
    are only modules that speak of settings. Raises ConfigError for a module with two of them.
    """
    found = dict(BACKBONES)
    for info in iter_modules(backbones.__path__):
        if info.name in BACKBONES or not _may_hold_settings(info):
            continue
        module = import_module(f"{backbones.__name__}.{info.name}")
        for value in vars(module).values():
            if not isinstance(value, type) or not issubclass(value, BackboneConfig):
                continue
            # Imported ones belong to their own module, and those without a target to no network.
            if value.__module__ != module.__name__ or value._target_ == MISSING:
                continue
            if info.name in found:
                raise ConfigError(
                    f"'{module.__name__}' holds two settings of backbones, "
                    f"{found[info.name].__name__} and {value.__name__}; a module has one."
                )
            found[info.name] = value
    return found


def _may_hold_settings(info: ModuleInfo) -> bool:
    spec = find_spec(f"{backbones.__name__}.{info.name}")
    if spec is None or spec.origin is None:
        return False
    return re.search(r"\((Backbone|Weights)Config\)", Path(spec.origin).read_text()) is not None


def schema_of(target: str) -> type[DatasetConfig] | type[BackboneConfig]:
    """The dataclass under the group that builds `target`; ConfigError where there is none."""
    schemas = (*DATASETS.values(), *backbone_schemas().values())
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


def _timm_layers(name: str, layers: Sequence[int] | str | None) -> list[int]:
    from ddpmseg.backbones.timm.models import chosen_layers  # likewise

    return chosen_layers(name, layers)


def _alae_layers(levels: int, image_size: int, input_size: int | None) -> list[int]:
    from ddpmseg.backbones.alae.backbone import layer_numbers  # likewise

    return layer_numbers(levels, image_size, input_size)


def register() -> None:
    """Make the schemas available to the defaults lists in `conf/`, and `conf/` to Hydra."""
    Plugins.instance().register(OwnFilesFirst)
    OmegaConf.register_new_resolver("run_key", run_key, replace=True)
    OmegaConf.register_new_resolver("network_name", network_name, replace=True)
    OmegaConf.register_new_resolver("sweep_key", sweep_key, replace=True)
    # Cached, so that jobs composed in another process inherit the folder of their multirun.
    OmegaConf.register_new_resolver("multirun_key", multirun_key, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("multirun_name", multirun_name, replace=True)
    # Cached, so that a run keeps its name whatever happens to the files while it lasts.
    OmegaConf.register_new_resolver(
        "ensemble_sha256", _ensemble_sha256, replace=True, use_cache=True
    )
    OmegaConf.register_new_resolver("timm_layers", _timm_layers, replace=True)
    OmegaConf.register_new_resolver("alae_layers", _alae_layers, replace=True)
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="sweep_schema", node=SweepConfig)
    for group, schemas in (("dataset", DATASETS), ("backbone", backbone_schemas())):
        for name, schema in schemas.items():
            store.store(group=group, name=f"{name}_schema", node=schema)
    for group, node in (
        ("features", FeaturesConfig),
        ("head", HeadConfig(checkpoint_sha256="${ensemble_sha256:${.checkpoint}}")),
        ("pretrain", PretrainConfig),
        ("segmenter", SegmenterConfig),
        ("trainer", TrainerConfig),
        ("multirun", MultirunConfig),
        ("paths", PathsConfig),
    ):
        store.store(group=group, name="schema", node=node)
