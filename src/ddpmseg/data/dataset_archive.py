"""Unpacks one folder of an untrusted tar archive."""

import gzip
import lzma
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from ddpmseg.data.digests import FileDigests, write_manifest
from ddpmseg.errors import DataError
from ddpmseg.io.files import atomic_folder, explain_unwritable
from ddpmseg.io.locks import FolderLocks


def holds_something(folder: Path) -> bool:
    """Whether the folder exists and is not empty."""
    return folder.is_dir() and any(folder.iterdir())


def unpack_folder(archive: Path, name: str, root: Path) -> None:
    """Unpack the folder `name` of `archive` as `root`, atomically.

    The folder lies at the top of the archive or one level below; nothing else is unpacked. A list
    of its files and their digests is written beside `root`, see `ddpmseg.data.digests`. A `root`
    that is not empty stays unchanged.

    Raises DataError for an archive that is damaged, lacks the folder, or holds a path that leaves
    the archive, a link or a device. Nothing is then unpacked.
    """
    root = root.expanduser().resolve()
    try:
        with explain_unwritable(root, "another `dataset.root`"):
            root.parent.mkdir(parents=True, exist_ok=True)
        with FolderLocks(root.parent).hold({root.name: f"'{root}' is being unpacked"}):
            if holds_something(root):
                return
            with atomic_folder(root) as unfinished:
                _unpack(archive, name, unfinished)
                write_manifest(root, FileDigests.of(unfinished))
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(
            f"archive '{archive}' is damaged or no tar archive ({error}). Remove it and repeat the "
            "command to fetch it again."
        ) from error
    except OSError as error:
        raise DataError(f"'{archive}' cannot be unpacked to '{root}': {error}.") from error


def _unpack(archive: Path, name: str, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        # Read to the end: a compressed archive's checksum follows the last member.
        while tar.fileobj and tar.fileobj.read(2**20):
            pass
        for member in members:
            _check_member(member, archive)
        paths = _find_folder(name, members)
        if len(paths) != 1:
            raise DataError(
                f"archive '{archive}' has {len(paths) or 'no'} folder{'s' * (len(paths) > 1)} "
                f"'{name}' with files, its folders are {', '.join(_folders(members)) or 'none'}. "
                "Set `dataset.name` to one of them, or `dataset.url` to the archive that holds it."
            )
        chosen = [
            (member, _path(member).relative_to(paths[0]).as_posix())
            for member in members
            if member.isfile() and _path(member).is_relative_to(paths[0])
        ]
        needed = sum(member.size for member, _ in chosen)
        if needed > shutil.disk_usage(folder).free:
            raise _too_little_space(folder, needed)
        for member, relative in chosen:
            # The filter drops owners and unsafe permissions.
            tar.extract(member.replace(name=relative, deep=False), folder, filter="data")


def _check_member(member: tarfile.TarInfo, archive: Path) -> None:
    path = _path(member)
    reason = None
    if path.is_absolute() or ".." in path.parts:
        reason = "would be written outside the folder"
    elif not (member.isfile() or member.isdir()):
        reason = "is a link, a device or the like, neither file nor folder"
    if reason:
        raise DataError(
            f"'{member.name}' in archive '{archive}' {reason}. Nothing was unpacked: this is not "
            "the archive of the authors, do not use it."
        )


def _path(member: tarfile.TarInfo) -> PurePosixPath:
    return PurePosixPath(member.name)


def _find_folder(name: str, members: list[tarfile.TarInfo]) -> list[PurePosixPath]:
    """Paths of folders called `name` at the top of the archive, or else one level below."""
    parents = {parent for member in members if member.isfile() for parent in _path(member).parents}
    for depth in (1, 2):
        paths = sorted(p for p in parents if p.name == name and len(p.parts) == depth)
        if paths:
            return paths
    return []


def _folders(members: list[tarfile.TarInfo]) -> list[str]:
    parents = {parent for member in members if member.isfile() for parent in _path(member).parents}
    return sorted(str(parent) for parent in parents if 1 <= len(parent.parts) <= 2)


def _too_little_space(folder: Path, needed: int) -> DataError:
    free = shutil.disk_usage(folder.parent).free
    return DataError(
        f"no space left to unpack '{folder}': {needed:,} bytes are needed, {free:,} are free. Make "
        "room and repeat the command, or choose another `dataset.root`."
    )
