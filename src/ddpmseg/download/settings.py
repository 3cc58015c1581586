"""How the files of a dataset or a backbone come to be where they are looked for."""

from dataclasses import dataclass, fields


@dataclass
class DownloadConfig:
    """How files come to be where a part looks for them: settings of a group, not of the part."""

    download: bool = False
    """Fetch what is not there yet at the first use."""
    url: str | None = None
    """Of a .tar archive (dataset) or of the weight file (backbone); null: none is known."""
    sha256: str | None = None
    """64 hex digits of that file; null: those of the first download count from then on."""
    terms: str | None = None
    """Under which it may be used; told before the first byte is fetched."""


TRANSFER = tuple(field.name for field in fields(DownloadConfig))
"""Settings of a group, not of the part it builds."""
