"""Known digests of labelled folders: of whole splits, and of single files.

The package ships digests of the splits of the paper's six sets (`known/splits.yaml`), and of every
file of two of them. `unpack_folder` lists the files of any set beside its folder, in the format of
`sha256sum`.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import yaml

from ddpmseg.errors import DataError
from ddpmseg.io.files import atomic_write, file_sha256
from ddpmseg.io.text_file import read_text


@dataclass(frozen=True)
class SplitDigest:
    """Number of pairs in a split of the paper, and the digests of its masks and images."""

    pairs: int
    masks: str
    images: str


@dataclass(frozen=True)
class FileDigests:
    """Path below `root` -> SHA-256 of the file, or its first digits; `source` names the list."""

    source: str
    sha256: Mapping[str, str]

    @classmethod
    def of(cls, root: Path) -> "FileDigests":
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        return cls(
            str(root), {path.relative_to(root).as_posix(): file_sha256(path) for path in paths}
        )

    def below(self, folder: str) -> "FileDigests":
        """Digests of the files directly in `folder`, by name."""
        split = {
            path.removeprefix(f"{folder}/"): digest
            for path, digest in self.sha256.items()
            if path.rpartition("/")[0] == folder
        }
        return FileDigests(self.source, split)


def split_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the name and the bytes of every file, in sorted order of names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def known_splits(name: str) -> dict[str, SplitDigest]:
    """Folder -> split for a set of the paper; empty for any other set."""
    content = yaml.safe_load((_folder() / "splits.yaml").read_text(encoding="utf-8"))
    return {folder: SplitDigest(**entry) for folder, entry in content.get(name, {}).items()}


def known_files(name: str, root: Path) -> FileDigests | None:
    """Digests of single files: shipped for the set, or from the list beside `root`, or None.

    Raises DataError for a list that cannot be read.
    """
    shipped, manifest = _folder() / f"{name}.sha256", manifest_path(root)
    if shipped.is_file():
        return _read(shipped, "the paper's copy")
    if manifest.is_file():
        return _read(manifest, f"'{manifest}', written when it was unpacked")
    return None


def manifest_path(root: Path) -> Path:
    return root.with_name(f"{root.name}.sha256")


def write_manifest(root: Path, digests: FileDigests) -> None:
    """Write the list of files beside `root`, for `sha256sum --check` in that folder."""
    with atomic_write(manifest_path(root)) as unfinished:
        unfinished.write_text(
            "".join(f"{digest}  {root.name}/{path}\n" for path, digest in digests.sha256.items()),
            encoding="utf-8",
        )


def _read(path: Path, source: str) -> FileDigests:
    digests = {}
    for number, line in enumerate(read_text(path, "list of digests", DataError).splitlines(), 1):
        digest, separator, name = line.partition("  ")
        if not separator or not set(digest) <= set("0123456789abcdef"):
            raise DataError(
                f"line {number} of '{path}' is no digest and name: {line!r}. Remove the file to go "
                "without it."
            )
        digests[name.partition("/")[2]] = digest
    return FileDigests(source, digests)


def _folder() -> Path:
    return Path(str(files("ddpmseg") / "data" / "known"))
