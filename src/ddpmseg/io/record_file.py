"""JSON records with their format and the version of the package that wrote them."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ddpmseg.errors import ConfigError
from ddpmseg.io.damage import explain_damage, read_object
from ddpmseg.io.files import atomic_write

FORMAT = 1
"""Format of all records that `write_record` writes. Raise it when earlier readers would misread a
record. Records of version 0.1 have no format, and are otherwise the same."""


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain JSON values with the format and the package's version."""
    record = {"format": FORMAT, "package": version("ddpmseg"), **content}
    with atomic_write(path) as unfinished:
        unfinished.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read_record(path: Path, remedy: str) -> dict[str, Any]:
    """Read the content that `write_record` wrote.

    Raises ConfigError if the file cannot be read or is no record (`remedy` is then the last
    sentence of the message), and if its format is later than this program's.
    """
    with explain_damage(path, remedy):
        record = read_object(path)
        written_in, package = int(record.pop("format", 0)), record.pop("package", "0.1")
    if written_in > FORMAT:
        raise ConfigError(
            f"'{path}' is in format {written_in} of ddpmseg {package}; this is ddpmseg "
            f"{version('ddpmseg')}, which reads formats up to {FORMAT}. Use that version, or "
            "another folder."
        )
    return record
