"""The Gaussian noise of x_t, drawn on the CPU from keys: independent of device and order."""

from collections.abc import Sequence
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
        self._moved: dict[tuple[tuple[int | str, ...], torch.device], Tensor] = {}

    def __call__(self, image_name: str, timestep: int) -> Float[Tensor, "3 s s"]:
        """Noise of one pair, float32 on the CPU."""
        if self.kind == "shared":
            return self._draw_once(())
        if self.kind == "timestep":
            return self._draw_once((timestep,))
        if self.kind == "image":
            return self._draw((image_name,))
        return self._draw((image_name, timestep))

    def of_pairs(
        self, pairs: Sequence[tuple[str, int]], device: torch.device
    ) -> Float[Tensor, "n 3 s s"]:
        """Noise of (image name, timestep) pairs, float32 on `device`.

        What all images have in common is moved there once; rows of 'shared' share memory.
        """
        if self.kind == "shared":
            return self._once_on(device, ()).expand(len(pairs), -1, -1, -1)
        if self.kind == "timestep":
            return torch.stack([self._once_on(device, (timestep,)) for _, timestep in pairs])
        return torch.stack([self(name, timestep) for name, timestep in pairs]).to(device)

    def identity(self, image_name: str) -> dict[str, Any]:
        """Everything that the noise of an image depends on besides the timestep, as JSON values."""
        image = {"image": image_name} if self.kind in ("image", "fresh") else {}
        return {"kind": self.kind, "seed": self.seed, **image}

    def _draw_once(self, key: tuple[int | str, ...]) -> Tensor:
        if key not in self._cached:
            self._cached[key] = self._draw(key)
        return self._cached[key]

    def _once_on(self, device: torch.device, key: tuple[int | str, ...]) -> Tensor:
        if (key, device) not in self._moved:
            self._moved[key, device] = self._draw_once(key).to(device)
        return self._moved[key, device]

    def _draw(self, key: tuple[int | str, ...]) -> Tensor:
        # The shared tensor comes from the bare seed, as in the reference's evaluation scripts.
        if not key:
            generator = torch.Generator().manual_seed(self.seed)
        else:
            generator = keyed_generator(self.seed, *key)
        return torch.randn(3, self.image_size, self.image_size, generator=generator)
