"""Ponies: a procedural set of labelled images, deterministic from an integer seed.

A scene shows an articulated quadruped of random pose, scale, side, light and coat before a random
background. Colours are drawn per scene, and body, neck, head, ear and legs mostly share one, so
that the class follows from shape and context, not from colour.

The scene is painted as signed-distance shapes on a grid `SUPERSAMPLING` times finer than the image.
The image is the box average of that grid; the mask holds the label that covers most of each pixel.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddpmseg.data.shapes import (
    Canvas,
    Colour,
    FloatArray,
    Point,
    capsule,
    ellipse,
    plain,
    unit_vector,
    value_noise,
)

CLASS_NAMES = (
    "background",
    "body",
    "leg",
    "neck",
    "head",
    "tail",
    "mane",
    "saddle",
    "hoof",
    "ear",
    "eye",
)
LABEL = {name: label for label, name in enumerate(CLASS_NAMES)}
SUPERSAMPLING = 4
SPLITS = {"train": 0, "test": 1, "pretrain": 2}
"""Streams of scenes that never overlap: one index means a different scene in each."""


def draw_pony(
    index: int, split: str, seed: int = 0, image_size: int = 64
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw scene `index` of `split` ('train', 'test' or 'pretrain').

    Returns the image (H, W, 3) uint8 RGB and the mask (H, W) uint8 with labels 0..10 in the order
    of `CLASS_NAMES`, H = W = image_size. The same arguments give the same bytes.
    """
    rng = np.random.default_rng([seed, SPLITS[split], index])
    canvas = _background(rng, image_size * SUPERSAMPLING)
    _paint_pony(canvas, rng)
    return _downsample(canvas, rng, image_size)


def _any_colour(rng: np.random.Generator) -> FloatArray:
    """Random RGB in [0, 1]: any hue, from grey to saturated, neither black nor white."""
    grey = rng.uniform(0.15, 0.9)
    return np.clip(grey + rng.uniform(0.05, 0.4) * rng.uniform(-1, 1, 3), 0.04, 0.98)


def _background(rng: np.random.Generator, size: int) -> Canvas:
    """Sky and ground with texture and a few objects; all of it background."""
    direction = np.array([rng.uniform(-1, 1), rng.uniform(-1, 0.2), rng.uniform(0.7, 1.5)])
    canvas = Canvas(
        rgb=np.empty((size, size, 3)),
        label=np.zeros((size, size), np.uint8),
        light=direction / np.linalg.norm(direction),
        contrast=rng.uniform(0.2, 0.75),
    )
    y = np.linspace(0, 1, size)[:, None]
    horizon = rng.uniform(0.4, 0.85) + 0.04 * value_noise(rng, size, 4)[:1]
    ground = (y > horizon)[..., None]
    fade = 1 + rng.uniform(-0.25, 0.25) * (y - 0.5)
    canvas.rgb[:] = np.where(ground, _any_colour(rng), _any_colour(rng)) * fade[..., None]
    for below in (False, True):
        cells = int(rng.integers(3, 20))
        texture = rng.uniform(0.0, 0.22) * value_noise(rng, size, cells)
        canvas.rgb += np.where(ground == below, texture[..., None], 0)
    for _ in range(rng.integers(0, 5)):
        _paint_object(canvas, rng)
    return canvas


def _paint_object(canvas: Canvas, rng: np.random.Generator) -> None:
    """A bush, a boulder or a post, with shapes and colours like the animal's."""
    colour = plain(_any_colour(rng))
    centre = rng.uniform(0, 1, 2)
    if rng.random() < 0.5:
        radii = (rng.uniform(0.03, 0.16), rng.uniform(0.03, 0.12))
        canvas.paint(ellipse(centre, radii, rng.uniform(0, np.pi)), colour, None)
    else:
        tip = centre + rng.uniform(0.1, 0.4) * unit_vector(rng.uniform(0, 2 * np.pi))
        canvas.paint(capsule(centre, tip, *rng.uniform(0.01, 0.045, 2)), colour, None)


