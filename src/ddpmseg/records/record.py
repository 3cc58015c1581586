"""What a run is, in a file of its own: its kind, the format of its records, its classes."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ddpmseg.errors import ConfigError
from ddpmseg.io.files import written_whole

RECORD = "record.json"
FORMAT = 1
"""Of the records in a run's folder; raised when a reader of the earlier one would misread them."""


def write_record(folder: Path, kind: str, facts: Mapping[str, Any]) -> None:
    """Write `record.json`: `kind` of the run ('segment', 'distill', 'pretrain') and JSON facts."""
    content = {"format": FORMAT, "package": version("ddpmseg"), "kind": kind, **facts}
    with written_whole(folder / RECORD) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any]:
    """What `write_record` wrote; empty for a run of version 0.1, which wrote none.

    Raises ConfigError where the file is damaged, or its format is a later one than this program's.
    """
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        earlier = int(found["format"]) <= FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"'{path}' is damaged ({error}). Repeat the run with `paths.overwrite=true`."
        ) from error
    if not earlier:
        raise ConfigError(
            f"'{folder}' holds records in format {found['format']} of ddpmseg "
            f"{found.get('package')}; this is ddpmseg {version('ddpmseg')}, which reads formats up "
            f"to {FORMAT}. Use that version, or repeat the run in another folder."
        )
    return found
