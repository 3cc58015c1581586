"""Probe a backbone at every (block, timestep) and report what it knows where: `ddpmseg sweep`."""

import sys

from ddpmseg.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
