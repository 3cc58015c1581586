"""Train a head on diffusion features and test it, or pretrain a diffusion model."""

import hydra
from omegaconf import DictConfig

from ddpmseg import config

config.register()


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    # Here, so that --help and completion need not wait for torch.
    from ddpmseg.multiruns import jobs
    from ddpmseg.runs.train import finished, train

    return jobs.run(jobs.Program("train", train, finished), cfg)


if __name__ == "__main__":
    main()
