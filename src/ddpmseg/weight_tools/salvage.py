"""A weight file that cannot be read as plain tensors becomes one of tensors only."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ddpmseg.command_line import override
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.io.files import written_whole
from ddpmseg.weights.pickled import Salvaged
from ddpmseg.weights.read import resolve_checkpoint


def convert_weights(source: str, output: Path, entry: str | None = None) -> list[str]:
    """Take the tensors of a torch file out in a process of its own; returns lines to print.

    Nothing in the file is executed, see `ddpmseg.weights.pickled`. Raises CheckpointError for a
    file that gives none, ConfigError for an `output` that is there already or is no .safetensors.
    """
    path = resolve_checkpoint(source)
    if output.suffix != ".safetensors":
        raise ConfigError(f"`{output}`: the name of the new file must end in .safetensors.")
    if output.exists():
        raise ConfigError(f"'{output}' exists already. Remove it, or name another file.")
    command = [sys.executable, "-m", "ddpmseg.weights.pickled", str(path)]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(output) as unfinished:
            ended = subprocess.run(
                [*command, str(unfinished), *([] if entry is None else [entry])],
                capture_output=True,
                text=True,
                check=False,
            )
            told = _told(path, ended)
    except OSError as error:
        raise ConfigError(f"'{output}' cannot be written ({error.strerror or error}).") from error
    within = f" of '{told.entry}'" if told.entry is not None else ""
    lines = [f"{output}: {told.tensors} tensors, {told.parameters:,} numbers{within} in {path}"]
    if told.left_out:
        others = ", ".join(f"{key} ({kind})" for key, kind in told.left_out.items())
        lines.append(f"left out: {others}")
    return [*lines, f"use it with `{override('backbone.checkpoint', output)}`"]


def _told(path: Path, ended: "subprocess.CompletedProcess[str]") -> Salvaged:
    """What the process said; CheckpointError where it failed."""
    told: dict[str, Any]
    try:
        told = json.loads(ended.stdout)
    except ValueError:
        last = (ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1]
        told = {"error": f"could not be read ({last})"}
    if "error" in told:
        raise CheckpointError(f"checkpoint '{path}' {told['error']}. Nothing was written.")
    return Salvaged(**told)
