"""Train a head on diffusion features and test it, or pretrain a diffusion model (`task=pretrain`)."""

import sys

import hydra
from omegaconf import DictConfig

from ddpmseg import config
from ddpmseg.errors import UserError
from ddpmseg.training.run import train

config.register()


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> None:
    try:
        train(cfg)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


if __name__ == "__main__":
    main()
