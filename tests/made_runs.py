"""Runs of `ddpmseg train` for the tests of tables: made up, and real ones at tiny size."""

from itertools import product
from pathlib import Path
from typing import Any

from tiny_run import SEGMENT, composed

from ddpmseg.records.published import load_published
from ddpmseg.records.runs import Run
from ddpmseg.runs.train import train


def some_run(miou: float = 0.5, **settings: Any) -> Run:
    """A run of DDPM on Horse-21 but for these settings; `__` stands for the dot of a key."""
    given = {key.replace("__", "."): value for key, value in settings.items()}
    known: dict[str, Any] = {
        "dataset.name": "horse_21",
        "dataset.root": f"data/{given.get('dataset.name', 'horse_21')}",
        "backbone.name": "ddpm_lsun_horse",
        "backbone.checkpoint": "horse.pt",
        "features.blocks": [5, 6, 7, 8, 12],
        "features.timesteps": [50, 150, 250],
        "head.members": 10,
        "head.checkpoint": None,
        "seed": 0,
    }
    known |= given
    known["method"] = load_published().method_of(known)
    scores = {"miou": miou, "miou_present": miou / 2, "pixel_accuracy": miou / 4}
    return Run(f"runs/{sorted(given.items())}", known, scores)


def make_run(folder: Path) -> None:
    train(composed(folder, *SEGMENT))


def make_members_by_seeds(folder: Path) -> None:
    """Runs of one and two members and two seeds."""
    for members, seed in product((1, 2), (0, 1)):
        given = (f"head.members={members}", f"seed={seed}", "head.max_steps=2")
        train(composed(folder / f"members{members}" / f"seed{seed}", *SEGMENT, *given))
