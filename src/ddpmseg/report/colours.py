"""The colours of clusters, the same in the figures and on the page."""

import numpy as np
from jaxtyping import UInt8

from ddpmseg.data.class_table import generated_colour

# Told apart by people who see red and green alike; further clusters get generated colours.
CLUSTER_COLOURS = ("#4477AA", "#EE9944", "#44AA99", "#CCBB44", "#AA3377", "#88CCEE", "#882255")


def cluster_colours(count: int) -> UInt8[np.ndarray, "{count} 3"]:
    """Colours that are told apart easily, for any number of clusters."""
    listed = [tuple(bytes.fromhex(colour[1:])) for colour in CLUSTER_COLOURS]
    return np.array([*listed, *map(generated_colour, range(len(listed), count))][:count], np.uint8)
