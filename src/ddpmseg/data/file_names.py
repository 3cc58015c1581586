"""Names of files: the files below a folder, and names that read alike."""

import os
import unicodedata
from pathlib import Path

from ddpmseg.errors import DataError


def as_read(name: str) -> str:
    """The same text for names that a reader cannot tell apart.

    'é' is one character on most systems, and a letter with an accent on macOS and in its archives.
    """
    return unicodedata.normalize("NFC", name)


def is_hidden(name: str) -> bool:
    """Whether a relative path is no file of the user's, as '__MACOSX/._a.jpg', which macOS adds."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def files_below(folder: Path) -> list[str]:
    """Relative paths, with slashes, of all files below a folder, but for hidden ones.

    Links are followed. Every folder is entered once, by its own path rather than by a link, so
    links in a circle end. Raises DataError for a folder that cannot be read, and for a link that
    leads nowhere.
    """
    found: list[str] = []
    entered: set[tuple[int, int]] = set()
    folders, links = [folder], list[Path]()
    while folders or links:
        current = folders.pop() if folders else links.pop(0)
        try:
            status = current.stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(current) as entries:
                visible = [entry for entry in entries if not is_hidden(entry.name)]
            for entry in sorted(visible, key=lambda entry: entry.name):
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif entry.is_symlink() and path.is_dir():
                    links.append(path)
                elif entry.is_symlink() and not path.exists():
                    raise DataError(
                        f"'{path}' is a link to '{path.readlink()}', which does not exist. "
                        "Restore what it leads to, or remove the link."
                    )
                else:
                    found.append(path.relative_to(folder).as_posix())
        except OSError as error:
            raise DataError(f"the folder '{current}' cannot be read: {error}.") from error
    return found


class AlikeFiles:
    """Finds files by names that read alike, and remembers what folders hold."""

    def __init__(self) -> None:
        self._listings: dict[Path, dict[str, Path]] = {}

    def find(self, path: Path) -> Path | None:
        """The file or folder `path`, or the one whose path reads alike; None if there is none."""
        if path.exists() or path == path.parent:
            return path
        parent = self.find(path.parent)
        if parent is None or not parent.is_dir():
            return None
        if parent not in self._listings:
            self._listings[parent] = {as_read(other.name): other for other in parent.iterdir()}
        return self._listings[parent].get(as_read(path.name))
