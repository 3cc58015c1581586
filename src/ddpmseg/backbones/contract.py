"""Tests whether a backbone keeps the contract of `Backbone`.

Readers of maps rely on this contract: a breach spoils numbers elsewhere without a message. The
tests of this package check all its backbones; you can check your own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpmseg.backbones.base import Backbone, Hook


@dataclass(frozen=True)
class Breach:
    """A rule of `RULES` that a backbone breaks, and a sentence about how it does."""

    rule: str
    what: str


@dataclass(frozen=True)
class Trial:
    """A backbone and its test inputs: x_t (3, 3, s, s) in [-1, 1] and timesteps (3,)."""

    backbone: Backbone
    images: Tensor
    timesteps: Tensor

    @property
    def blocks(self) -> range:
        """The expected block numbers."""
        return range(len(self.backbone.blocks))

    def maps(self, hook: Hook | None = None) -> dict[int, Tensor]:
        """Maps of all blocks, at `hook` or at the first hook of the backbone."""
        hook = self.backbone.hooks[0] if hook is None else hook
        return self.backbone.native_maps(self.images, self.timesteps, self.blocks, hook)


Rule = Callable[[Trial], Iterator[str]]


def breaches(backbone: Backbone, image_size: int | None = None) -> list[Breach]:
    """All breaches of a backbone on images of `image_size` pixels, in the order of `RULES`.

    None: twice its largest stride, the smallest side that tests all rules. The images are noise:
    the rules do not test whether maps are meaningful.
    """
    trial = _trial(backbone, image_size)
    return [Breach(rule, what) for rule, check in RULES.items() for what in _run(check, trial)]


def _run(check: Rule, trial: Trial) -> list[str]:
    """The breaches of one rule; a missing method is a breach, too."""
    try:
        return list(check(trial))
    except NotImplementedError as error:
        return [str(error)]


def _trial(backbone: Backbone, image_size: int | None) -> Trial:
    side = image_size or 2 * max(max(block.stride, block.input_stride) for block in backbone.blocks)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, side, side, generator=generator) * 2 - 1
    timesteps = torch.linspace(0, (backbone.num_timesteps or 1) - 1, 3).long()
    return Trial(backbone, images.to(backbone.device), timesteps.to(backbone.device))


def _numbering(trial: Trial) -> Iterator[str]:
    """Blocks are numbered 0, 1, ..., and a pass gives exactly the requested ones."""
    indices = [block.index for block in trial.backbone.blocks]
    if indices != list(trial.blocks):
        yield f"its blocks are numbered {indices}, not 0..{len(indices) - 1}"
    maps = trial.maps()
    if set(maps) != set(trial.blocks):
        yield f"asked for blocks {list(trial.blocks)} it gives {sorted(maps)}"


def _channels(trial: Trial) -> Iterator[str]:
    """A map has the channels of its `BlockSpec`."""
    for hook, block, value in _all_maps(trial):
        channels, _ = trial.backbone.blocks[block].at(hook)
        if value.shape[:2] != (3, channels):
            yield (
                f"the {hook} of block {block} has the shape {tuple(value.shape)} for 3 images; "
                f"{channels} channels are promised"
            )


def _size(trial: Trial) -> Iterator[str]:
    """A map has the side that follows from the stride of its `BlockSpec`."""
    for hook, block, value in _all_maps(trial):
        side = trial.backbone.map_size(block, hook, trial.images.shape[-1])
        if value.shape[2:] != (side, side):
            yield (
                f"the {hook} of block {block} is {' x '.join(map(str, value.shape[2:]))} for "
                f"images of {trial.images.shape[-1]} pixels; its stride promises {side} x {side}"
            )


def _values(trial: Trial) -> Iterator[str]:
    """Maps are finite and of the backbone's dtype."""
    for hook, block, value in _all_maps(trial):
        if value.dtype != trial.backbone.dtype:
            yield (
                f"the {hook} of block {block} is {value.dtype}, promised is {trial.backbone.dtype}"
            )
        if not value.isfinite().all():
            yield f"the {hook} of block {block} has values that are not finite"


def _gradients(trial: Trial) -> Iterator[str]:
    """No parameter requires gradients, and none flow through a pass."""
    trainable = [n for n, value in trial.backbone.named_parameters() if value.requires_grad]
    if trainable:
        yield f"parameters require gradients: {_shortened(trainable)}"
    images = trial.images.clone().requires_grad_()
    for block, value in Trial(trial.backbone, images, trial.timesteps).maps().items():
        if value.requires_grad:
            yield f"gradients flow to the image through the map of block {block}"


def _mode(trial: Trial) -> Iterator[str]:
    """Every module is in eval mode, even after `train()`."""

    def training() -> list[str]:
        modules = trial.backbone.named_modules()
        return [name or "itself" for name, module in modules if module.training]

    if names := training():
        yield f"modules are in training mode: {_shortened(names)}"
        return
    trial.backbone.train()
    if names := training():
        yield f"train() puts modules into training mode: {_shortened(names)}"
        trial.backbone.eval()


