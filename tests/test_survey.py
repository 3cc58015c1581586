"""One look at a labelled set: its digest, its counts, and what it lacks."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from ddpmseg.data.class_table import ClassTable
from ddpmseg.data.labelled import LabelledSplit, Ponies, Sample
from ddpmseg.data.survey import Survey, survey


class Listed(LabelledSplit):
    def __init__(self, samples: Iterable[Sample]) -> None:
        self.samples = tuple(samples)
        super().__init__(sample.name for sample in self.samples)

    def _sample(self, index: int) -> Sample:
        return self.samples[index]


@dataclass
class ListedSet:
    train: LabelledSplit
    test: LabelledSplit
    classes: ClassTable
    name: str = "listed"
    image_size: int = 4


def table(*names: str, ignore_label: int = 255) -> ClassTable:
    palette = np.zeros((len(names), 3), np.uint8)
    return ClassTable("test", names, palette, ignore_label, None, None)


def some_set(train: list[list[int]], test: list[list[int]], classes: ClassTable) -> ListedSet:
    """Images of 4x4 pixels whose masks are the labels given, then the first of them."""

    def sample(index: int, labels: list[int]) -> Sample:
        flat = torch.tensor(labels + labels[:1] * (16 - len(labels)), dtype=torch.uint8)
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(256, (3, 4, 4), generator=generator, dtype=torch.uint8)
        return Sample(image, flat.view(4, 4), f"image {index}")

    splits = [[sample(i, labels) for i, labels in enumerate(part)] for part in (train, test)]
    return ListedSet(Listed(splits[0]), Listed(splits[1]), classes)


ABC = table("body", "eye", "tail")
TRAIN, TEST = [[0, 1, 2], [0, 2]], [[0, 1], [2]]


def test_pixels_are_counted_by_class_and_split() -> None:
    found = survey(some_set([[0, 1, 2, 255], [0, 2]], TEST, ABC))
    assert found.train_pixels.tolist() == [13 + 15, 1, 2]
    assert found.test_pixels.tolist() == [15, 1, 16]
    assert found.train_pixels.dtype == torch.int64


def test_same_set_same_digest() -> None:
    first, second = (survey(some_set(TRAIN, TEST, ABC)) for _ in range(2))
    assert first.sha256 == second.sha256
    assert len(first.sha256) == 64
    ponies = [survey(Ponies("p", "ponies", 16, num_labelled=1, num_test=n)) for n in (1, 2)]
    assert ponies[0].sha256 != ponies[1].sha256


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("part", ["image", "mask"])
def test_one_pixel_or_label_changes_the_digest(split: str, part: str) -> None:
    data = some_set(TRAIN, TEST, ABC)
    before = survey(data)
    samples = list(getattr(data, split))
    changed = getattr(samples[1], part).clone()
    changed.view(-1)[-1] ^= 1
    samples[1] = replace(samples[1], **{part: changed})
    setattr(data, split, Listed(samples))
    assert survey(data).sha256 != before.sha256


def test_order_of_images_changes_the_digest() -> None:
    data = some_set(TRAIN, TEST, ABC)
    before = survey(data)
    data.train = Listed(reversed(list(data.train)))
    after = survey(data)
    assert after.sha256 != before.sha256
    assert torch.equal(after.train_pixels, before.train_pixels)


def warnings(train: list[list[int]], test: list[list[int]], classes: ClassTable) -> list[str]:
    found: Survey = survey(some_set(train, test, classes))
    return found.warnings(classes)


def test_nothing_to_warn_of() -> None:
    assert warnings(TRAIN, TEST, ABC) == []


def test_classes_that_are_in_no_image() -> None:
    assert warnings([[0, 2]], TEST, ABC) == ["no training image holds 'eye': it cannot be learnt"]
    assert warnings([[0]], [[0, 1]], ABC) == [
        "no training image holds 'eye', 'tail': each of them cannot be learnt",
        "no test image holds 'tail': it counts 0 in miou and, where it is predicted, in "
        "miou_present",
    ]


def test_ignore_label_among_the_classes_is_no_class_to_learn() -> None:
    classes = table("background", "eye", "tail", ignore_label=0)
    assert warnings([[1, 2]], [[1, 2]], classes) == []
