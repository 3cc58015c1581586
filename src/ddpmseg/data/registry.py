"""The registry of datasets: one line per family; installed packages add theirs."""

from ddpmseg.data.settings import DatasetConfig
from ddpmseg.registry import Registry

DATASETS = Registry(
    "dataset",
    DatasetConfig,
    {
        "folder": "ddpmseg.data.settings:FolderDatasetConfig",
        "ponies": "ddpmseg.data.settings:PoniesConfig",
        "arrays": "ddpmseg.data.settings:ArraysConfig",
    },
)
"""Files in `conf/dataset/` refer to the family NAME by the schema `NAME_schema`."""
