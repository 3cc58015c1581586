"""How the files of a dataset or a backbone come to be where they are looked for."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ddpmseg.errors import ConfigError, UserError
from ddpmseg.settings import PartConfig

if TYPE_CHECKING:
    from ddpmseg.download.fetch import Source

log = logging.getLogger(__name__)


@dataclass
class DownloadConfig(PartConfig):
    """Where the files of a part are fetched from: settings of the group, not of what it builds.

    Class attributes: `noun`, what the command line calls such files; `damaged`, raised where a file
    is not the expected one.
    """

    noun: ClassVar[str]
    damaged: ClassVar[type[UserError]]

    download: bool = False
    """Fetch what is not there yet at the first use."""
    url: str | None = None
    """Of a .tar archive (dataset) or of the weight file (backbone); null: none is known."""
    sha256: str | None = None
    """64 hex digits of that file; null: those of the first download count from then on."""
    terms: str | None = None
    """Under which it may be used; shown before the first byte is fetched."""

    def arguments(self) -> dict[str, Any]:
        return {k: value for k, value in super().arguments().items() if k not in TRANSFER}

    def will_fetch(self) -> bool:
        """See `PartConfig.will_fetch`. Raises ConfigError where nothing could be fetched."""
        if not self.download or self.missing() is None:
            return False
        self.source()
        return True

    def source(self) -> "Source":
        """What to fetch. Raises ConfigError without a URL and for a malformed digest."""
        from ddpmseg.download.fetch import Source

        if self.url is None:
            raise ConfigError(
                f"`{self.group}.url` is null: nothing is known to fetch for '{self.name}'. Give a "
                "URL, or put the files in their place yourself."
            )
        if self.sha256 is not None and not re.fullmatch("[0-9A-Fa-f]{64}", self.sha256):
            raise ConfigError(
                f"`{self.group}.sha256={self.sha256}`: must be 64 hex digits, or null."
            )
        return Source(self.url, self.sha256, self.group, self.command("get"), self.damaged)

    def command(self, action: str) -> str:
        """The command line that does `action`, 'get' or 'check', for this part."""
        return f"ddpmseg {self.noun} {action} {self.name}"

    def how_to_get(self) -> str:
        """A sentence to follow the message that files are missing; empty without a URL."""
        if self.url is None:
            return ""
        return (
            f" `{self.command('get')}` fetches it (add the `{self.group}.*` settings given here), "
            f"and so does this command with `{self.group}.download=true`."
        )

    def log_terms(self, target: Path) -> None:
        log.info("terms of '%s': %s", self.name, self.terms or "none are known; ask its source")
        log.info("fetching %s to '%s'", self.url, target)


TRANSFER = tuple(
    field.name for field in fields(DownloadConfig) if field.name not in ("_target_", "name")
)
"""Settings of a group, not of the part it builds."""


def fetch_missing(parts: Iterable[PartConfig], downloads: Path) -> None:
    """Fetch what is missing of each part and may be fetched; raises as `PartConfig.fetch`."""
    for part in parts:
        if part.will_fetch():
            part.fetch(downloads)