@dataclass
class _Coat:
    """Colours of one animal. `own` holds the parts whose colour differs from the common coat."""

    common: FloatArray
    patch: FloatArray
    patches: FloatArray
    own: dict[str, FloatArray]

    def of(self, part: str, dim: float = 1.0) -> Colour:
        """Colour of `part`; `dim` darkens parts on the far side."""
        if part in self.own:
            return plain(self.own[part] * dim)
        return lambda x, y: self._patched(x, y) * dim

    def _patched(self, x: FloatArray, y: FloatArray) -> FloatArray:
        last = self.patches.shape[0] - 1
        column, row = (np.clip((v * last).astype(int), 0, last) for v in (x, y))
        return np.where(self.patches[row, column][:, None] > 0.45, self.patch, self.common)


def _draw_coat(rng: np.random.Generator, size: int) -> _Coat:
    own = {part: _any_colour(rng) for part in ("tail", "mane", "saddle", "hoof", "eye")}
    own["eye"] = rng.choice([0.03, 0.97]) + np.zeros(3)
    if rng.random() < 0.4:
        own["tail"] = own["mane"]
    own |= {
        part: _any_colour(rng)
        for part in ("body", "neck", "head", "ear", "leg")
        if rng.random() < 0.08
    }
    has_patches = rng.random() < 0.35
    patches = value_noise(rng, size, int(rng.integers(5, 11))) if has_patches else np.zeros((1, 1))
    return _Coat(_any_colour(rng), _any_colour(rng), patches, own)


