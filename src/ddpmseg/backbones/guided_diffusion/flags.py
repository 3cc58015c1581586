"""The flags that define a network. This module does not import torch."""

from dataclasses import dataclass

from ddpmseg.errors import ConfigError

LARGEST = 65_536
"""Pixels, channels and steps beyond this would take more memory than any machine has."""
MOST = {
    "image_size": LARGEST,
    "num_channels": LARGEST,
    "num_res_blocks": 64,
    "num_heads": LARGEST,
    "diffusion_steps": 1_000_000,
}


@dataclass
class UNetFlags:
    """Flags of a guided_diffusion network, named as in its `create_model_and_diffusion`.

    A checkpoint does not store them. With flags other than those of the training, loading fails or,
    for `num_head_channels` and `use_new_attention_order`, the features are wrong.
    """

    image_size: int = 64
    num_channels: int = 128
    num_res_blocks: int = 2
    channel_mult: str = ""
    """Comma-separated multipliers of `num_channels`, one per level. Empty: the default."""
    num_heads: int = 4
    num_head_channels: int = -1
    num_heads_upsample: int = -1
    attention_resolutions: str = "16,8"
    dropout: float = 0.0
    use_scale_shift_norm: bool = True
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    learn_sigma: bool = False
    diffusion_steps: int = 1000
    noise_schedule: str = "linear"
    rescale_timesteps: bool = False

    def check(self, key: str) -> None:
        """Raise ConfigError for a number that builds no network; `key` is that of these settings.

        What the package itself rejects is left to it.
        """
        for name, most in MOST.items():
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise ConfigError(f"`{key}.{name}={value}`: must lie in 1..{most}.")
        for name in ("num_head_channels", "num_heads_upsample"):
            value = getattr(self, name)
            if value != -1 and not 1 <= value <= LARGEST:
                raise ConfigError(f"`{key}.{name}={value}`: must lie in 1..{LARGEST}, or be -1.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"`{key}.dropout={self.dropout}`: must lie in 0..1, 1 excluded.")
