"""Converts a weight file that holds more than tensors to one of tensors only."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ddpmseg.command_line import override
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.io.files import atomic_write, explain_unwritable, remove_unfinished
from ddpmseg.weights.pickled import Salvaged
from ddpmseg.weights.read import resolve_checkpoint


def convert_weights(source: str, output: Path, entry: str | None = None) -> list[str]:
    """Extract the tensors of a torch file in a separate process; returns lines to print.

    Nothing in the file is executed, see `ddpmseg.weights.pickled`. Raises CheckpointError for a
    file without tensors, ConfigError for an `output` that exists already or is no .safetensors,
    DiskError where it cannot be written to.
    """
    path = resolve_checkpoint(source)
    if output.suffix != ".safetensors":
        raise ConfigError(f"`{output}`: the name of the new file must end in .safetensors.")
    if output.exists():
        raise ConfigError(f"'{output}' exists already. Remove it, or name another file.")
    command = [sys.executable, "-m", "ddpmseg.weights.pickled", str(path)]
    with explain_unwritable(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(output.parent, output.name)
    with atomic_write(output) as unfinished:
        process = subprocess.run(
            [*command, str(unfinished), *([] if entry is None else [entry])],
            capture_output=True,
            text=True,
            check=False,
        )
        result = _read_result(path, process)
    within = f" of '{result.entry}'" if result.entry is not None else ""
    lines = [f"{output}: {result.tensors} tensors, {result.parameters:,} numbers{within} in {path}"]
    if result.left_out:
        others = ", ".join(f"{key} ({kind})" for key, kind in result.left_out.items())
        lines.append(f"left out: {others}")
    return [*lines, f"use it with `{override('backbone.checkpoint', output)}`"]


def _read_result(path: Path, process: "subprocess.CompletedProcess[str]") -> Salvaged:
    """The output of the process. Raises CheckpointError if it failed, OSError if the disk did."""
    result: dict[str, Any]
    try:
        result = json.loads(process.stdout)
    except ValueError:
        last = (process.stderr.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        result = {"error": f"could not be read ({last})"}
    if (number := result.get("unwritable")) is not None:
        raise OSError(number, os.strerror(number))
    if "error" in result:
        raise CheckpointError(f"checkpoint '{path}' {result['error']}. Nothing was written.")
    return Salvaged(**result)
