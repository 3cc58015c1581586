"""Train a head on diffusion features and test it, or pretrain a diffusion model."""

import sys

import hydra
from omegaconf import DictConfig

from ddpmseg import config
from ddpmseg.apps.train import train
from ddpmseg.errors import UserError

config.register()


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    try:
        return train(cfg)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


if __name__ == "__main__":
    main()
