"""Tests and measurements of a GPU in four minutes, each part by itself.

A part imports what it needs when it starts: one that lacks a package does not stop the others, and
the forward passes need neither Hydra nor Lightning.
"""

import gc
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.record import ROOT, Recorder
from benchmarks.timing import alternate
from ddpmseg.errors import ConfigError

if TYPE_CHECKING:
    from benchmarks.cases import Case, Options
    from ddpmseg.backbones.guided_diffusion.backbone import GuidedDiffusionBackbone
    from ddpmseg.backbones.guided_diffusion.flags import UNetFlags
    from ddpmseg.features.maps import NativeMaps

TEST_SECONDS = 240
"""After which the tests are stopped, so that a test that hangs leaves time to measure."""
MATRIX = {"tiny": 256, "full": 8192}
"""Side of the matrices whose product sets the rate of the floor."""
IMAGES = 8
PASSES, REPEATS = 5, 1
"""Repeats of forward passes, and of what takes tens of seconds."""
ERROR = 3e-2
"""Largest relative error of maps in 16 bits: norm of the difference over norm of 32 bits. As in
tests/test_gpu.py; on the CPU the paper's network with images of noise comes to 0.021."""

log = logging.getLogger(__name__)


class Card:
    """A device, the paper's network on it with random weights, and the file of rows."""

    def __init__(self, tiny: bool, device: torch.device, results: Path) -> None:
        self.tiny, self.device, self.results = tiny, device, results

    @cached_property
    def options(self) -> "Options":
        from benchmarks.cases import Options

        return Options("tiny" if self.tiny else "full", REPEATS, self.device, self.results)

    @cached_property
    def case(self) -> "Case":
        from benchmarks.cases import HORSE, TINY

        return TINY if self.tiny else HORSE

    @cached_property
    def backbone(self) -> "GuidedDiffusionBackbone":
        """In the precision that programs choose."""
        return self.network("auto")

    def network(self, precision: str) -> "GuidedDiffusionBackbone":
        """The network of the case; its weights are drawn on the device, which is fast at it."""
        from benchmarks.cases import fill_zeros
        from ddpmseg.backbones.guided_diffusion.backbone import GuidedDiffusionBackbone
        from ddpmseg.backbones.precision import choose_precision

        flags, bits = self.flags, choose_precision(precision, self.device)
        with self.device:
            backbone = GuidedDiffusionBackbone(self.case.name, flags, "random", bits)
        fill_zeros(backbone.unet, torch.Generator(self.device).manual_seed(0))
        return backbone.to(self.device)

    @cached_property
    def flags(self) -> "UNetFlags":
        from ddpmseg.backbones.guided_diffusion.flags import UNetFlags

        return UNetFlags(**self.case.values("backbone.unet"))

    @cached_property
    def rates(self) -> dict[str, list[float]]:
        from benchmarks.floor import product_rates

        return product_rates(MATRIX[self.options.size], PASSES, self.device)

    @cached_property
    def shares(self) -> Recorder:
        """One for two parts, as tables show the rows of one date."""
        from benchmarks.shares import record_rates

        record = Recorder(self.results, "shares", self.case.name, self.device)
        record_rates(self.rates, record)
        return record


