"""Samples images from a diffusion model."""

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from ddpmseg.backbones.guided_diffusion.unet import UNetFlags, sampling_process
from ddpmseg.errors import ConfigError
from ddpmseg.randomness import keyed_generator


class Sampler:
    """Draws image i from the noise of (seed, i), independently of other images in the batch.

    With all steps of the process it uses ancestral sampling (Ho et al. 2020, algorithm 2), as for
    the paper's synthetic sets; with fewer, DDIM with eta = 0 (Song et al. 2021), where only x_T is
    random. The prediction of x_0 is clipped to [-1, 1] at every step, as in the original. A network
    with `learn_sigma` predicts the variance of a step itself.

    Args:
        unet: frozen or in eval mode; runs on the device of its parameters, in its own precision.
            x_t stays in fp32 between passes.
        flags: flags of the network.
        num_steps: see `check_steps`.

    Raises ConfigError for a number of steps that is not possible.
    """

    def __init__(self, unet: nn.Module, flags: UNetFlags, num_steps: int) -> None:
        check_steps("num_steps", num_steps, flags.diffusion_steps)
        self.unet, self.image_size = unet, flags.image_size
        self.process = sampling_process(flags, num_steps)
        self.ancestral = num_steps == flags.diffusion_steps

    @torch.inference_mode()
    def __call__(self, seed: int, indices: Sequence[int]) -> UInt8[Tensor, "n 3 s s"]:
        """The images of these indices, on the CPU.

        The batch changes an image only by rounding: kernels sum in another order for another batch
        size.
        """
        device = next(self.unet.parameters()).device
        generators = [keyed_generator(seed, "sample", index) for index in indices]
        x_t = self._noise(generators, device)
        for step in reversed(range(self.process.num_timesteps)):
            timesteps = torch.full((len(indices),), step, device=device)
            if not self.ancestral:
                x_t = self.process.ddim_sample(self.unet, x_t, timesteps)["sample"]
                continue
            posterior = self.process.p_mean_variance(self.unet, x_t, timesteps)
            x_t = posterior["mean"]
            if step > 0:
                deviation = torch.exp(0.5 * posterior["log_variance"])
                x_t = x_t + deviation * self._noise(generators, device)
        return ((x_t + 1) * 127.5).clamp(0, 255).round().to(torch.uint8).cpu()

    def _noise(self, generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
        """The next standard normal noise of every image, (n, 3, s, s), drawn on the CPU."""
        shape = (3, self.image_size, self.image_size)
        return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)


def check_steps(option: str, num_steps: int, total: int) -> None:
    """Raise ConfigError unless an equal stride selects `num_steps` of `total` timesteps.

    That is DDIM's selection 0, k, 2k, ... below `total`. `option` names the setting.
    """
    possible = {len(range(0, total, stride)) for stride in range(1, total)}
    if num_steps in possible:
        return
    if not 2 <= num_steps <= total:
        raise ConfigError(f"`{option}={num_steps}`: must lie in 2..{total}.")
    fewer = max(count for count in possible if count < num_steps)
    more = min(count for count in possible if count > num_steps)
    raise ConfigError(
        f"`{option}={num_steps}`: no equal stride leaves {num_steps} of {total} timesteps; the "
        f"nearest numbers are {fewer} and {more}."
    )
