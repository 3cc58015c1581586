"""`estimate` and `blocks`: what a run would take, before it is started."""

from pathlib import Path
from typing import Any

from ddpmseg.cli.common import add_command, add_overrides, show


def add(commands: Any) -> None:
    def estimate(config_dir: Path, overrides: list[str]) -> int:
        from ddpmseg.composition import checks, plan

        return show(plan.estimate(plan.compose(config_dir, overrides, checks.planned_config)))

    def blocks(config_dir: Path, overrides: list[str]) -> int:
        from ddpmseg.composition import checks, plan

        # Who asks which blocks there are cannot be expected to have chosen them already.
        return show(plan.blocks(plan.compose(config_dir, overrides, checks.typed_config)))

    text = "memory, forward passes and time of a run, with train.py's overrides"
    add_overrides(add_command(commands, "estimate", estimate, text))
    text = "the decoder blocks of a backbone: channels, size, layers"
    add_overrides(add_command(commands, "blocks", blocks, text))
