"""SHA-256 of files, remembered so that large files are not read again."""

import hashlib
import json
import logging
import os
import time
from pathlib import Path

from ddpmseg.errors import DiskError
from ddpmseg.io.damage import DAMAGE, read_object
from ddpmseg.io.files import atomic_write, file_sha256

log = logging.getLogger(__name__)

LARGE = 2**24
"""Files from this size in bytes on are remembered; smaller ones are read in a moment."""
SETTLED_SECONDS = 2.0
"""A file that was written a shorter time ago could still change within the clock's resolution."""


def known_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits, without reading a large file that did not change.

    What is known of a large file lies in `digests/` below $DDPMSEG_CACHE (~/.cache/ddpmseg), by its
    path, with its size, times and inode. Where that folder cannot be used, the file is read.
    """
    facts = path.stat()
    if facts.st_size < LARGE:
        return file_sha256(path)
    signature = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, facts.st_dev]
    record = _folder() / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    try:
        known = read_object(record)
        if known["signature"] == signature and len(bytes.fromhex(known["sha256"])) == 32:
            return known["sha256"]
    except DAMAGE:
        pass  # unknown, or damaged: both mean reading the file
    digest = file_sha256(path)
    if time.time() - max(facts.st_mtime, facts.st_ctime) > SETTLED_SECONDS:
        _remember(record, {"signature": signature, "sha256": digest})
    return digest


def _remember(record: Path, content: dict[str, object]) -> None:
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(record, durable=False) as unfinished:
            unfinished.write_text(json.dumps(content), encoding="utf-8")
    except (OSError, DiskError) as error:
        log.debug("digests are not remembered in '%s': %s", record.parent, error)


def _folder() -> Path:
    return Path(os.environ.get("DDPMSEG_CACHE") or "~/.cache/ddpmseg").expanduser() / "digests"
