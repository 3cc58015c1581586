"""Noise schedules of diffusion processes, as the schedulers of diffusers define them."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import cos, exp, pi
from typing import Any

import numpy as np
from jaxtyping import Float64

from ddpmseg.errors import ConfigError

KINDS = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
"""Supported values of a scheduler's `beta_schedule`."""
CHOICES = KINDS[:3]
"""Those that a name alone defines: their betas have usual ends, or none."""


@dataclass(frozen=True)
class NoiseSchedule:
    """Variances of the forward process q(x_t | x_{t-1}), t = 0 .. num_timesteps - 1.

    `betas`, if given, replaces `kind`, `beta_start` and `beta_end`.
    """

    kind: str
    num_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    betas: tuple[float, ...] | None = None
    zero_terminal_snr: bool = False

    def alphas_cumprod(self) -> Float64[np.ndarray, " t"]:
        """Share of the image's variance in x_t, descending within [0, 1).

        Computed in 64 bits, as in guided_diffusion; the library itself computes in 32.
        Source: diffusers `DDPMScheduler.__init__`, `rescale_zero_terminal_snr`.
        """
        products = np.cumprod(1 - self._betas())
        if not self.zero_terminal_snr:
            return products
        root = np.sqrt(products)
        return ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2

    def _betas(self) -> Float64[np.ndarray, " t"]:
        steps, start, end = self.num_timesteps, self.beta_start, self.beta_end
        if self.betas is not None:
            return np.array(self.betas, dtype=np.float64)
        if self.kind == "linear":
            return np.linspace(start, end, steps)
        if self.kind == "scaled_linear":
            return np.linspace(start**0.5, end**0.5, steps) ** 2
        if self.kind == "sigmoid":
            sigmoids = np.array([1 / (1 + exp(-x)) for x in np.linspace(-6, 6, steps)])
            return sigmoids * (end - start) + start
        products = [cos((step / steps + 0.008) / 1.008 * pi / 2) ** 2 for step in range(steps + 1)]
        return np.array([min(1 - products[t + 1] / products[t], 0.999) for t in range(steps)])


def read_schedule(config: Mapping[str, Any], where: str) -> NoiseSchedule:
    """The schedule of a `scheduler_config.json`; `where` names it in messages.

    The sampler that it belongs to and the prediction type do not matter. Raises ConfigError for a
    process without such a schedule, or with an unknown one.
    """
    subject = f"{where}: {config.get('_class_name', 'the scheduler')}"
    advice = (
        f"Use a scheduler whose `beta_schedule` is {', '.join(KINDS)}, or which has "
        "`trained_betas`. If the network was trained with a usual one, set "
        f"`backbone.noise_schedule` to one of {', '.join(CHOICES)}."
    )
    betas, kind = config.get("trained_betas"), config.get("beta_schedule")
    if betas is None and kind is None:
        raise ConfigError(
            f"{subject} has no `beta_schedule`: it belongs to a process whose noise grows without "
            f"bound or is defined in another way. {advice}"
        )
    if betas is None and kind not in KINDS:
        raise ConfigError(f"{subject} has `beta_schedule` '{kind}', which is unknown. {advice}")
    try:
        schedule = NoiseSchedule(
            kind=str(kind),
            num_timesteps=int(config.get("num_train_timesteps", 1000)) if betas is None else 0,
            beta_start=float(config.get("beta_start", 0.0001)),
            beta_end=float(config.get("beta_end", 0.02)),
            betas=None if betas is None else tuple(map(float, betas)),
            zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)),
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{subject} cannot be read: {error}. {advice}") from error
    if schedule.betas is not None:
        schedule = NoiseSchedule(
            "trained", len(schedule.betas), 0.0, 0.0, schedule.betas, schedule.zero_terminal_snr
        )
    alphas = schedule.alphas_cumprod() if schedule.num_timesteps > 0 else np.array([])
    if not len(alphas) or not np.isfinite(alphas).all() or alphas.min() < 0 or alphas.max() > 1:
        raise ConfigError(f"{subject} describes no noise: its betas must lie in 0..1. {advice}")
    return schedule


def named_schedule(name: str) -> NoiseSchedule:
    """A usual schedule of 1000 steps by its name. Raises ConfigError for an unknown one."""
    if name not in CHOICES:
        raise ConfigError(
            f"`backbone.noise_schedule={name}`: must be one of {', '.join(CHOICES)}, or null if "
            "the checkpoint has a scheduler_config.json."
        )
    if name == "scaled_linear":
        return NoiseSchedule(name, beta_start=0.00085, beta_end=0.012)
    return NoiseSchedule(name)
