"""One folder out of a tar archive that nobody has reason to trust."""

import errno
import gzip
import lzma
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from ddpmseg.data.digests import FileDigests, write_manifest
from ddpmseg.errors import DataError
from ddpmseg.io.locks import FolderLocks


def holds_something(folder: Path) -> bool:
    """Whether there is such a folder and it is not empty."""
    return folder.is_dir() and any(folder.iterdir())


def unpack_folder(archive: Path, name: str, root: Path) -> None:
    """Unpack the folder `name` of `archive` as `root`, whole or not at all.

    The folder may lie at the top of the archive or one level below; the rest is left where it is.
    Beside `root` appears the list of its files and their digests, see `ddpmseg.data.digests`. A
    `root` that holds something already stays as it is.

    Raises DataError for an archive that is damaged, lacks the folder, or holds anything that could
    end up elsewhere: a path that leaves the archive, a link, a device. Nothing is then unpacked.
    """
    root = root.expanduser().resolve()
    unfinished = root.with_name(f".{root.name}.tmp")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with FolderLocks(root.parent).hold({root.name: f"'{root}' is being unpacked"}):
            if holds_something(root):
                return
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            try:
                _unpack(archive, name, unfinished)
                write_manifest(root, FileDigests.of(unfinished))
                unfinished.replace(root)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(
            f"archive '{archive}' is damaged or no tar archive ({error}). Remove it and repeat the "
            "command to fetch it again."
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _too_little_space(root, None) from error
        raise DataError(f"'{archive}' cannot be unpacked to '{root}': {error}.") from error


def _unpack(archive: Path, name: str, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        # The checksum of a compressed archive lies behind the last member.
        while tar.fileobj and tar.fileobj.read(2**20):
            pass
        for member in members:
            _check_member(member, archive)
        places = _places(name, members)
        if len(places) != 1:
            raise DataError(
                f"archive '{archive}' has {len(places) or 'no'} folder{'s' * (len(places) > 1)} "
                f"'{name}' with files, its folders are {', '.join(_folders(members)) or 'none'}. "
                "Set `dataset.name` to one of them, or `dataset.url` to the archive that holds it."
            )
        chosen = [
            (member, _path(member).relative_to(places[0]).as_posix())
            for member in members
            if member.isfile() and _path(member).is_relative_to(places[0])
        ]
        needed = sum(member.size for member, _ in chosen)
        if needed > shutil.disk_usage(folder).free:
            raise _too_little_space(folder, needed)
        for member, inside in chosen:
            # The filter takes away what permissions and owners could do.
            tar.extract(member.replace(name=inside, deep=False), folder, filter="data")


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


def _places(name: str, members: list[tarfile.TarInfo]) -> list[PurePosixPath]:
    """Where the folder `name` lies: at the top, or else one level below, maybe more than once."""
    parents = {parent for member in members if member.isfile() for parent in _path(member).parents}
    for depth in (1, 2):
        places = sorted(p for p in parents if p.name == name and len(p.parts) == depth)
        if places:
            return places
    return []


def _folders(members: list[tarfile.TarInfo]) -> list[str]:
    parents = {parent for member in members if member.isfile() for parent in _path(member).parents}
    return sorted(str(parent) for parent in parents if 1 <= len(parent.parts) <= 2)


def _too_little_space(folder: Path, needed: int | None) -> DataError:
    free = shutil.disk_usage(folder.parent).free
    amount = "more" if needed is None else f"{needed:,}"
    return DataError(
        f"no space left to unpack '{folder}': {amount} bytes are needed, {free:,} are free. Make "
        "room and repeat the command, or choose another `dataset.root`."
    )
