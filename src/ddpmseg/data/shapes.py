"""Paints shapes on a grid of colours and labels, for procedural scenes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Point = FloatArray
"""(x, y)"""
Colour = Callable[[FloatArray, FloatArray], FloatArray]
"""Maps the x and y of n points to their RGB, (n, 3)."""


@dataclass
class Shape:
    """A region; `offset` maps a point to its distance (x, y) from the axis, in local radii."""

    low: Point
    high: Point
    offset: Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]


@dataclass
class Canvas:
    """A picture being painted. Positions are (x, y) in [0, 1], x to the right, y down."""

    rgb: FloatArray
    label: NDArray[np.uint8]
    light: FloatArray
    """Direction towards the light, unit vector (x, y, z), z towards the viewer."""
    contrast: float
    """Share of the light that is directional, 0 (flat) to 1."""

    @property
    def size(self) -> int:
        return self.label.shape[0]

    def paint(self, shape: Shape, colour: Colour, label: int | None) -> None:
        """Paint `shape`, shaded as if it bulged towards the viewer; label None keeps the labels."""
        low = np.clip(np.floor(shape.low * self.size).astype(int), 0, self.size)
        high = np.clip(np.ceil(shape.high * self.size).astype(int) + 1, 0, self.size)
        if (low >= high).any():
            return
        x, y = np.meshgrid(
            (np.arange(low[0], high[0]) + 0.5) / self.size,
            (np.arange(low[1], high[1]) + 0.5) / self.size,
        )
        offset_x, offset_y = shape.offset(x, y)
        inside = offset_x**2 + offset_y**2 < 1
        offset_x, offset_y = offset_x[inside], offset_y[inside]
        depth = np.sqrt(1 - offset_x**2 - offset_y**2)
        lambert = offset_x * self.light[0] + offset_y * self.light[1] + depth * self.light[2]
        shade = 1 + self.contrast * (lambert - 0.6)
        window = np.s_[low[1] : high[1], low[0] : high[0]]
        self.rgb[window][inside] = colour(x[inside], y[inside]) * shade[:, None]
        if label is not None:
            self.label[window][inside] = label


def ellipse(centre: Point, radii: tuple[float, float], angle: float) -> Shape:
    """An ellipse whose first radius lies `angle` radians clockwise from the x axis (y down)."""
    cos, sin = np.cos(angle), np.sin(angle)

    def offset(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        dx, dy = x - centre[0], y - centre[1]
        along = (cos * dx + sin * dy) / radii[0]
        across = (-sin * dx + cos * dy) / radii[1]
        return cos * along - sin * across, sin * along + cos * across

    reach = max(radii)
    return Shape(centre - reach, centre + reach, offset)


def capsule(start: Point, end: Point, start_radius: float, end_radius: float) -> Shape:
    """A line from `start` to `end` whose radius changes linearly between the two given."""
    axis = end - start
    squared_length = max(float(axis @ axis), 1e-12)

    def offset(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        dx, dy = x - start[0], y - start[1]
        share = np.clip((dx * axis[0] + dy * axis[1]) / squared_length, 0, 1)
        radius = start_radius + share * (end_radius - start_radius)
        return (dx - share * axis[0]) / radius, (dy - share * axis[1]) / radius

    reach = max(start_radius, end_radius)
    return Shape(np.minimum(start, end) - reach, np.maximum(start, end) + reach, offset)


def unit_vector(angle: float) -> Point:
    """Unit vector at `angle` radians, counter-clockwise from facing right (y points down)."""
    return np.array([np.cos(angle), -np.sin(angle)])


def plain(rgb: FloatArray) -> Colour:
    """A constant RGB colour, 0 to 1."""
    return lambda x, _y: np.broadcast_to(rgb, (*x.shape, 3))


def value_noise(rng: np.random.Generator, size: int, cells: int) -> FloatArray:
    """Smooth noise (size, size) in [-1, 1]: random values on a cells x cells grid, interpolated."""
    position = np.linspace(0, cells - 1, size)
    weights = np.clip(1 - np.abs(position[:, None] - np.arange(cells)), 0, 1)
    return weights @ rng.uniform(-1, 1, (cells, cells)) @ weights.T
