"""One request for what a file from the web lacks, with whatever can be in its way."""

import errno
import logging
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from ddpmseg.download.partial import FileState, PartialFile
from ddpmseg.errors import DownloadError, UserError

log = logging.getLogger(__name__)

TIMEOUT = 60.0
"""Seconds of silence after which a transfer counts as broken off."""
CHUNK = 2**20
PAGE_TYPES = ("text/html", "application/xhtml+xml")
PAGE = re.compile(rb"\s*<(!doctype|html|head|body|\?xml)", re.IGNORECASE)
"""How a page begins that a server sends in the place of a file, whatever type it claims."""


@dataclass(frozen=True)
class Source:
    """A file on the web, and what messages say about it.

    Args:
        url: http or https.
        sha256: 64 hex digits the file must have; None: those recorded when `url` was fetched
            before, or any the first time.
        group: of the settings `url` and `sha256`: 'dataset' or 'backbone'.
        command: repeats the download.
        wrong: raised for a file of other content than expected.
    """

    url: str
    sha256: str | None
    group: str
    command: str
    wrong: type[UserError]


class ChangedError(Exception):
    """What has arrived is no beginning of what the server has now."""


class BrokenOffError(Exception):
    """The connection ended before the file did."""


def request_lacking(source: Source, part: PartialFile) -> None:
    """One request for all that is lacking. Raises ChangedError, BrokenOffError, DownloadError."""
    state = part.state(source.url)
    arrived = part.size if state else 0
    if state and arrived == state.size:
        return
    request = Request(source.url, headers={"User-Agent": "ddpmseg", "Accept-Encoding": "identity"})
    if state:
        request.add_header("Range", f"bytes={arrived}-")
        if state.validator:
            request.add_header("If-Range", state.validator)
    with _opened(request, source, part) as response:
        found = _described(response, source.url)
        if response.headers.get_content_type() in PAGE_TYPES:
            raise _no_file(source, part)
        if response.status == 206:
            begins = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if not state:
                raise BrokenOffError("the server sent a part without being asked for one")
            if not begins or int(begins[1]) != arrived or not found.agrees(state):
                raise ChangedError
            found = found if state.size is None else state
        elif state:
            log.warning("%s has changed, or cannot be resumed: beginning anew", source.url)
            arrived = 0
        _check_space(found.size, arrived, part)
        _receive(response, source, part, found, arrived)
    if found.size is not None and part.size < found.size:
        raise BrokenOffError("the connection ended early")


def _receive(
    response: HTTPResponse, source: Source, part: PartialFile, found: FileState, arrived: int
) -> None:
    """Append to `part` what comes, after `arrived` bytes that are there."""
    chunk = _read(response)
    if not arrived:
        if PAGE.match(chunk) or found.size == 0:
            raise _no_file(source, part)
        part.begin(found)
    bar = tqdm(
        total=found.size,
        initial=arrived,
        desc=part.place.name,
        unit="B",
        unit_scale=True,
        disable=not sys.stderr.isatty(),
    )
    lacking = None if found.size is None else found.size - arrived
    with bar, disk_trouble(part.place, lacking), part.path.open("ab") as file:
        while chunk:
            file.write(chunk)
            bar.update(len(chunk))
            chunk = _read(response)


@contextmanager
def _opened(request: Request, source: Source, part: PartialFile) -> Iterator[HTTPResponse]:
    """The answer to a request. Raises what `request_lacking` does."""
    try:
        response = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        with error:
            if error.code == 416 and request.has_header("Range"):
                raise ChangedError from error
            meaning = {404: "there is no such file", 410: "there is no such file any more"}
            raise DownloadError(
                f"{source.url}: {meaning.get(error.code, 'the server refuses it')} (status "
                f"{error.code}). {by_hand(source, part.place)}"
            ) from error
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if request.has_header("Range") or isinstance(error, ConnectionResetError):
            raise BrokenOffError(str(reason)) from error
        raise DownloadError(
            f"{source.url} cannot be reached ({reason}); is this machine offline, or are "
            f"downloads blocked? {by_hand(source, part.place)}"
        ) from error
    with response:
        yield response


def _described(response: HTTPResponse, url: str) -> FileState:
    length = response.headers.get("Content-Length")
    size = int(length) if length and length.isdecimal() else None
    if response.status == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        size = int(total) if total.isdecimal() else None
    return FileState(url, size, response.headers.get("ETag"), response.headers.get("Last-Modified"))


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, HTTPException) as error:
        raise BrokenOffError(str(error) or type(error).__name__) from error


def _no_file(source: Source, part: PartialFile) -> DownloadError:
    return DownloadError(
        f"{source.url} gave a web page, or nothing, instead of a file: perhaps a login, or a "
        f"notice that the file has moved. {by_hand(source, part.place)}"
    )


def _check_space(size: int | None, arrived: int, part: PartialFile) -> None:
    if size is None:
        return
    free = shutil.disk_usage(part.place.parent).free
    if size - arrived > free:
        raise _too_little_space(part.place, size - arrived, free)


def _too_little_space(place: Path, needed: int | None, free: int) -> DownloadError:
    return DownloadError(
        f"no space left for '{place}': {_bytes(needed)} bytes are needed, {free:,} are free. Make "
        "room and repeat the command, or choose a folder on another disk."
    )


@contextmanager
def disk_trouble(place: Path, needed: int | None) -> Iterator[None]:
    """Tell of a disk that is full or may not be written to as DownloadError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(place.parent).free
            raise _too_little_space(place, needed, free) from error
        raise DownloadError(
            f"'{place}' cannot be written ({error}). Choose a folder that can be written to."
        ) from error


def _bytes(number: int | None) -> str:
    return "an unknown number of" if number is None else f"{number:,}"


def by_hand(source: Source, place: Path) -> str:
    return (
        f"Set `{source.group}.url` to a mirror, or fetch the file by other means and put it at "
        f"'{place.absolute()}'."
    )
