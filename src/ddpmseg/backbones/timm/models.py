"""Networks of the timm library, by name and input size, and their layers.

The library is optional and imported when the first network is built.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ddpmseg.backbones.base import BlockSpec
from ddpmseg.errors import ConfigError, MissingLibraryError


@dataclass(frozen=True)
class Layers:
    """The intermediate layers of a network at one input size, in the order of the forward pass.

    mean, std: of the training images, RGB in [0, 1].
    """

    blocks: tuple[BlockSpec, ...]
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def library() -> Any:
    """The module timm. Raises ConfigError if it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise MissingLibraryError("`backbone=timm`", "timm", "networks") from error
    return timm


@lru_cache(maxsize=32)
def layers_of(name: str, image_size: int, input_size: int | None, norm: bool) -> Layers:
    """The layers of network `name` for images of `image_size` pixels, without any weights.

    Images are resized to `input_size` pixels; None: `image_size`, rounded up to the next multiple
    of the network's patch or largest stride. A pass on the meta device, which computes nothing,
    finds the shapes of the maps.

    Raises ConfigError for an unknown name, a network whose layers cannot be read, a size that it
    cannot take, and maps whose side does not divide it.
    """
    with torch.device("meta"):
        network = build_network(name, None)
    if not hasattr(network, "forward_intermediates"):
        raise ConfigError(
            f"`backbone.name={name}`: the layers of this network cannot be read, as it has no "
            "`forward_intermediates`. The vision transformers, ResNets, ConvNeXts, Swins and most "
            "others of timm have it."
        )
    infos = _feature_infos(network)
    step = max(info["reduction"] for info in infos)
    side = input_size or -(-image_size // step) * step
    if side < step or side % step:
        below = max(step, side // step * step)
        raise ConfigError(
            f"`backbone.input_size={side}`: '{name}' takes images whose side is a multiple of "
            f"{step}, such as {below} or {below + step}; null rounds `dataset.image_size` up."
        )
    try:
        with torch.device("meta"):
            network = build_network(name, side)
            maps = intermediates(network, torch.zeros(1, 3, side, side), None, norm)
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:
        advice = (
            "Set `backbone.norm=false`."
            if "norm" in str(error)
            else "Choose another `backbone.input_size`."
        )
        raise ConfigError(
            f"`backbone.name={name}` cannot be read out on images of {side} pixels "
            f"({_first_line(error)}). {advice}"
        ) from error
    blocks = []
    for index, value in enumerate(maps):
        stride, rest = divmod(side, value.shape[-1])
        if rest or value.shape[-1] != value.shape[-2]:
            raise ConfigError(
                f"`backbone.name={name}`: the map of layer {index} is {value.shape[-2]} x "
                f"{value.shape[-1]}, which does not divide its input of {side} pixels. Choose "
                "another `backbone.input_size`, or another network."
            )
        layer = infos[index]["module"] if len(infos) == len(maps) else f"layer {index}"
        blocks.append(BlockSpec(index, value.shape[1], stride, value.shape[1], stride, layer))
    mean, std = (network.pretrained_cfg[key] for key in ("mean", "std"))
    return Layers(tuple(blocks), side, tuple(mean), tuple(std))


def build_network(
    name: str, input_size: int | None, state: Mapping[str, Tensor] | None = None
) -> Any:
    """Build the network without its classifier, with random weights or those of `state`.

    `input_size`: side of the images in pixels; None: the network's own. The library converts a
    state dict to its own format, resizes position embeddings, and loads every parameter; it raises
    errors of many types for one that does not fit. Random weights come from torch's global
    generator. Raises ConfigError for an unknown name.
    """
    timm = library()
    check_name(name)
    arguments: dict[str, Any] = {}
    if input_size is not None and timm.get_pretrained_cfg(name).fixed_input_size:
        # A network with position embeddings or windows is built for one size.
        arguments["img_size"] = input_size
    if state is not None:
        # The network's number of classes: otherwise the library ignores missing parameters.
        overlay = {"state_dict": dict(state), "num_classes": 0}
        arguments |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
    network = timm.create_model(name, num_classes=0, **arguments).eval()
    network.pretrained_cfg.pop("state_dict", None)
    return network


def intermediates(
    network: Any, images: Tensor, indices: list[int] | None, norm: bool
) -> list[Tensor]:
    """Maps (n, c, h, w) of the layers `indices`, ascending, or of all. Stops at the last one."""
    return network.forward_intermediates(
        images,
        indices=indices,
        norm=norm,
        stop_early=True,
        output_fmt="NCHW",
        intermediates_only=True,
    )


def check_name(name: str) -> None:
    """Raise ConfigError, with similar names, unless the library has this network."""
    timm = library()
    network, _, tag = name.partition(".")
    if not timm.is_model(network):
        similar = get_close_matches(network, timm.list_models(), n=4, cutoff=0.5)
        hint = f" Did you mean {' or '.join(similar)}?" if similar else ""
        raise ConfigError(
            f"`backbone.name={name}`: timm {timm.__version__} has no such network.{hint} "
            "`timm.list_models('*dinov2*')` lists names."
        )
    tags = [full.partition(".")[2] for full in timm.list_models(f"{network}.*", pretrained=True)]
    if tag and tag not in tags:
        raise ConfigError(
            f"`backbone.name={name}`: '{network}' has no weights '{tag}'; there are "
            f"{', '.join(tags) or 'none'}."
        )


def chosen_layers(name: str, layers: Sequence[int] | str | None) -> list[int]:
    """The layers that `backbone.layers` selects, ascending.

    Empty for settings that `TimmBackbone` rejects, whose message says why.
    """
    try:
        count = len(layers_of(name, 224, None, False).blocks)
        return list(layer_numbers(count, layers, name))
    except ConfigError:
        return []


def layer_numbers(count: int, layers: object, name: str) -> tuple[int, ...]:
    """Select among `count` layers: all (None), the last N ('lastN') or those listed. Ascending.

    Raises ConfigError for layers that do not exist.
    """
    if layers is None:
        return tuple(range(count))
    if isinstance(layers, str) and (digits := layers.removeprefix("last")).isdigit():
        number = int(digits)
        if layers.startswith("last") and 1 <= number <= count:
            return tuple(range(count - number, count))
    elif not isinstance(layers, str) and isinstance(layers, Sequence) and layers:
        whole = all(isinstance(layer, int) and 0 <= layer < count for layer in layers)
        if whole and len(set(layers)) == len(layers):
            return tuple(sorted(layers))
    shown = layers if isinstance(layers, str) else str(layers).replace(" ", "")
    raise ConfigError(
        f"`backbone.layers={shown}`: '{name}' has the layers 0..{count - 1} in forward order. Give "
        f"a list of them, each once, 'lastN' with N in 1..{count}, or null for all."
    )


def _feature_infos(network: Any) -> list[dict[str, Any]]:
    """The library's description of the layers: their names and approximate strides."""
    infos = network.feature_info
    return infos if isinstance(infos, list) else infos.info


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
