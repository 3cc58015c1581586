"""The flags that define a network. This module does not import torch."""

from dataclasses import dataclass


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
