"""Words that a setting `checkpoint` may have instead of a path; without torch."""

BUNDLED = "bundled:"
"""Begins the name of a file that ships with the package."""
RANDOM = "random"
"""No file: the network as initialised, before any training."""
HUB = "hub"
"""The file that its library publishes on the Hugging Face hub."""
