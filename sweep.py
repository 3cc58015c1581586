"""Probe a backbone at every (block, timestep) and report what it knows where."""

import hydra
from omegaconf import DictConfig

from ddpmseg import config

config.register()


@hydra.main(config_path="conf", config_name="sweep", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    # Here, so that --help and completion need not wait for torch.
    from ddpmseg.multiruns import jobs
    from ddpmseg.sweeps.sweep import finished, sweep

    return jobs.run(jobs.Program("sweep", sweep, finished), cfg)


if __name__ == "__main__":
    main()
