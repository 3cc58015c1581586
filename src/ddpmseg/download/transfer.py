"""HTTP transfer of one file, resumed where it was interrupted."""

import errno
import json
import logging
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from ddpmseg.errors import DownloadError, UserError
from ddpmseg.io.files import atomic_write

log = logging.getLogger(__name__)

TIMEOUT = 60.0
"""Seconds without data after which a transfer counts as interrupted."""
WAITS = (1.0, 4.0, 15.0)
"""Seconds before each attempt to resume an interrupted transfer."""
CHUNK = 2**20
PAGE_TYPES = ("text/html", "application/xhtml+xml")
PAGE = re.compile(rb"\s*<(!doctype|html|head|body|\?xml)", re.IGNORECASE)
"""Beginning of a web page that a server sends instead of a file, whatever type it declares."""


@dataclass(frozen=True)
class Source:
    """A file on the web, and how messages describe it.

    Args:
        url: http or https.
        sha256: 64 hex digits that the file must have; None: those recorded when `url` was fetched
            before, or any the first time.
        group: group of the settings `url` and `sha256`: 'dataset' or 'backbone'.
        command: command line that repeats the download.
        error: raised for a file of other content than expected.
    """

    url: str
    sha256: str | None
    group: str
    command: str
    error: type[UserError]


@dataclass(frozen=True)
class FileState:
    """The version of a file that a server has. `size` in bytes; None: unknown."""

    url: str
    size: int | None
    etag: str | None
    modified: str | None

    @property
    def validator(self) -> str | None:
        """Value for If-Range, which accepts no weak ETag (RFC 9110, section 13.1.5)."""
        strong = self.etag and not self.etag.startswith("W/")
        return self.etag if strong else self.modified

    def agrees(self, other: "FileState") -> bool:
        """Whether all fields that both know are equal."""
        mine, others = asdict(self), asdict(other)
        return all(None in (mine[key], others[key]) or mine[key] == others[key] for key in mine)


class PartialFile:
    """The received beginning of the file `target`: `NAME.part`, and its state `NAME.part.json`."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._state_path = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def state(self, url: str) -> FileState | None:
        """The state of a resumable beginning of the file at `url`; None if there is none."""
        try:
            state = FileState(**json.loads(self._state_path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        resumable = state.validator or state.size is not None
        return state if state.url == url and self.size and resumable else None

    def begin(self, state: FileState) -> None:
        self.path.open("wb").close()
        with atomic_write(self._state_path) as unfinished:
            unfinished.write_text(json.dumps(asdict(state)), encoding="utf-8")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Rename the complete file to its target."""
        self.path.replace(self.target)
        self._state_path.unlink(missing_ok=True)


class _ChangedError(Exception):
    """The server has another file now than the one that was begun."""


class _InterruptedError(Exception):
    """The connection ended before the file was complete."""


def transfer(source: Source, part: PartialFile) -> None:
    """Complete `part`; an interrupted transfer is resumed after each of `WAITS`.

    Raises DownloadError.
    """
    waits = iter(WAITS)
    while True:
        try:
            _request_rest(source, part)
            return
        except _ChangedError:
            log.warning("%s has changed meanwhile: beginning anew", source.url)
            part.remove()
        except _InterruptedError as error:
            state = part.state(source.url)
            received = f"{part.size:,} bytes"
            if state and state.size is not None:
                received = f"{part.size:,} of {state.size:,} bytes"
            wait = next(waits, None)
            if wait is None:
                raise DownloadError(
                    f"the transfer of {source.url} broke off {len(WAITS) + 1} times ({error}). "
                    f"{received} are in '{part.path}'; `{source.command}` goes on from there. "
                    + manual_advice(source, part.target)
                ) from error
            log.warning(
                "the transfer broke off (%s) with %s: resuming in %g s", error, received, wait
            )
            time.sleep(wait)


