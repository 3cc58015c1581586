"""Where a file was fetched from and what it held then: a small record beside it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ddpmseg.errors import DataError, UserError
from ddpmseg.io.files import file_sha256, written_whole


@dataclass(frozen=True)
class Origin:
    """`sha256` in 64 hex digits, `size` in bytes."""

    url: str
    sha256: str
    size: int


def origin_path(file: Path) -> Path:
    return file.with_name(f"{file.name}.origin.json")


def write_origin(file: Path, origin: Origin) -> None:
    with written_whole(origin_path(file)) as unfinished:
        unfinished.write_text(json.dumps(asdict(origin), indent=2) + "\n")


def read_origin(file: Path) -> Origin | None:
    """The record of `file`, which itself need not be there; None where there is no record.

    Raises DataError for one that is damaged.
    """
    path = origin_path(file)
    if not path.is_file():
        return None
    try:
        return Origin(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"'{path}', the record of where '{file.name}' was fetched from, is damaged ({error}). "
            "Remove both and fetch the file again, or remove the record to use the file unchecked."
        ) from error


def checked_sha256(file: Path, expected: str | None, wrong: type[UserError]) -> str:
    """SHA-256 of a file, once it equals `expected` and what was recorded when it was fetched.

    A file that was put there by hand has no record. Raises `wrong` where the digests differ.
    """
    digest, origin = file_sha256(file), read_origin(file)
    if expected and digest != expected.lower():
        raise wrong(
            f"'{file}' is not the file that was asked for: its SHA-256 is {digest}, expected was "
            f"{expected.lower()}. Remove it and fetch it again, or correct `sha256`."
        )
    if origin and digest != origin.sha256:
        raise wrong(
            f"'{file}' has changed since it was fetched from {origin.url}: its SHA-256 is "
            f"{digest}, it was {origin.sha256}. Remove it and fetch it again; if it was changed on "
            f"purpose, remove '{origin_path(file)}'."
        )
    return digest
