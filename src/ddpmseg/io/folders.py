"""Whether a folder can be written to, found out before there is anything to write."""

import os
from pathlib import Path

from ddpmseg.errors import ConfigError
from ddpmseg.limits import no_path


def check_writable(option: str, given: str | Path) -> None:
    """Raise ConfigError unless files can be written below the folder, which need not exist.

    option: what named the folder, such as `paths.output_dir` or `--output`.
    """
    if not str(given).strip():
        raise ConfigError(f"`{option}=` is empty. Name a folder, or leave it out.")
    if problem := no_path(str(given)):
        raise ConfigError(f"`{option}={str(given)[:60]}...`: {problem}.")
    folder = Path(given)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(
            f"`{option}={folder}`: '{existing}' is not a folder that can be written to. "
            f"Choose another `{option}`."
        )