def _request_rest(source: Source, part: PartialFile) -> None:
    """Request the missing bytes. Raises _ChangedError, _InterruptedError and DownloadError."""
    begun = part.state(source.url)
    received = part.size if begun else 0
    if begun and received == begun.size:
        return
    request = Request(source.url, headers={"User-Agent": "ddpmseg", "Accept-Encoding": "identity"})
    if begun:
        request.add_header("Range", f"bytes={received}-")
        if begun.validator:
            request.add_header("If-Range", begun.validator)
    with _open(request, source, part) as response:
        state = _state_of(response, source.url)
        if response.headers.get_content_type() in PAGE_TYPES:
            raise _not_a_file(source, part)
        if response.status == 206:
            content_range = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if not begun:
                raise _InterruptedError("the server sent a part without being asked for one")
            if not content_range or int(content_range[1]) != received or not state.agrees(begun):
                raise _ChangedError
            state = state if begun.size is None else begun
        elif begun:
            log.warning("%s has changed, or cannot be resumed: beginning anew", source.url)
            received = 0
        missing = None if state.size is None else state.size - received
        _check_space(part.target, missing)
        _receive(response, source, part, state, received)
    if state.size is not None and part.size < state.size:
        raise _InterruptedError("the connection ended early")


def _receive(
    response: HTTPResponse, source: Source, part: PartialFile, state: FileState, received: int
) -> None:
    """Append the response to the `received` bytes of `part`."""
    chunk = _read(response)
    if not received:
        if PAGE.match(chunk) or state.size == 0:
            raise _not_a_file(source, part)
        part.begin(state)
    bar = tqdm(
        total=state.size,
        initial=received,
        desc=part.target.name,
        unit="B",
        unit_scale=True,
        disable=not sys.stderr.isatty(),
    )
    missing = None if state.size is None else state.size - received
    with bar, explain_disk_errors(part.target, missing), part.path.open("ab") as file:
        while chunk:
            file.write(chunk)
            bar.update(len(chunk))
            chunk = _read(response)


@contextmanager
def _open(request: Request, source: Source, part: PartialFile) -> Iterator[HTTPResponse]:
    """The response to a request. Raises as `_request_rest`."""
    try:
        response = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        with error:
            if error.code == 416 and request.has_header("Range"):
                raise _ChangedError from error
            meaning = {404: "there is no such file", 410: "there is no such file any more"}
            raise DownloadError(
                f"{source.url}: {meaning.get(error.code, 'the server refuses it')} (status "
                f"{error.code}). {manual_advice(source, part.target)}"
            ) from error
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if request.has_header("Range") or isinstance(error, ConnectionResetError):
            raise _InterruptedError(str(reason)) from error
        raise DownloadError(
            f"{source.url} cannot be reached ({reason}); is this machine offline, or are "
            f"downloads blocked? {manual_advice(source, part.target)}"
        ) from error
    with response:
        yield response


def _state_of(response: HTTPResponse, url: str) -> FileState:
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
        raise _InterruptedError(str(error) or type(error).__name__) from error


def _not_a_file(source: Source, part: PartialFile) -> DownloadError:
    return DownloadError(
        f"{source.url} gave a web page, or nothing, instead of a file: perhaps a login, or a "
        f"notice that the file has moved. {manual_advice(source, part.target)}"
    )


def _check_space(path: Path, needed: int | None) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed is not None and needed > free:
        raise _too_little_space(path, needed, free)


def _too_little_space(path: Path, needed: int | None, free: int) -> DownloadError:
    amount = "an unknown number of" if needed is None else f"{needed:,}"
    return DownloadError(
        f"no space left for '{path}': {amount} bytes are needed, {free:,} are free. Make room and "
        "repeat the command, or choose a folder on another disk."
    )


@contextmanager
def explain_disk_errors(path: Path, needed: int | None) -> Iterator[None]:
    """Turn the OSError of a full or read-only disk into a DownloadError.

    needed: bytes that the block writes to `path`; None: unknown.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free
            raise _too_little_space(path, needed, free) from error
        raise DownloadError(
            f"'{path}' cannot be written ({error}). Choose a folder that can be written to."
        ) from error


def manual_advice(source: Source, path: Path) -> str:
    return (
        f"Set `{source.group}.url` to a mirror, or fetch the file by other means and put it at "
        f"'{path.absolute()}'."
    )
