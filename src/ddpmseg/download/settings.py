"""The settings that download files of a dataset or a backbone."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ddpmseg.command_line import command
from ddpmseg.errors import ConfigError, UserError
from ddpmseg.settings import PartConfig

if TYPE_CHECKING:
    from ddpmseg.download.fetch import Source

log = logging.getLogger(__name__)


@dataclass
class DownloadConfig(PartConfig):
    """The source of a part's files: settings of the group, not arguments of what it builds.

    Class attributes: `noun`, the command line's name of such files; `damaged`, the error for a file
    that is not the expected one.
    """

    noun: ClassVar[str]
    damaged: ClassVar[type[UserError]]

    download: bool = False
    """Fetch missing files at the first use."""
    url: str | None = None
    """Address of a .tar archive (dataset) or of the weight file (backbone); null: unknown."""
    sha256: str | None = None
    """64 hex digits of that file; null: those of the first download are expected from then on."""
    terms: str | None = None
    """Terms of use, shown before the download begins."""

    def arguments(self) -> dict[str, Any]:
        return {k: value for k, value in super().arguments().items() if k not in TRANSFER}

    def will_fetch(self) -> bool:
        """See `PartConfig.will_fetch`. Raises ConfigError if nothing can be fetched."""
        if not self.download or self.missing() is None:
            return False
        self.source()
        return True

    def source(self) -> "Source":
        """The file to fetch. Raises ConfigError without a URL and for a malformed digest."""
        from ddpmseg.download.fetch import Source

        if self.url is None:
            raise ConfigError(
                f"`{self.group}.url` is null: nothing is known to fetch for '{self.name}'. Give a "
                "URL, or put the files where they belong yourself."
            )
        if self.sha256 is not None and not re.fullmatch("[0-9A-Fa-f]{64}", self.sha256):
            raise ConfigError(
                f"`{self.group}.sha256={self.sha256}`: must be 64 hex digits, or null."
            )
        return Source(self.url, self.sha256, self.group, self.command("get"), self.damaged)

    def command(self, action: str) -> str:
        """The command line of `action`, 'get' or 'check', for this part."""
        return command(self.noun, action, self.name)

    def how_to_get(self) -> str:
        """A sentence that follows the message about missing files; empty without a URL."""
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
    """Fetch the missing files of the parts that allow it. Raises as `PartConfig.fetch`."""
    for part in parts:
        if part.will_fetch():
            part.fetch(downloads)
