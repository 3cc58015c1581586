"""The Gaussian noise of x_t, drawn on the CPU from keys: independent of device and order."""

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ddpmseg.errors import ConfigError
from ddpmseg.randomness import keyed_generator

NoiseKind = Literal["shared", "timestep", "image", "fresh"]


class NoiseSource:
    """Noise for (image, timestep) pairs in one of the variants that the paper compares (table 5).

    'shared': one tensor for all images and timesteps, as in the reference with `share_noise`, whose
    tensor for that seed on a CPU it equals. 'timestep': one per timestep. 'image': one per image.
    'fresh': one per image and timestep, so that test images get noise that no training image had.

    Raises ConfigError for another variant.
    """

    def __init__(self, kind: NoiseKind, seed: int, image_size: int) -> None:
        if kind not in get_args(NoiseKind):
            raise ConfigError(
                f"`features.noise={kind}`: must be one of {', '.join(get_args(NoiseKind))}."
            )
        self.kind, self.seed, self.image_size = kind, seed, image_size
        self._cached: dict[tuple[int | str, ...], Tensor] = {}

    def __call__(self, image_name: str, timestep: int) -> Float[Tensor, "3 s s"]:
        """Noise of one pair, float32 on the CPU."""
        if self.kind == "shared":
            return self._draw_once(())
        if self.kind == "timestep":
            return self._draw_once((timestep,))
        if self.kind == "image":
            return self._draw((image_name,))
        return self._draw((image_name, timestep))

    def identity(self, image_name: str) -> dict[str, Any]:
        """Everything that the noise of an image depends on besides the timestep, as JSON values."""
        image = {"image": image_name} if self.kind in ("image", "fresh") else {}
        return {"kind": self.kind, "seed": self.seed, **image}

    def _draw_once(self, key: tuple[int | str, ...]) -> Tensor:
        if key not in self._cached:
            self._cached[key] = self._draw(key)
        return self._cached[key]

    def _draw(self, key: tuple[int | str, ...]) -> Tensor:
        # The shared tensor comes from the bare seed, as in the reference's evaluation scripts.
        if not key:
            generator = torch.Generator().manual_seed(self.seed)
        else:
            generator = keyed_generator(self.seed, *key)
        return torch.randn(3, self.image_size, self.image_size, generator=generator)
