"""Fetches files from the web, verifies them, and records where each one comes from."""

import json
import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from ddpmseg.download.transfer import PartialFile, Source, explain_disk_errors, transfer
from ddpmseg.errors import DataError, DownloadError, UserError
from ddpmseg.io.digests import known_sha256
from ddpmseg.io.files import atomic_write, file_sha256
from ddpmseg.io.locks import FolderLocks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """Where a file was fetched from, its SHA-256 in 64 hex digits, its `size` in bytes."""

    url: str
    sha256: str
    size: int


def fetch(source: Source, path: Path) -> None:
    """Fetch a file to `path` atomically; an existing file is only verified.

    The beginning of an interrupted transfer stays in `path`.part. The next call resumes it if the
    server still has the same file. Only one of several processes fetches, the others wait.

    Raises DownloadError for a failed transfer, `source.error` for a file with another digest than
    expected.
    """
    if not re.match("https?://", source.url):
        raise DownloadError(
            f"`{source.group}.url={source.url}` must begin with http:// or https://. A file on "
            f"this machine belongs at '{path}'."
        )
    with explain_disk_errors(path, None):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FolderLocks(path.parent).hold({path.name: f"'{path}' is being fetched"}):
            if path.exists():
                checked_sha256(path, source.sha256, source.error)
                return
            part = PartialFile(path)
            transfer(source, part)
            _finish(source, part)


def _finish(source: Source, part: PartialFile) -> None:
    """Verify the complete file, record its origin and rename it to its target."""
    digest, earlier, expected = file_sha256(part.path), read_origin(part.target), None
    if source.sha256:
        expected, basis = source.sha256.lower(), "as the setting says"
        remedy = f"set `{source.group}.sha256` to the new digest"
    elif earlier and earlier.url == source.url:
        expected, basis = earlier.sha256, "as it was before"
        remedy = f"remove '{origin_path(part.target)}'"
    if expected and digest != expected:
        size = part.size
        part.remove()
        raise source.error(
            f"{source.url} gave another file than expected ({size:,} bytes): its SHA-256 is "
            f"{digest}, expected was {expected}, {basis}. It was not kept. Repeat "
            f"`{source.command}` in case the transfer was at fault; if the file has changed on "
            f"purpose, {remedy}."
        )
    write_origin(part.target, Origin(source.url, digest, part.size))
    part.finish()
    log.info("SHA-256 %s (%s)", digest, "as expected" if expected else "recorded for later")


def origin_path(file: Path) -> Path:
    """Path of the record of a file's origin."""
    return file.with_name(f"{file.name}.origin.json")


def write_origin(file: Path, origin: Origin) -> None:
    with atomic_write(origin_path(file)) as unfinished:
        unfinished.write_text(json.dumps(asdict(origin), indent=2) + "\n", encoding="utf-8")


def read_origin(file: Path) -> Origin | None:
    """The record of `file`, which itself need not exist; None without a record.

    Raises DataError for a damaged record.
    """
    path = origin_path(file)
    if not path.is_file():
        return None
    try:
        return Origin(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"'{path}', the record of where '{file.name}' was fetched from, is damaged ({error}). "
            "Remove both and fetch the file again, or remove the record to use the file unchecked."
        ) from error


def checked_sha256(file: Path, expected: str | None, error: type[UserError]) -> str:
    """SHA-256 of a file; it must equal `expected`, if given, and the record of its origin, if any.

    Raises `error` when the digests differ.
    """
    digest, origin = known_sha256(file), read_origin(file)
    if expected and digest != expected.lower():
        raise error(
            f"'{file}' is not the file that was asked for: its SHA-256 is {digest}, expected was "
            f"{expected.lower()}. Remove it and fetch it again, or correct `sha256`."
        )
    if origin and digest != origin.sha256:
        raise error(
            f"'{file}' has changed since it was fetched from {origin.url}: its SHA-256 is "
            f"{digest}, it was {origin.sha256}. Remove it and fetch it again; if it was changed on "
            f"purpose, remove '{origin_path(file)}'."
        )
    return digest
