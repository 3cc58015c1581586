"""The promises of a head, held against what it does (see `ddpmseg.heads.base.Head`).

Training, sweeps, `predict` and the file of a run rely on them.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpmseg.backbones.contract import Breach
from ddpmseg.errors import CheckpointError
from ddpmseg.features.layout import FeatureLayout, MapSpec
from ddpmseg.features.maps import NativeMaps
from ddpmseg.heads.base import Head, PixelReader, TrainedHead
from ddpmseg.heads.export import load_head, save_head
from ddpmseg.heads.pixels import LabelledPixels
from ddpmseg.heads.settings import HeadConfig
from ddpmseg.randomness import keyed_generator

NUM_CLASSES = 4
LAYOUT = FeatureLayout((MapSpec(5, 0, 6, 4), MapSpec(5, 1, 5, 8)), 8)
"""Two maps, one of them as large as the image."""
NUM_IMAGES = 4
STEPS = 20


class Trial:
    """The settings of a head, and labelled images on which it is tried.

    Three of the four classes occur, and differ in the mean of their vectors.
    """

    def __init__(self, settings: HeadConfig) -> None:
        self.settings = settings
        generator = keyed_generator(0, "head contract")
        masks = torch.full((NUM_IMAGES, 8, 8), 255, dtype=torch.uint8)
        self.maps = NativeMaps.empty(LAYOUT, NUM_IMAGES, torch.float32, torch.device("cpu"))
        for group in self.maps.groups.values():
            group.normal_(generator=generator)
        for label in range(NUM_CLASSES - 1):
            rows = slice(2 * label, 2 * label + 2)
            masks[:, rows] = label
            self.maps.groups[8][:, rows, :, label] += 3
        self.pixels = LabelledPixels(masks, 255)
        self.vectors = torch.cat([vectors for vectors, _ in self.pixels.vectors(self.maps)])

    def built(self) -> Head:
        return self.settings.build(LAYOUT.dim, NUM_CLASSES, seed=3)

    def fitted(self) -> Head:
        head = self.built()
        head.fit_to(self.maps, self.pixels, 3, _train)
        return head.eval()

    @cached_property
    def head(self) -> Head:
        """Fitted, in eval mode."""
        return self.fitted()

    @cached_property
    def scores(self) -> Tensor:
        return _scores(self.head, self.vectors)


Rule = Callable[[Trial], Iterator[str]]


def breaches(settings: HeadConfig) -> list[Breach]:
    """All rules that the head of these settings breaks, in the order of `RULES`.

    It is fitted to four small images of noise; whether it labels well is not asked.
    """
    trial = Trial(settings)
    return [Breach(rule, what) for rule, broken in RULES.items() for what in broken(trial)]


def _shape(trial: Trial) -> Iterator[str]:
    """It is of the kind, the dimension, the classes and the members that are asked for."""
    head, settings = trial.built(), trial.settings
    if (head.kind, type(head)) != (settings.name, settings.head_type()):
        yield (
            f"`build` gives a {type(head).__name__} of the kind '{head.kind}'; the settings "
            f"promise a {settings.head_type().__name__} and are named '{settings.name}'"
        )
    found = (head.dim, head.num_classes, head.members)
    if found != (expected := (LAYOUT.dim, NUM_CLASSES, settings.members)):
        yield f"(dim, num_classes, members) is {found}, asked for were {expected}"


def _finite_scores(trial: Trial) -> Iterator[str]:
    """There is a score for every member, pixel and class; one of each pixel at least is finite."""
    shape = (trial.settings.members, len(trial.vectors), NUM_CLASSES)
    if trial.scores.shape != shape:
        yield f"scores of {shape[1]} pixels have the shape {tuple(trial.scores.shape)}, not {shape}"
    elif trial.scores.isnan().any() or not trial.scores.isfinite().any(dim=2).all():
        yield "scores are NaN, or infinite for all classes of a pixel"


def _state(trial: Trial) -> Iterator[str]:
    """The constructor fixes the shapes of its state."""
    before, after = (
        {key: tuple(value.shape) for key, value in head.state_dict().items()}
        for head in (trial.built(), trial.head)
    )
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield f"{key} is {before.get(key)} before fitting and {after.get(key)} after it"


def _repeatable(trial: Trial) -> Iterator[str]:
    """Fitted again with the same seed it gives the same scores."""
    if _differ(_scores(trial.fitted(), trial.vectors), trial.scores):
        yield "fitted again with the same seed it gives other scores"


def _pixel_by_itself(trial: Trial) -> Iterator[str]:
    """The scores of a pixel do not depend on the pixels beside it, nor on their order."""
    parts = [_scores(trial.head, part) for part in trial.vectors.flip(0).split(7)]
    if _differ(torch.cat(parts, dim=1).flip(1), trial.scores):
        yield "a pixel has other scores among other pixels"


def _whole_images(trial: Trial) -> Iterator[str]:
    """Read on whole images a pixel has the scores of its vector, and the maps stay as they are."""
    before = {size: group.clone() for size, group in trial.maps.groups.items()}
    found = trial.head.reader(LAYOUT, torch.float32).scores(trial.maps)
    if any(not torch.equal(group, before[size]) for size, group in trial.maps.groups.items()):
        yield "its reader changes the maps"
    if _differ(found, PixelReader(trial.head, LAYOUT).scores(trial.maps)):
        yield "its reader gives other scores than `forward` for the vectors of the same pixels"


def _disk(trial: Trial) -> Iterator[str]:
    """Read from disk it gives the same scores."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "head.safetensors"
        save_head(trial.head, path, {})
        try:
            loaded, _ = load_head(path)
        except CheckpointError as error:
            yield str(error)
            return
    if _differ(_scores(loaded, trial.vectors), trial.scores):
        yield "read from disk it gives other scores"


def _sixteen_bits(trial: Trial) -> Iterator[str]:
    """One that is trained takes vectors of 16 bits."""
    if not isinstance(trial.head, TrainedHead):
        return
    try:
        trial.head(trial.vectors.bfloat16())
    except RuntimeError as error:
        yield f"`forward` takes no vectors of 16 bits: {str(error).splitlines()[0]}"


RULES: dict[str, Rule] = {
    "shape": _shape,
    "scores": _finite_scores,
    "state": _state,
    "repeatable": _repeatable,
    "pixel by itself": _pixel_by_itself,
    "whole images": _whole_images,
    "disk": _disk,
    "16 bits": _sixteen_bits,
}
"""Name of a rule -> what checks it; its docstring says the rule."""


def _train(head: TrainedHead, maps: NativeMaps, pixels: LabelledPixels, seed: int) -> None:
    """A few steps of gradient descent on all pixels, without a trainer."""
    vectors, labels = (torch.cat(part) for part in zip(*pixels.vectors(maps), strict=True))
    head.standardise(vectors)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        scores = head(vectors)
        targets = labels.repeat(head.members)
        F.cross_entropy(scores.flatten(0, 1), targets).backward()
        optimizer.step()


@torch.no_grad()
def _scores(head: Head, vectors: Tensor) -> Tensor:
    return head.eval()(vectors)


def _differ(found: Tensor, expected: Tensor) -> bool:
    """Beyond rounding."""
    if found.shape != expected.shape:
        return True
    close = torch.allclose(found.float(), expected.float(), 1e-3, 1e-4, equal_nan=True)
    return not close