def _hooks(trial: Trial) -> Iterator[str]:
    """No module keeps a hook after a pass, which would hold maps and run again."""
    trial.maps()
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooked = [
        name or "itself"
        for name, module in trial.backbone.named_modules()
        if any(getattr(module, kind) for kind in hooks)
    ]
    if hooked:
        yield f"hooks are left on modules: {_shortened(hooked)}"


def _batch_size(trial: Trial) -> Iterator[str]:
    """The maps of an image do not depend on the size of its batch."""
    batched = trial.maps()
    singles = [
        Trial(trial.backbone, trial.images[i : i + 1], trial.timesteps[i : i + 1]).maps()
        for i in range(len(trial.images))
    ]
    for block, value in batched.items():
        if _differ(torch.cat([maps[block] for maps in singles]), value):
            yield f"block {block}: an image has other maps by itself than in a batch of 3"


def _order(trial: Trial) -> Iterator[str]:
    """The maps of an image do not depend on its position in a batch."""
    forward = trial.maps()
    backward = Trial(trial.backbone, trial.images.flip(0), trial.timesteps.flip(0)).maps()
    for block, value in forward.items():
        if _differ(backward[block].flip(0), value):
            yield f"block {block}: an image has other maps at another position in the batch"


def _earlier_calls(trial: Trial) -> Iterator[str]:
    """The maps of a pass do not depend on earlier passes."""
    first = {block: value.clone() for block, value in trial.maps().items()}
    Trial(trial.backbone, -trial.images[:2], trial.timesteps[1:]).maps()
    again = trial.maps()
    for block, value in first.items():
        if _differ(again[block], value):
            yield f"block {block}: a repeated pass gives other maps"


def _early_exit(trial: Trial) -> Iterator[str]:
    """The map of a block does not depend on which other blocks are requested."""
    for hook in trial.backbone.hooks:
        every = trial.maps(hook)
        last = len(every) - 1
        for chosen in ({0}, {last // 2}, {0, last}):
            maps = trial.backbone.native_maps(trial.images, trial.timesteps, chosen, hook)
            if set(maps) != chosen:
                yield f"asked for {hook}s of blocks {sorted(chosen)} it gives {sorted(maps)}"
            for block in chosen & set(maps):
                if _differ(maps[block], every[block]):
                    yield f"the {hook} of block {block} differs when few blocks are asked for"


def _inputs(trial: Trial) -> Iterator[str]:
    """A pass does not change its arguments."""
    images, timesteps = trial.images.clone(), trial.timesteps.clone()
    noise = torch.zeros_like(images)
    trial.backbone.add_noise(trial.images, trial.timesteps, noise)
    trial.maps()
    same = torch.equal(images, trial.images) and torch.equal(timesteps, trial.timesteps)
    if not same or noise.any():
        yield "it changes the images, timesteps or noise it is given"


def _noise(trial: Trial) -> Iterator[str]:
    """Noise keeps the size of images; a network without timesteps leaves them clean."""
    noise = torch.ones_like(trial.images)
    noised = trial.backbone.add_noise(trial.images, trial.timesteps, noise)
    if noised.shape != trial.images.shape:
        yield f"noised images have the shape {tuple(noised.shape)}"
    elif trial.backbone.num_timesteps is None and not torch.equal(noised, trial.images):
        yield "it has no timesteps (`num_timesteps` is None), but adds noise"


RULES: dict[str, Rule] = {
    "numbering": _numbering,
    "channels": _channels,
    "size": _size,
    "values": _values,
    "gradients": _gradients,
    "mode": _mode,
    "hooks": _hooks,
    "batch size": _batch_size,
    "order": _order,
    "earlier calls": _earlier_calls,
    "early exit": _early_exit,
    "inputs": _inputs,
    "noise": _noise,
}
"""Name of a rule -> function that checks it, whose docstring states the rule."""


def _all_maps(trial: Trial) -> Iterator[tuple[Hook, int, Tensor]]:
    for hook in trial.backbone.hooks:
        for block, value in trial.maps(hook).items():
            yield hook, block, value


def _differ(actual: Tensor, expected: Tensor) -> bool:
    """Whether maps differ by more than rounding: kernels for other batch sizes sum in other orders.

    In fp32 that was up to 1.2e-5 of a map's root mean square on one processor; 16-bit numbers have
    8 to 11 significant bits.
    """
    if actual.shape != expected.shape:
        return True
    tolerance = 1e-4 if expected.dtype == torch.float32 else 0.05
    actual, expected = actual.float(), expected.float()
    scale = expected.square().mean().sqrt().clamp_min(1e-12)
    return bool((actual - expected).abs().max() > tolerance * scale)


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
