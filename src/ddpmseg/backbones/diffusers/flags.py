"""The settings of a guided_diffusion UNet as those of a `UNet2DModel` of diffusers, and back.

Sources: openai/guided-diffusion `UNetModel`, diffusers `UNet2DModel` and `DDPMScheduler`.
"""

from collections.abc import Mapping
from math import isclose
from typing import Any

import torch

from ddpmseg.backbones.guided_diffusion.unet import (
    AttentionBlock,
    UNetFlags,
    UNetModel,
    build_unet,
)
from ddpmseg.backbones.noise_schedule import NoiseSchedule
from ddpmseg.errors import ConfigError

NORM_GROUPS, NORM_EPS = 32, 1e-5
"""Of every normalisation in guided_diffusion."""
_SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


def unet2d_config(flags: UNetFlags) -> dict[str, Any]:
    """The `config.json` of the same network; ConfigError where diffusers has none."""
    unet = meta_network(flags)
    problems = []
    if unet.channel_mult[0] != 1:
        problems.append(
            f"its first level has {unet.channel_mult[0]} times `num_channels`={flags.num_channels} "
            "channels, but UNet2DModel embeds the timestep in as many as the first level has"
        )
    if flags.rescale_timesteps and flags.diffusion_steps != 1000:
        problems.append(
            f"it is told its {flags.diffusion_steps} timesteps rescaled to 1000 "
            "(`rescale_timesteps`), which no scheduler of diffusers does"
        )
    layers = [module for module in unet.modules() if isinstance(module, AttentionBlock)]
    widths = sorted({layer.channels // layer.num_heads for layer in layers})
    if len(widths) > 1 and any(layer.num_heads > 1 for layer in layers):
        problems.append(
            f"its attention heads have {', '.join(map(str, widths))} channels (`num_heads`), but "
            "UNet2DModel knows one width for all (`num_head_channels`)"
        )
    _refuse("the network has no equal in diffusers", problems)
    attends = [2**level in unet.attention_resolutions for level in range(len(unet.channel_mult))]
    down, up = _block_types(attends, flags.resblock_updown)
    resampling = "resnet" if flags.resblock_updown else "conv"
    return {
        "_class_name": "UNet2DModel",
        "sample_size": flags.image_size,
        "in_channels": 3,
        "out_channels": 6 if flags.learn_sigma else 3,
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "freq_shift": 0,
        "flip_sin_to_cos": True,  # cosines first
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": [int(m * flags.num_channels) for m in unet.channel_mult],
        "layers_per_block": flags.num_res_blocks,
        "downsample_padding": 1,
        "downsample_type": resampling,
        "upsample_type": resampling,
        "dropout": flags.dropout,
        "act_fn": "silu",
        "attention_head_dim": widths[0] if len(widths) == 1 else None,  # None: a single head
        "norm_num_groups": NORM_GROUPS,
        # Where scale and shift are on, the middle block would have no normalisation without it.
        "attn_norm_num_groups": NORM_GROUPS,
        "norm_eps": NORM_EPS,
        "resnet_time_scale_shift": "scale_shift" if flags.use_scale_shift_norm else "default",
        "add_attention": True,
    }


def scheduler_config(flags: UNetFlags) -> dict[str, Any]:
    """The `scheduler_config.json` of a DDPMScheduler with the process of the flags."""
    scale = 1000 / flags.diffusion_steps
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": flags.diffusion_steps,
        "beta_schedule": _SCHEDULES[flags.noise_schedule],
        "beta_start": scale * 0.0001,
        "beta_end": scale * 0.02,
        "variance_type": "learned_range" if flags.learn_sigma else "fixed_large",
        "prediction_type": "epsilon",
        "clip_sample": True,
    }


def guided_flags(
    config: Mapping[str, Any], schedule: NoiseSchedule | None, use_new_attention_order: bool = False
) -> UNetFlags:
    """The flags of the same network, from all settings of a UNet2DModel.

    Without a `schedule` those of the process are the package's defaults. Raises ConfigError naming
    every setting that guided_diffusion does not have.
    """
    channels, size = list(config["block_out_channels"]), config["sample_size"]
    down, up = list(config["down_block_types"]), list(config["up_block_types"])
    attends = [name.startswith("Attn") for name in down]
    plain = [name for name in down if not name.startswith("Attn")]
    # Blocks without attention tell it by their kind, those with it by a setting.
    updown = (plain or [config["downsample_type"]])[0].lower().startswith("resnet")
    resampling = "resnet" if updown else "conv"
    wanted_down, wanted_up = _block_types(attends, updown)
    wanted = {
        "down_block_types": wanted_down,
        "up_block_types": wanted_up,
        "downsample_type": resampling if any(attends[:-1]) else config["downsample_type"],
        "upsample_type": resampling if any(attends[1:]) else config["upsample_type"],
        "mid_block_type": "UNetMidBlock2D",
        "time_embedding_type": "positional",
        "freq_shift": 0,
        "flip_sin_to_cos": True,
        "time_embedding_dim": (None, 4 * channels[0]),
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "act_fn": ("silu", "swish"),
        "norm_num_groups": NORM_GROUPS,
        "norm_eps": NORM_EPS,
        "add_attention": True,
        "out_channels": (3, 6),
    }
    given = dict(config) | {"down_block_types": down, "up_block_types": up}
    problems = [
        f"{key} is {given[key]!r}, needed is {_shown(value)}"
        for key, value in wanted.items()
        if given[key] not in (value if isinstance(value, tuple) else (value,))
    ]
    shift = config["resnet_time_scale_shift"]
    groups = config["attn_norm_num_groups"]
    if groups != NORM_GROUPS and not (groups is None and shift == "default"):
        problems.append(f"attn_norm_num_groups is {groups!r}, needed is {NORM_GROUPS}")
    if any(count % channels[0] for count in channels):
        problems.append(f"block_out_channels {channels} are no multiples of the first")
    stride = 2 ** (len(channels) - 1)
    if not isinstance(size, int) or size % stride:
        problems.append(f"sample_size is {size!r}, needed is a side in pixels, {stride} times n")
    process = {} if schedule is None else _process(schedule, problems)
    _refuse("the network has no equal in guided_diffusion", problems)
    sides = [size // 2**level for level, here in enumerate(attends) if here] or [2 * size]
    width = config["attention_head_dim"]
    return UNetFlags(
        image_size=size,
        num_channels=channels[0],
        num_res_blocks=config["layers_per_block"],
        channel_mult=",".join(str(count // channels[0]) for count in channels),
        num_heads=1,
        num_head_channels=-1 if width is None else width,
        attention_resolutions=",".join(map(str, sides)),
        dropout=float(config["dropout"]),
        use_scale_shift_norm=shift == "scale_shift",
        resblock_updown=updown,
        use_new_attention_order=use_new_attention_order,
        learn_sigma=config["out_channels"] == 6,
        **process,
    )


def _block_types(attends: list[bool], updown: bool) -> tuple[list[str], list[str]]:
    """`down_block_types` and `up_block_types` of the levels, from full resolution down."""
    kinds = ("Attn{}Block2D", "Resnet{}sampleBlock2D" if updown else "{}Block2D")
    down = [kinds[not here].format("Down") for here in attends]
    return down, [kinds[not here].format("Up") for here in reversed(attends)]


def meta_network(flags: UNetFlags) -> UNetModel:
    """The network of the flags, without values."""
    with torch.device("meta"):
        return build_unet(flags)[0]


def _process(schedule: NoiseSchedule, problems: list[str]) -> dict[str, Any]:
    """The flags of the diffusion process; adds to `problems` where there are none."""
    scale = 1000 / max(schedule.num_timesteps, 1)
    usual = isclose(schedule.beta_start, scale * 0.0001, rel_tol=1e-6) and isclose(
        schedule.beta_end, scale * 0.02, rel_tol=1e-6
    )
    names = {kind: name for name, kind in _SCHEDULES.items()}
    name = names.get(schedule.kind)
    if name is None or schedule.zero_terminal_snr or (name == "linear" and not usual):
        problems.append(
            f"the noise schedule ({schedule.kind}, beta {schedule.beta_start:g} to "
            f"{schedule.beta_end:g}) is neither squaredcos_cap_v2 nor linear from "
            f"{scale * 0.0001:g} to {scale * 0.02:g}"
        )
        return {}
    return {"diffusion_steps": schedule.num_timesteps, "noise_schedule": name}


def _refuse(what: str, problems: list[str]) -> None:
    if problems:
        listed = "\n  ".join(problems)
        raise ConfigError(f"{what}:\n  {listed}")


def _shown(value: object) -> str:
    return " or ".join(map(repr, value)) if isinstance(value, tuple) else repr(value)
