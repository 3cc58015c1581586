"""Reads every labelled image once, before anything expensive starts."""

import hashlib
import json
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from ddpmseg.data.class_table import ClassTable
from ddpmseg.data.labelled import LabelledSet, LabelledSplit
from ddpmseg.data.settings import DatasetConfig


@dataclass(frozen=True, eq=False)
class Survey:
    """Digest and class counts of a set.

    `sha256` covers all pixels and labels of both splits, in order. `train_pixels` and `test_pixels`
    count the pixels of every class.
    """

    sha256: str
    train_pixels: Int64[Tensor, " k"]
    test_pixels: Int64[Tensor, " k"]

    def warnings(self, classes: ClassTable) -> list[str]:
        """Sentences about classes that cannot be learnt, and classes that cannot be tested."""
        sentences = []
        averaged = list(classes.averaged)
        for pixels, images, consequence in (
            (self.train_pixels, "training", "cannot be learnt"),
            (
                self.test_pixels,
                "test",
                "counts 0 in miou and, where it is predicted, in miou_present",
            ),
        ):
            absent = [classes.names[label] for label in averaged if pixels[label] == 0]
            if absent:
                names = ", ".join(f"'{name}'" for name in absent)
                each = f"each of them {consequence}" if len(absent) > 1 else f"it {consequence}"
                sentences.append(f"no {images} image holds {names}: {each}")
        return sentences


_KNOWN: dict[tuple[object, ...], "Survey"] = {}


def known_survey(settings: DatasetConfig, dataset: LabelledSet | None = None) -> Survey:
    """The survey of the set of these settings, made once in a process unless its files change.

    dataset: the set, if it is built already. Raises as `survey`.
    """
    dataset = settings.build() if dataset is None else dataset
    files = [split.files() for split in (dataset.train, dataset.test)]
    if any(found is None for found in files):
        return survey(dataset)
    facts = [path.stat() for found in files for path in found or ()]
    classes = json.dumps(dataset.classes.record())
    key = (
        repr(settings),
        classes,
        *((f.st_ino, f.st_size, f.st_mtime_ns, f.st_ctime_ns) for f in facts),
    )
    if key not in _KNOWN:
        _KNOWN[key] = survey(dataset)
    return _KNOWN[key]


def survey(dataset: LabelledSet) -> Survey:
    """Read every image and mask once, so that a damaged one does not end a run after hours.

    Raises DataError for the first that cannot be used.
    """
    digest = hashlib.sha256()
    train, test = (
        _count(split, dataset.classes.num_classes, digest)
        for split in (dataset.train, dataset.test)
    )
    return Survey(digest.hexdigest(), train, test)


def _count(split: LabelledSplit, num_classes: int, digest: "hashlib._Hash") -> Int64[Tensor, " k"]:
    counts = torch.zeros(256, dtype=torch.int64)
    for sample in split:
        digest.update(sample.image.numpy().tobytes())
        digest.update(sample.mask.numpy().tobytes())
        counts += torch.bincount(sample.mask.flatten(), minlength=256)
    return counts[:num_classes]
