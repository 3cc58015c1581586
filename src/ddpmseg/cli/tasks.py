"""What Hydra calls with a composed configuration.

A job in another process finds its function by importing this module, which makes the settings known
there as well.
"""

from omegaconf import DictConfig

from ddpmseg import config
from ddpmseg.runtime.surroundings import draw_without_window

config.register()
draw_without_window()


def train(cfg: DictConfig) -> float | None:
    """Train a head on diffusion features and test it, or pretrain a diffusion model."""
    # Imported here, so that --help and --cfg need not wait for torch.
    from ddpmseg.multiruns import jobs
    from ddpmseg.runs.train import finished, train

    return jobs.run(jobs.Program("train", train, finished), cfg)


def sweep(cfg: DictConfig) -> float | None:
    """Probe a backbone at every (block, timestep) and report what it knows where."""
    from ddpmseg.multiruns import jobs
    from ddpmseg.sweeps.sweep import finished, sweep

    return jobs.run(jobs.Program("sweep", sweep, finished), cfg)