def _paint_pony(canvas: Canvas, rng: np.random.Generator) -> None:
    """Far legs, tail, body, near legs, saddle, neck, mane, head, ears, eye: back to front."""
    coat = _draw_coat(rng, canvas.size)
    unit = rng.uniform(0.2, 0.275)
    """Half the body's length, as a share of the image side."""
    facing = rng.choice([-1.0, 1.0])
    tilt = rng.uniform(-0.1, 0.1)
    centre = np.array([0.5 - facing * rng.uniform(0.0, 0.11), rng.uniform(0.46, 0.57)])

    def to_canvas(x: float, y: float) -> Point:
        """From the animal's frame (forward, up; in units) to the canvas."""
        forward, up = np.cos(tilt) * x - np.sin(tilt) * y, np.sin(tilt) * x + np.cos(tilt) * y
        return centre + unit * np.array([facing * forward, -up])

    def walk(start: Point, angle: float, length: float) -> Point:
        step = unit_vector(angle + tilt) * np.array([facing, 1.0])
        return start + unit * length * step

    def limb(part: str, a: Point, b: Point, ra: float, rb: float, dim: float = 1.0) -> None:
        canvas.paint(capsule(a, b, ra * unit, rb * unit), coat.of(part, dim), LABEL[part])

    def blob(part: str, at: Point, along: float, across: float, angle: float = 0.0) -> None:
        shape = ellipse(at, (along * unit, across * unit), -facing * (angle + tilt))
        canvas.paint(shape, coat.of(part), LABEL[part])

    depth = rng.uniform(0.42, 0.54)
    leg_length = rng.uniform(0.5, 0.68)
    leg_radius = rng.uniform(0.12, 0.155)

    def leg(hip_x: float, swing: float, bend: float, dim: float) -> None:
        hip = to_canvas(hip_x, -0.55 * depth)
        knee = walk(hip, -np.pi / 2 + swing, leg_length)
        ankle = walk(knee, -np.pi / 2 + swing - bend, leg_length * 0.75)
        toe = walk(ankle, -np.pi / 2 + 0.5 * swing + 0.25, leg_radius * 1.1)
        limb("leg", hip, knee, leg_radius * 1.6, leg_radius, dim)
        limb("leg", knee, ankle, leg_radius, leg_radius * 0.85, dim)
        limb("hoof", ankle, toe, leg_radius * 0.9, leg_radius * 1.1, dim)

    stride = rng.uniform(0.05, 0.5)
    legs = [
        (hip_x, stride * swing + rng.uniform(-0.14, 0.14), rng.uniform(0, 0.45) * bends)
        for hip_x, swing, bends in ((0.72, 1, 1), (-0.68, -1, 1), (0.58, -1, 1), (-0.82, 1, 1))
    ]
    for far_leg in legs[:2]:
        leg(*far_leg, dim=0.72)

    dock = to_canvas(-0.97, 0.45 * depth)
    tail_angle = rng.uniform(np.pi * 0.95, np.pi * 1.3)
    tail_radius = rng.uniform(0.09, 0.15)
    for _ in range(4):
        tip = walk(dock, tail_angle, rng.uniform(0.2, 0.3))
        limb("tail", dock, tip, tail_radius, tail_radius * 0.9)
        dock, tail_angle, tail_radius = tip, tail_angle + rng.uniform(0.0, 0.35), tail_radius * 0.9

    blob("body", to_canvas(0, 0), 1.0, depth * 0.92)
    blob("body", to_canvas(0.55, 0.02), 0.5, depth)
    blob("body", to_canvas(-0.58, 0.05), 0.5, depth)
    for near_leg in legs[2:]:
        leg(*near_leg, dim=1.0)

    if rng.random() < 0.65:
        saddle_x = rng.uniform(-0.2, 0.15)
        top, width = to_canvas(saddle_x, depth * 0.98), rng.uniform(0.2, 0.3)
        limb("saddle", to_canvas(saddle_x, 0.0), top, width, width * 0.85)
        limb("saddle", walk(top, 0, -width), walk(top, 0, width), 0.1, 0.12)

    neck_angle = rng.uniform(0.55, 1.3)
    neck_length = rng.uniform(0.75, 1.0)
    withers = to_canvas(0.72, 0.3 * depth)
    poll = walk(withers, neck_angle, neck_length)
    limb("neck", withers, poll, depth * 0.78, 0.24)
    crest_from = walk(to_canvas(0.62, 0.72 * depth), neck_angle + np.pi / 2, 0.06)
    crest_to = walk(poll, neck_angle + np.pi / 2, 0.2)
    mane_radius = rng.uniform(0.09, 0.14)
    for share in np.linspace(0, 1, 7):
        lock = crest_from + share * (crest_to - crest_from)
        fall = walk(lock, neck_angle + np.pi + rng.uniform(-0.5, 0.2), 0.16)
        limb("mane", lock, fall, mane_radius, mane_radius * 0.7)

    head_angle = neck_angle - rng.uniform(1.1, 1.75)
    head_length = rng.uniform(0.55, 0.72)
    muzzle = walk(poll, head_angle, head_length)
    ear_length = rng.uniform(0.3, 0.42)
    ear_base = walk(poll, head_angle + np.pi / 2, 0.14)
    for lean, dim in ((-0.25, 0.72), (rng.uniform(0.0, 0.4), 1.0)):
        ear_tip = walk(ear_base, head_angle + np.pi / 2 + lean, ear_length)
        limb("ear", ear_base, ear_tip, 0.105, 0.045, dim)
    limb("head", poll, muzzle, 0.27, rng.uniform(0.14, 0.18))
    brow = walk(walk(poll, head_angle, head_length * 0.3), head_angle + np.pi / 2, 0.06)
    blob("eye", brow, rng.uniform(0.075, 0.105), rng.uniform(0.07, 0.09))


def _downsample(
    canvas: Canvas, rng: np.random.Generator, image_size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Box-average the colours, let the labels of each pixel vote, add a little sensor noise."""
    blocks = (image_size, SUPERSAMPLING, image_size, SUPERSAMPLING)
    rgb = np.clip(canvas.rgb, 0, 1).reshape(*blocks, 3).mean(axis=(1, 3))
    rgb += rng.uniform(-0.02, 0.02, rgb.shape)
    image = (np.clip(rgb, 0, 1) * 255).round().astype(np.uint8)

    labels = canvas.label.reshape(blocks)
    coverage = np.stack([(labels == k).sum(axis=(1, 3)) for k in range(len(CLASS_NAMES))])
    # Ties go to the larger label: classes are listed from large to small parts, and small ones
    # would otherwise vanish.
    mask = len(CLASS_NAMES) - 1 - coverage[::-1].argmax(axis=0)
    return image, mask.astype(np.uint8)
