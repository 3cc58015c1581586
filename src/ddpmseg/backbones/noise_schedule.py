"""The noise of a diffusion process, as the schedulers of the diffusers library write it down."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import cos, exp, pi
from typing import Any

import numpy as np
from jaxtyping import Float64

from ddpmseg.errors import ConfigError

KINDS = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
"""Values of a scheduler's `beta_schedule` that are known here."""
CHOICES = KINDS[:3]
"""Those that say all by their name: their betas have usual ends, or none."""


@dataclass(frozen=True)
class NoiseSchedule:
    """Variances of the forward process q(x_t | x_{t-1}), t = 0 .. num_timesteps - 1.

    `betas`, where it is given, takes the place of `kind` and its two ends.
    """

    kind: str
    num_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    betas: tuple[float, ...] | None = None
    zero_terminal_snr: bool = False

    def alphas_cumprod(self) -> Float64[np.ndarray, " t"]:
        """Share of the image's variance that is left in x_t, descending within [0, 1).

        In 64 bits, as in guided_diffusion; the library itself computes in 32.
        Source: diffusers `DDPMScheduler.__init__`, `rescale_zero_terminal_snr`.
        """
        kept = np.cumprod(1 - self._betas())
        if not self.zero_terminal_snr:
            return kept
        root = np.sqrt(kept)
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
            rises = np.array([1 / (1 + exp(-x)) for x in np.linspace(-6, 6, steps)])
            return rises * (end - start) + start
        kept = [cos((step / steps + 0.008) / 1.008 * pi / 2) ** 2 for step in range(steps + 1)]
        return np.array([min(1 - kept[t + 1] / kept[t], 0.999) for t in range(steps)])


def read_schedule(config: Mapping[str, Any], where: str) -> NoiseSchedule:
    """The schedule of a `scheduler_config.json`; `where` names it in messages.

    Which of the library's samplers it is for does not matter, nor what the network predicts.
    Raises ConfigError for a process without such a schedule, or with one that is unknown.
    """
    says = f"{where}: {config.get('_class_name', 'the scheduler')}"
    way_out = (
        f"Needed is one whose `beta_schedule` is {', '.join(KINDS)}, or one with `trained_betas`. "
        "Where the network was trained with a usual one, set `backbone.noise_schedule` to one of "
        f"{', '.join(CHOICES)}."
    )
    betas, kind = config.get("trained_betas"), config.get("beta_schedule")
    if betas is None and kind is None:
        raise ConfigError(
            f"{says} has no `beta_schedule`: it belongs to a process whose noise grows without "
            f"bound or is told in another way. {way_out}"
        )
    if betas is None and kind not in KINDS:
        raise ConfigError(f"{says} has `beta_schedule` '{kind}', which is unknown. {way_out}")
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
        raise ConfigError(f"{says} cannot be read: {error}. {way_out}") from error
    if schedule.betas is not None:
        schedule = NoiseSchedule(
            "trained", len(schedule.betas), 0.0, 0.0, schedule.betas, schedule.zero_terminal_snr
        )
    kept = schedule.alphas_cumprod() if schedule.num_timesteps > 0 else np.array([])
    if not len(kept) or not np.isfinite(kept).all() or kept.min() < 0 or kept.max() > 1:
        raise ConfigError(f"{says} describes no noise: its betas must lie in 0..1. {way_out}")
    return schedule


def chosen_schedule(name: str) -> NoiseSchedule:
    """A usual schedule of 1000 steps by its name; ConfigError for an unknown one."""
    if name not in CHOICES:
        raise ConfigError(
            f"`backbone.noise_schedule={name}`: must be one of {', '.join(CHOICES)}, or null where "
            "the checkpoint has a scheduler_config.json."
        )
    if name == "scaled_linear":
        return NoiseSchedule(name, beta_start=0.00085, beta_end=0.012)
    return NoiseSchedule(name)
