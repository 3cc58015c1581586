"""The schema under every config group, so that a typo or a wrong type fails at composition."""

from ddpmseg.backbones.settings import BackboneConfig, WeightsConfig
from ddpmseg.config.backbone import (
    AlaeConfig,
    DiffusersConfig,
    GanEncoderConfig,
    GanInversionConfig,
    GuidedDiffusionConfig,
    MaeConfig,
    PixelsConfig,
    SwavConfig,
    TimmConfig,
    VdvaeConfig,
)
from ddpmseg.config.dataset import DatasetConfig, FolderDatasetConfig, PoniesConfig
from ddpmseg.config.identity import (
    CACHE,
    leave_out_how,
    multirun_key,
    multirun_name,
    request_key,
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
from ddpmseg.config.segmenter import SegmenterConfig
from ddpmseg.config.store import register, schema_of
from ddpmseg.download.settings import TRANSFER, DownloadConfig

__all__ = [
    "CACHE",
    "RESUMES",
    "TRANSFER",
    "AlaeConfig",
    "BackboneConfig",
    "ClustersConfig",
    "DatasetConfig",
    "DiffusersConfig",
    "DownloadConfig",
    "FeaturesConfig",
    "FolderDatasetConfig",
    "GanEncoderConfig",
    "GanInversionConfig",
    "GuidedDiffusionConfig",
    "HeadConfig",
    "LoggerConfig",
    "MaeConfig",
    "MultirunConfig",
    "PathsConfig",
    "PixelsConfig",
    "PoniesConfig",
    "PretrainConfig",
    "SegmenterConfig",
    "SwavConfig",
    "SweepConfig",
    "SweepSettings",
    "TimmConfig",
    "TrainConfig",
    "TrainerConfig",
    "VdvaeConfig",
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
    "which_job",
]
