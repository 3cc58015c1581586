"""All that a report shows, as plain arrays: no network, no files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import UInt8

from ddpmseg.data.class_table import ClassTable
from ddpmseg.records.cell_grid import CellGrid
from ddpmseg.report.groups import ClassGroups, group_classes


@dataclass(frozen=True, eq=False)
class Examples:
    """The first test images, their true masks, and what the probes of the first seed made of them.

    `masks` holds predictions by (block, timestep).
    """

    images: UInt8[np.ndarray, "n s s 3"]
    truths: UInt8[np.ndarray, "n s s"]
    masks: Mapping[tuple[int, int], UInt8[np.ndarray, "n s s"]]


@dataclass(frozen=True, eq=False)
class ClusterMaps:
    """K-means clusters and principal components of native maps, at the size of the images.

    `noised` shows x_t. Cluster labels are 0..k-1, and one label means alike regions in all panels
    of an image. `components` are the first three principal components as RGB.
    """

    blocks: tuple[int, ...]
    timesteps: tuple[int, ...]
    k: int
    images: UInt8[np.ndarray, "n s s 3"]
    noised: UInt8[np.ndarray, "n t s s 3"]
    labels: UInt8[np.ndarray, "n b t s s"]
    components: UInt8[np.ndarray, "n b t s s 3"]


@dataclass(frozen=True, eq=False)
class Study:
    """One backbone on one dataset over a grid of cells, beside its controls.

    `controls` are grids of other backbones by name ('pixels', 'random'), on the same images.
    `settings` are shown as they are, in order. `command` made it all.
    """

    dataset: str
    backbone: str
    classes: ClassTable
    grid: CellGrid
    command: str
    settings: Mapping[str, str] = field(default_factory=dict)
    controls: Mapping[str, CellGrid] = field(default_factory=dict)
    examples: Examples | None = None
    clusters: ClusterMaps | None = None

    @cached_property
    def groups(self) -> ClassGroups:
        return group_classes(self.grid.true_pixels, self.classes)

    def control_label(self, name: str) -> str:
        """The name of a control, with its timestep if it has a single one."""
        grid = self.controls[name]
        if grid.numbering.timeless or len(grid.timesteps) > 1:
            return name
        return f"{name} (t = {min(grid.timesteps)})"
