"""Datasets and weights from where their authors publish them: on request, or at the first use."""

import hashlib
import logging
import re
from pathlib import Path

from ddpmseg.composition.build import cache_folder, weight_file
from ddpmseg.config import (
    BackboneConfig,
    DatasetConfig,
    DownloadConfig,
    FolderDatasetConfig,
    PathsConfig,
    WeightsConfig,
)
from ddpmseg.data.dataset_archive import holds_something, unpack_folder
from ddpmseg.download.fetch import Source, fetch
from ddpmseg.errors import CheckpointError, ConfigError, DataError
from ddpmseg.weights.read import BUNDLED, HUB, RANDOM

log = logging.getLogger(__name__)


def get_dataset(dataset: DatasetConfig, paths: PathsConfig) -> None:
    """Fetch the archive that holds a dataset and unpack its folder as `dataset.root`.

    The archive stays below `paths.cache_dir`: another set of it needs no transfer. A folder that is
    there already stays as it is. Raises ConfigError where nothing can be fetched, DownloadError and
    DataError as `fetch` and `unpack_folder`.
    """
    if not isinstance(dataset, FolderDatasetConfig):
        raise ConfigError(f"`dataset={dataset.name}` is drawn when asked for: nothing to fetch.")
    source = _source(dataset)
    root = Path(dataset.root).expanduser()
    if holds_something(root):
        log.info(
            "'%s' is there already; `%s` verifies it. To fetch it anew, take it away first.",
            *(root, command("check", dataset)),
        )
        return
    archive = _archive(source.url, paths)
    if not archive.is_file():
        _tell(dataset, archive)
    fetch(source, archive)
    unpack_folder(archive, dataset.name, root)
    log.info("'%s' unpacked; `%s` verifies it.", root, command("check", dataset))


def get_weights(backbone: BackboneConfig) -> None:
    """Fetch `backbone.checkpoint`; a file that is there already is checked.

    Raises ConfigError where nothing can be fetched, DownloadError and CheckpointError as `fetch`.
    """
    if isinstance(backbone, WeightsConfig) and backbone.checkpoint == HUB:
        log.info("'%s' is there, in the cache of the hub's client.", weight_file(backbone))
        return
    if not isinstance(backbone, WeightsConfig) or _needs_no_file(backbone):
        raise ConfigError(f"`backbone={backbone.name}` needs no weight file: nothing to fetch.")
    source = _source(backbone)
    place = Path(backbone.checkpoint).expanduser()
    there = place.is_file()
    if not there:
        _tell(backbone, place)
    fetch(source, place)
    log.info("'%s' is there%s.", place, " already, and as expected" if there else "")


def fetch_missing(
    dataset: DatasetConfig, backbone: BackboneConfig | None, paths: PathsConfig
) -> None:
    """Fetch what a run needs, has not got, and may fetch; raises as the two functions above.

    `backbone` is None for a run that reads none.
    """
    if comes_at_first_use(dataset):
        get_dataset(dataset, paths)
    if backbone is not None and comes_at_first_use(backbone):
        get_weights(backbone)


def comes_at_first_use(part: DatasetConfig | BackboneConfig) -> bool:
    """Whether its files are not there yet, and `download` allows to fetch them.

    Raises ConfigError where they could not be fetched.
    """
    if not isinstance(part, DownloadConfig) or not part.download:
        return False
    if isinstance(part, FolderDatasetConfig):
        missing = not holds_something(Path(part.root).expanduser())
    else:
        assert isinstance(part, WeightsConfig)
        missing = not _needs_no_file(part) and not Path(part.checkpoint).expanduser().is_file()
    if missing:
        _source(part)
    return missing


def how_to_get(part: FolderDatasetConfig | WeightsConfig) -> str:
    """A sentence to follow the message that its files are missing; empty without a URL."""
    if part.url is None or (isinstance(part, WeightsConfig) and _needs_no_file(part)):
        return ""
    return (
        f" `{command('get', part)}` fetches it (add the `{_group(part)}.*` settings given here), "
        f"and so does this command with `{_group(part)}.download=true`."
    )


def command(action: str, part: FolderDatasetConfig | WeightsConfig) -> str:
    """The command line that does `action`, 'get' or 'check', for a part."""
    noun = "data" if isinstance(part, FolderDatasetConfig) else "weights"
    return f"ddpmseg {noun} {action} {part.name}"


def _source(part: FolderDatasetConfig | WeightsConfig) -> Source:
    """Raises ConfigError for a URL that is not given and a digest that is none."""
    group = _group(part)
    if part.url is None:
        raise ConfigError(
            f"`{group}.url` is null: nothing is known to fetch for '{part.name}'. Give a URL, or "
            "put the files in their place yourself."
        )
    if part.sha256 is not None and not re.fullmatch("[0-9A-Fa-f]{64}", part.sha256):
        raise ConfigError(f"`{group}.sha256={part.sha256}`: must be 64 hex digits, or null.")
    wrong = DataError if isinstance(part, FolderDatasetConfig) else CheckpointError
    return Source(part.url, part.sha256, group, command("get", part), wrong)


def _group(part: FolderDatasetConfig | WeightsConfig) -> str:
    return "dataset" if isinstance(part, FolderDatasetConfig) else "backbone"


def _archive(url: str, paths: PathsConfig) -> Path:
    """Where an archive is kept: archives of several mirrors share a name, but not a folder."""
    folder = cache_folder(paths, "downloads") / hashlib.sha256(url.encode()).hexdigest()[:8]
    return folder / (url.partition("?")[0].rstrip("/").rpartition("/")[2] or "archive.tar")


def _needs_no_file(backbone: WeightsConfig) -> bool:
    """Or none that is fetched here: that of a hub comes by its own client."""
    return backbone.checkpoint in (RANDOM, HUB) or backbone.checkpoint.startswith(BUNDLED)


def _tell(part: FolderDatasetConfig | WeightsConfig, place: Path) -> None:
    log.info("terms of '%s': %s", part.name, part.terms or "none are known; ask its source")
    log.info("fetching %s to '%s'", part.url, place)
