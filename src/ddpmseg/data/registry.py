"""The datasets of this package: one line for each family, and what installed packages add."""

from ddpmseg.data.settings import DatasetConfig
from ddpmseg.registry import Registry

DATASETS = Registry(
    "dataset",
    DatasetConfig,
    {
        "folder": "ddpmseg.data.settings:FolderDatasetConfig",
        "ponies": "ddpmseg.data.settings:PoniesConfig",
    },
)
"""The family NAME has the schema `NAME_schema` in the files of `conf/dataset/`."""
