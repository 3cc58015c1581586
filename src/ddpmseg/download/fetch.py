"""One file from the web: resumed where it broke off, checked, in its place whole or not at all."""

import logging
import re
import time
from pathlib import Path

from ddpmseg.download.origin import Origin, checked_sha256, origin_path, read_origin, write_origin
from ddpmseg.download.partial import PartialFile
from ddpmseg.download.transfer import (
    BrokenOffError,
    ChangedError,
    Source,
    by_hand,
    disk_trouble,
    request_lacking,
)
from ddpmseg.errors import DownloadError
from ddpmseg.io.files import file_sha256
from ddpmseg.io.locks import FolderLocks

log = logging.getLogger(__name__)

WAITS = (1.0, 4.0, 15.0)
"""Seconds before a transfer that broke off is resumed, each once."""


def fetch(source: Source, place: Path) -> None:
    """Bring the file to `place`; one that is there already is only checked.

    What has arrived of a transfer that broke off stays in `place`.part, and the next call goes on
    from there if the server still has the same file. Of several processes one fetches.

    Raises DownloadError naming what is in the way and the way round, `source.wrong` for a file
    whose digest is not the expected one.
    """
    if not re.match("https?://", source.url):
        raise DownloadError(
            f"`{source.group}.url={source.url}` must begin with http:// or https://. A file on "
            f"this machine belongs at '{place}'."
        )
    with disk_trouble(place, None):
        place.parent.mkdir(parents=True, exist_ok=True)
        with FolderLocks(place.parent).hold({place.name: f"'{place}' is being fetched"}):
            if place.exists():
                checked_sha256(place, source.sha256, source.wrong)
                return
            part = PartialFile(place)
            _transfer(source, part)
            _settle(source, part)


def _transfer(source: Source, part: PartialFile) -> None:
    """Fill `part`; what breaks off is resumed once after each of `WAITS`."""
    waits = iter(WAITS)
    while True:
        try:
            request_lacking(source, part)
            return
        except ChangedError:
            log.warning("%s has changed meanwhile: beginning anew", source.url)
            part.remove()
        except BrokenOffError as cut:
            state = part.state(source.url)
            there = f"{part.size:,} bytes"
            if state and state.size is not None:
                there = f"{part.size:,} of {state.size:,} bytes"
            wait = next(waits, None)
            if wait is None:
                raise DownloadError(
                    f"the transfer of {source.url} broke off {len(WAITS) + 1} times ({cut}). "
                    f"{there} are in '{part.path}'; `{source.command}` goes on from there. "
                    + by_hand(source, part.place)
                ) from cut
            log.warning("the transfer broke off (%s) with %s: resuming in %g s", cut, there, wait)
            time.sleep(wait)


def _settle(source: Source, part: PartialFile) -> None:
    """Check what has arrived and put it into its place, its record first."""
    digest, earlier, expected = file_sha256(part.path), read_origin(part.place), None
    if source.sha256:
        expected, says = source.sha256.lower(), "as the setting says"
        remedy = f"set `{source.group}.sha256` to the new digest"
    elif earlier and earlier.url == source.url:
        expected, says = earlier.sha256, "as it was before"
        remedy = f"remove '{origin_path(part.place)}'"
    if expected and digest != expected:
        size = part.size
        part.remove()
        raise source.wrong(
            f"{source.url} gave another file than expected ({size:,} bytes): its SHA-256 is "
            f"{digest}, expected was {expected}, {says}. It was not kept. Repeat "
            f"`{source.command}` in case the transfer was at fault; if the file has changed on "
            f"purpose, {remedy}."
        )
    write_origin(part.place, Origin(source.url, digest, part.size))
    part.move_into_place()
    log.info("SHA-256 %s (%s)", digest, "as expected" if expected else "recorded for later")
