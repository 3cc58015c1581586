"""Records as JSON files that say in which format they are and which version wrote them."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ddpmseg.errors import ConfigError
from ddpmseg.io.files import written_whole

FORMAT = 1
"""Of all records written through `write_record`; raised when an earlier reader would misread one.
Records of version 0.1 have none, and are otherwise the same."""


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain JSON values under the format and the package's version."""
    record = {"format": FORMAT, "package": version("ddpmseg"), **content}
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read_record(path: Path, remedy: str) -> dict[str, Any]:
    """What `write_record` was given.

    Raises ConfigError where the file cannot be read or is no such record, with `remedy` as the last
    sentence, and where its format is a later one than this program's.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        written_in, package = int(record.pop("format", 0)), record.pop("package", "0.1")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"'{path}' is damaged ({error}). {remedy}") from error
    if written_in > FORMAT:
        raise ConfigError(
            f"'{path}' is in format {written_in} of ddpmseg {package}; this is ddpmseg "
            f"{version('ddpmseg')}, which reads formats up to {FORMAT}. Use that version, or "
            "another folder."
        )
    return record
