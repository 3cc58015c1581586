"""The schemas made known to Hydra."""

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import MISSING, OmegaConf

from ddpmseg.backbones.registry import BACKBONES
from ddpmseg.config import checked_files
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
    PathsConfig,
    PretrainConfig,
    SweepConfig,
    TrainConfig,
    TrainerConfig,
)
from ddpmseg.config.search_path import OwnFilesFirst
from ddpmseg.config.segmenter import SegmenterConfig
from ddpmseg.data.registry import DATASETS
from ddpmseg.heads.registry import HEADS
from ddpmseg.heads.settings import MlpConfig

PARTS = (DATASETS, BACKBONES)
"""Config groups that other packages can add to."""
DOMAINS = {
    "bedroom_28": "lsun_bedroom",
    "ffhq_34": "ffhq",
    "cat_15": "lsun_cat",
    "horse_21": "lsun_horse",
    "celeba_19": "ffhq",
    "ade_bedroom_30": "lsun_bedroom",
}
"""For a dataset of the paper, what its networks were trained on: the end of a backbone's name."""


def _domain(dataset: str) -> str:
    """See `DOMAINS`; the name of any other dataset itself, for backbones that are named by it."""
    return DOMAINS.get(dataset, dataset)


def _ensemble_sha256(folder: str | None) -> str | None:
    if folder is None:
        return None
    # With torch, for which help and completion must not wait.
    from ddpmseg.heads.official import ensemble_sha256

    return ensemble_sha256(folder)


def register() -> None:
    """Make the schemas available to the defaults lists in `conf/`, and `conf/` to Hydra."""
    Plugins.instance().register(OwnFilesFirst)
    checked_files.register()
    OmegaConf.register_new_resolver("run_key", run_key, replace=True)
    OmegaConf.register_new_resolver("network_name", network_name, replace=True)
    OmegaConf.register_new_resolver("sweep_key", sweep_key, replace=True)
    OmegaConf.register_new_resolver("domain", _domain, replace=True)
    # Cached, so that jobs composed in another process inherit the folder of their multirun.
    OmegaConf.register_new_resolver("multirun_key", multirun_key, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("multirun_name", multirun_name, replace=True)
    # Cached, so that a run keeps its name whatever happens to the files while it lasts.
    OmegaConf.register_new_resolver(
        "ensemble_sha256", _ensemble_sha256, replace=True, use_cache=True
    )
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="sweep_schema", node=SweepConfig)
    for parts in PARTS:
        for name, schema in parts.schemas().items():
            store.store(group=parts.group, name=f"{name}_schema", node=schema)
            for resolver, function in schema.resolvers.items():
                OmegaConf.register_new_resolver(resolver, function, replace=True)
        for name in parts.installed():
            # A choice that needs no file in conf/: the defaults of the dataclass.
            schema = parts[name]
            node = schema(name=name) if schema.name == MISSING else schema()
            store.store(group=parts.group, name=name, node=node)
    heads = {name: schema(name=name) for name, schema in HEADS.schemas().items()}
    heads["mlp"] = MlpConfig(checkpoint_sha256="${ensemble_sha256:${.checkpoint}}")
    for name, node in heads.items():
        store.store(group="head", name=f"{name}_schema", node=node)
    for name in HEADS.installed():
        store.store(group="head", name=name, node=heads[name])
    for group, node in (
        ("features", FeaturesConfig),
        ("head", heads["mlp"]),
        ("pretrain", PretrainConfig),
        ("segmenter", SegmenterConfig),
        ("trainer", TrainerConfig),
        ("multirun", MultirunConfig),
        ("paths", PathsConfig),
    ):
        store.store(group=group, name="schema", node=node)
