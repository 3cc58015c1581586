"""The heads of this package: one line for each family, and what installed packages add."""

from ddpmseg.heads.settings import HeadConfig
from ddpmseg.registry import Registry

HEADS = Registry(
    "head",
    HeadConfig,
    {
        "mlp": "ddpmseg.heads.settings:MlpConfig",
    },
)
"""The family NAME has the schema `NAME_schema` in the files of `conf/head/`."""
