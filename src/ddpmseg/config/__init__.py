"""The schema under every config group, so that a typo or a wrong type fails at composition."""

from ddpmseg.config.backbone import BackboneConfig, GuidedDiffusionConfig, PixelsConfig
from ddpmseg.config.dataset import DatasetConfig, FolderDatasetConfig, PoniesConfig
from ddpmseg.config.download import TRANSFER, DownloadConfig
from ddpmseg.config.identity import (
    CACHE,
    leave_out_how,
    multirun_key,
    run_key,
    run_request,
    sweep_key,
    sweep_request,
    which_job,
)
from ddpmseg.config.multirun import RESUMES, MultirunConfig
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

__all__ = [
    "CACHE",
    "RESUMES",
    "TRANSFER",
    "BackboneConfig",
    "ClustersConfig",
    "DatasetConfig",
    "DownloadConfig",
    "FeaturesConfig",
    "FolderDatasetConfig",
    "GuidedDiffusionConfig",
    "HeadConfig",
    "LoggerConfig",
    "MultirunConfig",
    "PathsConfig",
    "PixelsConfig",
    "PoniesConfig",
    "PretrainConfig",
    "SweepConfig",
    "SweepSettings",
    "TrainConfig",
    "TrainerConfig",
    "leave_out_how",
    "multirun_key",
    "register",
    "run_key",
    "run_request",
    "schema_of",
    "sweep_key",
    "sweep_request",
    "which_job",
]
