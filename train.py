"""Train a head on diffusion features and test it, or pretrain a model: `ddpmseg train`."""

import sys

from ddpmseg.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
