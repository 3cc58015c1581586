"""The schema under every config group, so that a typo or a wrong type fails at composition."""

from ddpmseg.backbones.diffusers import DiffusersConfig
from ddpmseg.backbones.guided_diffusion import GuidedDiffusionConfig
from ddpmseg.backbones.mae import MaeConfig
from ddpmseg.backbones.pixels import PixelsConfig
from ddpmseg.backbones.settings import BackboneConfig, WeightsConfig
from ddpmseg.backbones.swav import SwavConfig
from ddpmseg.backbones.timm import TimmConfig
from ddpmseg.config.dataset import DatasetConfig, FolderDatasetConfig, PoniesConfig
from ddpmseg.config.identity import (
    leave_out_how,
    multirun_key,
    multirun_name,
    request_key,
    run_key,
    run_request,
    sweep_key,
    sweep_request,
)
from ddpmseg.config.roots import (
    ClustersConfig,
    FeaturesConfig,
    HeadConfig,
    LoggerConfig,
    PathsConfig,
    PretrainConfig,
    SweepConfig,
    SweepSettings,
    TrainConfig,
    TrainerConfig,
)
from ddpmseg.config.store import register, schema_of
from ddpmseg.data.download import TRANSFER, DownloadConfig

__all__ = [
    "TRANSFER",
    "BackboneConfig",
    "ClustersConfig",
    "DatasetConfig",
    "DiffusersConfig",
    "DownloadConfig",
    "FeaturesConfig",
    "FolderDatasetConfig",
    "GuidedDiffusionConfig",
    "HeadConfig",
    "LoggerConfig",
    "MaeConfig",
    "PathsConfig",
    "PixelsConfig",
    "PoniesConfig",
    "PretrainConfig",
    "SwavConfig",
    "SweepConfig",
    "SweepSettings",
    "TimmConfig",
    "TrainConfig",
    "TrainerConfig",
    "WeightsConfig",
    "leave_out_how",
    "multirun_key",
    "multirun_name",
    "register",
    "request_key",
    "run_key",
    "run_request",
    "schema_of",
    "sweep_key",
    "sweep_request",
]
