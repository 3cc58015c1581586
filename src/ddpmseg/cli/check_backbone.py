"""`check-backbone`: a network held against what a backbone promises."""

from pathlib import Path
from typing import Any

from ddpmseg.cli.common import add_command, add_overrides


def add(commands: Any) -> None:
    def run(config_dir: Path, overrides: list[str]) -> int:
        from ddpmseg.composition import checks, plan
        from ddpmseg.weight_tools.contract import check_backbone

        config = plan.compose(config_dir, overrides, checks.typed_config)
        return 0 if check_backbone(config) else 1

    text = "try whether a backbone keeps its promises; status 1 if it breaks any"
    add_overrides(add_command(commands, "check-backbone", run, text))
