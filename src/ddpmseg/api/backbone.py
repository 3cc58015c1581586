"""Load a frozen network by name, or from a weight file."""

import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ddpmseg.api.messages import python_names
from ddpmseg.api.settings import chosen, replace
from ddpmseg.backbones.base import Backbone
from ddpmseg.backbones.registry import BACKBONES
from ddpmseg.backbones.settings import BackboneConfig
from ddpmseg.composition.build import cache_folder
from ddpmseg.config import PathsConfig
from ddpmseg.download.settings import fetch_missing
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.runtime.device import choose_device
from ddpmseg.weight_tools.recognise import UNET, Known, recognise

KNOWN = tuple(field.name for field in fields(Known))
WEIGHT_FILES = (".pt", ".pth", ".safetensors", ".ckpt", ".bin", ".pkl")


def load_backbone(
    name_or_checkpoint: str | PathLike[str],
    *,
    device: str | torch.device = "auto",
    **settings: Any,
) -> Backbone:
    """A frozen network with its weights, ready to be read.

    Args:
        name_or_checkpoint: a choice of `backbone=` (`ddpmseg train --help` lists them), the name of
            a backbone of an installed package, or the path of a weight file in a format that
            `ddpmseg weights describe` knows.
        device: 'auto' (CUDA where there is a GPU, else the CPU), 'cpu', 'gpu', 'cuda', 'mps'
            (untested), or a torch device.
        settings: settings of the backbone by name, such as `precision='32'`, `seed=1` (of untrained
            weights), `checkpoint='random'`, `download=True` (fetch weights that are not there), or
            dotted: `**{"unet.num_channels": 64}`. Of a UNet's weight file, what no file tells:
            `image_size`, and `num_head_channels` or `num_heads`.

    Raises ConfigError for an unknown name or setting, CheckpointError for weights that are not
    there or do not fit.

    >>> import ddpmseg
    >>> backbone = ddpmseg.load_backbone("ddpm_ponies", device="cpu")
    >>> backbone.image_size, backbone.num_timesteps, len(backbone.blocks)
    (64, 1000, 12)
    >>> backbone.blocks[6].channels, backbone.blocks[6].stride
    (64, 2)
    """
    with python_names():
        if (path := _weight_file(name_or_checkpoint)) is not None:
            config = _of_file(path, settings)
        else:
            config = chosen("backbone", str(name_or_checkpoint), settings).backbone
        cache_dir = os.environ.get("DDPMSEG_CACHE", PathsConfig.cache_dir)
        config.check()
        fetch_missing((config,), cache_folder(PathsConfig(cache_dir=cache_dir), "downloads"))
        config.check_files()
        chosen_device = device if isinstance(device, torch.device) else choose_device(device)
        backbone = config.build(chosen_device)
    backbone.settings = config
    return backbone


def _weight_file(given: str | PathLike[str]) -> Path | None:
    """The file that is given, or None where it is a name; CheckpointError for one not there."""
    path = Path(given).expanduser()
    if path.is_file():
        return path
    if isinstance(given, str) and path.suffix not in WEIGHT_FILES and len(path.parts) == 1:
        return None
    raise CheckpointError(
        f"there is no weight file '{path}'. Give a path, or the name of a backbone, such as "
        "'ddpm_ponies'."
    )


def _of_file(path: Path, given: Mapping[str, Any]) -> BackboneConfig:
    """Settings of the network in a weight file, with those given in their place."""
    known = Known(**{key: given[key] for key in KNOWN if key in given})
    network = recognise(str(path))
    found: dict[str, Any] = {"name": path.stem, "checkpoint": str(path)}
    others = dict(given)
    if network.family == UNET:
        if not known.complete:
            raise ConfigError(
                f"'{path}' is a UNet of guided_diffusion. No weight file tells its `image_size` "
                "and its `num_head_channels` (or `num_heads`): give them, as in "
                f"`load_backbone('{path}', image_size=256, num_head_channels=64)`. "
                f"`ddpmseg weights describe {path}` says how to find them out."
            )
        found["unet"] = asdict(network.unet_flags(known))
        others = {key: value for key, value in given.items() if key not in KNOWN}
    else:
        found |= network.encoder_settings(known, str(path))
    settings = OmegaConf.structured(BACKBONES[network.family])
    assert isinstance(settings, DictConfig)
    for key, value in found.items():
        OmegaConf.update(settings, key, value, merge=True)
    replace(settings, others, f"weight file '{path}' (backbone family '{network.family}')")
    config = OmegaConf.to_object(settings)
    assert isinstance(config, BackboneConfig)
    return config
