"""The commands of `python -m ddpmseg`: a module each, with its options and what it calls."""
