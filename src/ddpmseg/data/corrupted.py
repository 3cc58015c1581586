"""Corrupted versions of a split on disk, so that every method sees the same pixels.

A version is a folder of PNG files and a manifest. Its name is a digest of everything that decides
the pixels: the clean images and their names, type, severity, seed, and the versions of libraries.
"""

import hashlib
import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddpmseg.data.corruptions import FORMAT, Corruption, Pixels, corrupt, libraries
from ddpmseg.data.images import read_image
from ddpmseg.data.labelled import LabelledSplit, Sample
from ddpmseg.errors import DataError
from ddpmseg.io.damage import DAMAGE, reason_of
from ddpmseg.io.files import atomic_folder, atomic_write, explain_unwritable
from ddpmseg.io.locks import FolderLocks

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
ELSEWHERE = "another `--cache-dir`"


class CorruptedVersions:
    """The versions of one split below `folder`. Several processes may use them at once.

    Args:
        folder: where the versions are stored.
        clean: the original images, which are read completely; every version has their masks.
        role: 'train' or 'test'; identifies an image together with its name in the split.
        seed: seed of the corruptions.

    Attributes:
        images: name -> SHA-256 of the pixels, of every clean image.
        sha256: SHA-256 of all clean pixels and labels, in order.
    """

    def __init__(self, folder: Path, clean: LabelledSplit, role: str, seed: int) -> None:
        self.folder, self.clean, self.role, self.seed = folder, clean, role, seed
        self.images: dict[str, str] = {}
        together = hashlib.sha256()
        for sample in clean:
            pixels = _pixels(sample)
            self.images[sample.name] = _digest(pixels)
            together.update(pixels.data)
            together.update(sample.mask.numpy().tobytes())
        self.sha256 = together.hexdigest()
        self.libraries = libraries()
        self._locks = FolderLocks(folder)

    def request(self, corruption: Corruption) -> dict[str, Any]:
        """Everything that decides the pixels of a version."""
        return {
            "format": FORMAT,
            **asdict(corruption),
            "seed": self.seed,
            "role": self.role,
            "libraries": self.libraries,
            "clean": self.images,
        }

    def path(self, corruption: Corruption) -> Path:
        """The folder of a version, which need not exist."""
        text = json.dumps(self.request(corruption), sort_keys=True)
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:16]

    def version(self, corruption: Corruption) -> "CorruptedSplit":
        """The images of a version. They are drawn if missing, by one process while others wait.

        Raises DataError when the folder cannot be written to, ConfigError as `corrupt`.
        """
        path = self.path(corruption)
        locks = {path.name[:2]: f"'{path}' is being drawn"}
        with explain_unwritable(self.folder, ELSEWHERE):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locks.hold(locks):
                digests = self._read_manifest(path)
                if digests is None:
                    digests = self._draw(path, corruption)
        return CorruptedSplit(self, corruption, path, digests)

    def pixels(self, index: int) -> Pixels:
        """The pixels of a clean image."""
        return _pixels(self.clean[index])

    def draw(self, index: int, corruption: Corruption) -> Pixels:
        """Draw an image of a version, without the disk."""
        name = f"{self.role}/{self.clean.names[index]}"
        return corrupt(self.pixels(index), corruption, self.seed, name)

    def replace(self, path: Path, pixels: Pixels) -> None:
        """Overwrite a damaged image of a version."""
        with (
            explain_unwritable(self.folder, ELSEWHERE),
            self._locks.hold({path.parent.name[:2]: ""}),
            atomic_write(path, durable=False) as unfinished,
        ):
            Image.fromarray(pixels).save(unfinished, format="png")

    def _read_manifest(self, path: Path) -> dict[str, str] | None:
        """Name -> SHA-256 of the pixels, of every image of a version; None if it must be drawn."""
        try:
            images = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["images"]
            if set(images) == set(self.images):
                return images
            problem = "it lists other images"
        except FileNotFoundError:
            if not path.exists():
                return None
            problem = "it is missing"
        except DAMAGE as error:
            problem = reason_of(error)
        log.warning("'%s' is damaged (%s): its images are drawn again", path / MANIFEST, problem)
        return None

    def _draw(self, path: Path, corruption: Corruption) -> dict[str, str]:
        # This process holds the lock, so no other one uses what is damaged.
        shutil.rmtree(path, ignore_errors=True)
        digests = {}
        # Not durable: an image that a power cut leaves incomplete does not match its digest.
        with atomic_folder(path, durable=False) as unfinished:
            for index, name in enumerate(self.clean.names):
                pixels = self.draw(index, corruption)
                Image.fromarray(pixels).save(unfinished / f"{name}.png")
                digests[name] = _digest(pixels)
            content = self.request(corruption) | {"images": digests}
            (unfinished / MANIFEST).write_text(json.dumps(content, indent=1), encoding="utf-8")
        return digests


class CorruptedSplit(LabelledSplit):
    """The images of a version with the masks of the clean images, which no corruption moves.

    An image whose pixels do not match the manifest is drawn and written again. Access raises
    DataError when the new pixels do not match either.
    """

    def __init__(
        self,
        versions: CorruptedVersions,
        corruption: Corruption,
        path: Path,
        digests: dict[str, str],
    ) -> None:
        super().__init__(versions.clean.names)
        self.versions, self.corruption = versions, corruption
        self.path, self.digests = path, digests

    def _sample(self, index: int) -> Sample:
        clean = self.versions.clean[index]
        pixels = torch.from_numpy(self._image(index).transpose(2, 0, 1).copy())
        return Sample(pixels, clean.mask, clean.name)

    def _image(self, index: int) -> Pixels:
        name = self.names[index]
        path = self.path / f"{name}.png"
        try:
            pixels = np.asarray(read_image(path, str(path)))
        except DataError:
            pixels = np.zeros((0, 0, 3), np.uint8)
        if _digest(pixels) == self.digests[name]:
            return pixels
        log.warning("'%s' is damaged: it is drawn again", path)
        pixels = self.versions.draw(index, self.corruption)
        if _digest(pixels) != self.digests[name]:
            raise DataError(
                f"'{path}' is damaged, and this machine draws other pixels than "
                f"'{self.path / MANIFEST}' lists. Remove the folder '{self.path}' and repeat the "
                "command."
            )
        self.versions.replace(path, pixels)
        return pixels


def _pixels(sample: Sample) -> Pixels:
    return np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())


def _digest(pixels: Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
