"""Values of a setting `checkpoint` that are no path. This module does not import torch."""

BUNDLED = "bundled:"
"""Prefix of the name of a file that ships with the package."""
RANDOM = "random"
"""No file: the network with random weights, before any training."""
HUB = "hub"
"""The file that the network's library publishes on the Hugging Face hub."""