def run(tiny: bool, device: torch.device, results: Path) -> int:
    """Run all parts and append rows to `results`. Exit status: 0, or 1 if a part failed.

    Raises ConfigError where there is no such device.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("`--device cuda`: torch finds no GPU. Try `--device cpu --tiny`.")
    card, outcomes, status = Card(tiny, device, results), dict[str, str](), 0
    for name, part in PARTS.items():
        log.info("%s ...", name)
        started = time.perf_counter()
        try:
            outcome = part(card)
        except (ImportError, subprocess.SubprocessError) as error:
            outcome, status = f"NOT DONE: {error}", 1
        except Exception as error:  # the card is at hand now: the other parts go on
            log.exception("%s", name)
            outcome, status = f"NOT DONE: {type(error).__name__}: {error}", 1
        outcomes[name] = f"{outcome or 'done'}, {time.perf_counter() - started:.1f} s"
        gc.collect()
    for name, outcome in outcomes.items():
        log.info("%s: %s", name, outcome)
    log.info("rows in %s", results)
    return status


def _tests(card: Card) -> str | None:
    """The tests that need a GPU, without the options of plugins that may be missing."""
    if card.device.type != "cuda":
        return "skipped, as there is no GPU"
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "tests/test_gpu.py"]
    subprocess.run(command, cwd=ROOT, timeout=TEST_SECONDS, check=True)
    return None


def _extraction(card: Card) -> None:
    """Seconds of a pass in 16 and 32 bits, its floor, and how far the maps differ."""
    from benchmarks.cases import CASES, half_precision
    from benchmarks.floor import PER_PASS, forward_flops
    from ddpmseg.features.extract import FeatureExtractor

    record = Recorder(card.results, "extraction", CASES[card.options.size].name, card.device)
    blocks, timesteps = (card.case.values("features")[key] for key in ("blocks", "timesteps"))
    size = card.flags.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 3, size, size), generator=generator).to(torch.uint8)
    names, pairs = [str(index) for index in range(IMAGES)], IMAGES * len(timesteps)
    half, single = (card.network(p) for p in (half_precision(card.device), "32"))
    work: dict[str, Callable[[], NativeMaps]] = {}
    few = len(timesteps)
    pairs_per_pass = {"ours, 16 bits": pairs, f"ours, 16 bits, {few} a pass": few,
                      "ours, 32 bits": pairs}  # fmt: skip
    for name, count in pairs_per_pass.items():
        extractor = FeatureExtractor(
            single if "32" in name else half,
            blocks,
            timesteps,
            image_size=size,
            batch_size=count,
        )
        work[name] = lambda extractor=extractor: extractor(images, names)
    timed = alternate(work, PASSES, card.device)
    flops = forward_flops(card.flags, blocks, size)
    for name, one in timed.items():
        seconds = [s / pairs for s in one.seconds]
        note = f"{pairs_per_pass[name]} of (image, t) a pass"
        record.add(name, PER_PASS, "s", seconds, note)
        bits = "32 bits" if "32" in name else "16 bits"
        floor = [flops / rate for rate in card.rates[bits]]
        record.add(name, "floor at the rate of a matrix product", "s", floor)
        times = [s / statistics.median(floor) for s in seconds]
        record.add(name, "times the floor", "x", times)
    exact, found = (_by_block(timed[f"ours, {bits} bits"].result) for bits in (32, 16))
    try:
        for block, right in exact.items():
            error = ((found[block] - right).norm() / right.norm()).item()
            record.check("ours, 16 bits", f"error against 32 bits, block {block}", error, ERROR)
    finally:
        record.save()  # a card is rare: the times count beside a larger error, which is a row too


def _by_block(maps: "NativeMaps") -> dict[int, Tensor]:
    """Block -> the values of all its maps in 32 bits."""
    found: dict[int, list[Tensor]] = {}
    for index, spec in enumerate(maps.layout.maps):
        found.setdefault(spec.block, []).append(maps.map(index).float().flatten())
    return {block: torch.cat(values) for block, values in found.items()}


def _head(card: Card) -> None:
    from benchmarks import head

    head.run(card.options)


def _timestep(card: Card) -> None:
    from benchmarks.cases import composed
    from benchmarks.shares import SWEEP, one_timestep, record_stages

    config = one_timestep(composed(card.case, card.options), card.backbone)
    record_stages(SWEEP, config, card.backbone, card.rates, card.shares, REPEATS, warm_up=False)
    card.shares.save()


def _whole_run(card: Card) -> None:
    from benchmarks.cases import composed
    from benchmarks.shares import TRAIN, record_stages

    config = composed(card.case, card.options)
    record_stages(TRAIN, config, card.backbone, card.rates, card.shares, REPEATS, warm_up=False)
    card.shares.save()


PARTS: dict[str, Callable[[Card], str | None]] = {
    "GPU tests": _tests,
    "extraction": _extraction,
    "head": _head,
    "a timestep of all blocks": _timestep,
    "a run end to end": _whole_run,
}
