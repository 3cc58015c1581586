"""The schema under every config group, so that a typo or a wrong type fails at composition."""

from ddpmseg.backbones.settings import BackboneConfig, WeightsConfig
from ddpmseg.config.identity import (
    CACHE,
    RESULTS_VERSION,
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
    LoggerConfig,
    PathsConfig,
    PretrainConfig,
    SweepConfig,
    SweepSettings,
    TrainConfig,
    TrainerConfig,
)
from ddpmseg.config.segmenter import SegmenterConfig
from ddpmseg.config.store import register
from ddpmseg.data.settings import DatasetConfig
from ddpmseg.download.settings import TRANSFER
from ddpmseg.heads.settings import HeadConfig, MlpConfig

__all__ = [
    "CACHE",
    "RESULTS_VERSION",
    "RESUMES",
    "TRANSFER",
    "BackboneConfig",
    "ClustersConfig",
    "DatasetConfig",
    "FeaturesConfig",
    "HeadConfig",
    "LoggerConfig",
    "MlpConfig",
    "MultirunConfig",
    "PathsConfig",
    "PretrainConfig",
    "SegmenterConfig",
    "SweepConfig",
    "SweepSettings",
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
    "sweep_key",
    "sweep_request",
    "which_job",
]
