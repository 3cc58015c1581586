"""Corrupted versions of a split on disk, so that every method sees the same pixels.

A version is a folder of PNG files and a manifest. Its name is made of all that decides the pixels:
those of the clean images and their names, type, severity, seed, and the libraries that draw.
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
from ddpmseg.io.files import folder_written_whole, told_when_unwritable, written_whole
from ddpmseg.io.locks import FolderLocks

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
ADVICE = "Make room, or name another --cache-dir, and repeat the command: what is finished is kept."


class CorruptedVersions:
    """The versions of one split below `folder`, for several processes at once.

    Args:
        clean: the images as they are; read completely, their masks are those of every version.
        role: 'train' or 'test', which names an image together with its name in the split.
        seed: draws whatever a corruption draws.

    Attributes:
        images: SHA-256 of the pixels of every clean image, by name.
        sha256: of all clean pixels and labels, in order.
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
        """All that decides the pixels of a version."""
        return {
            "format": FORMAT,
            **asdict(corruption),
            "seed": self.seed,
            "role": self.role,
            "libraries": self.libraries,
            "clean": self.images,
        }

    def place(self, corruption: Corruption) -> Path:
        """The folder of a version, whether it is there or not."""
        text = json.dumps(self.request(corruption), sort_keys=True)
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:16]

    def version(self, corruption: Corruption) -> "CorruptedSplit":
        """The images of a version, drawn unless they are there; while another process draws them,
        this one waits.

        Raises DataError where the folder cannot be written to, ConfigError as `corrupt`.
        """
        place = self.place(corruption)
        locks = {place.name[:2]: f"'{place}' is being drawn"}
        with told_when_unwritable(self.folder, ADVICE):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locks.hold(locks):
                digests = self._listed(place)
                if digests is None:
                    digests = self._draw(place, corruption)
        return CorruptedSplit(self, corruption, place, digests)

    def pixels(self, index: int) -> Pixels:
        """A clean image."""
        return _pixels(self.clean[index])

    def draw(self, index: int, corruption: Corruption) -> Pixels:
        """An image of a version, whatever is on the disk."""
        name = f"{self.role}/{self.clean.names[index]}"
        return corrupt(self.pixels(index), corruption, self.seed, name)

    def replace(self, path: Path, pixels: Pixels) -> None:
        """Write an image of a version in the place of one that is damaged."""
        with (
            told_when_unwritable(self.folder, ADVICE),
            self._locks.hold({path.parent.name[:2]: ""}),
            written_whole(path, durable=False) as unfinished,
        ):
            Image.fromarray(pixels).save(unfinished, format="png")

    def _listed(self, place: Path) -> dict[str, str] | None:
        """SHA-256 of the pixels of every image of a version; None where they have to be drawn."""
        try:
            images = json.loads((place / MANIFEST).read_text(encoding="utf-8"))["images"]
            if set(images) == set(self.images):
                return images
            problem = "it lists other images"
        except FileNotFoundError:
            if not place.exists():
                return None
            problem = "it is not there"
        except (ValueError, KeyError, TypeError) as error:
            problem = str(error)
        log.warning("'%s' is damaged (%s): its images are drawn again", place / MANIFEST, problem)
        return None

    def _draw(self, place: Path, corruption: Corruption) -> dict[str, str]:
        # The lock is held: nobody uses what an interrupted process left, or a damaged version.
        for left in (place, *self.folder.glob(f".{place.name}.*.tmp")):
            shutil.rmtree(left, ignore_errors=True)
        digests = {}
        # Not durable: an image that a power cut leaves incomplete is not as listed.
        with folder_written_whole(place, durable=False) as unfinished:
            for index, name in enumerate(self.clean.names):
                pixels = self.draw(index, corruption)
                Image.fromarray(pixels).save(unfinished / f"{name}.png")
                digests[name] = _digest(pixels)
            content = self.request(corruption) | {"images": digests}
            (unfinished / MANIFEST).write_text(json.dumps(content, indent=1), encoding="utf-8")
        return digests


class CorruptedSplit(LabelledSplit):
    """The images of a version with the masks of the clean ones: where things are is not moved, not
    even by elastic_transform.

    An image that is not as listed is drawn and written again. Raises DataError, when the image is
    asked for, where that gives other pixels than the list says.
    """

    def __init__(
        self,
        versions: CorruptedVersions,
        corruption: Corruption,
        place: Path,
        digests: dict[str, str],
    ) -> None:
        super().__init__(versions.clean.names)
        self.versions, self.corruption = versions, corruption
        self.place, self.digests = place, digests

    def _sample(self, index: int) -> Sample:
        clean = self.versions.clean[index]
        pixels = torch.from_numpy(self._image(index).transpose(2, 0, 1).copy())
        return Sample(pixels, clean.mask, clean.name)

    def _image(self, index: int) -> Pixels:
        name = self.names[index]
        path = self.place / f"{name}.png"
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
                f"'{path}' is damaged, and this machine draws other pixels than the list in "
                f"'{self.place / MANIFEST}' says. Remove the folder '{self.place}' and repeat the "
                "command."
            )
        self.versions.replace(path, pixels)
        return pixels


def _pixels(sample: Sample) -> Pixels:
    return np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())


def _digest(pixels: Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
