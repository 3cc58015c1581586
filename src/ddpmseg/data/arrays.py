"""Labelled images that a Python program holds in memory."""

from collections.abc import Sequence

from ddpmseg.data.class_table import ClassTable
from ddpmseg.data.labelled import LabelledSplit, Sample


class HeldSamples(LabelledSplit):
    """Samples that are in memory already."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        super().__init__(sample.name for sample in samples)
        self.samples = tuple(samples)

    def _sample(self, index: int) -> Sample:
        return self.samples[index]


class LabelledArrays:
    """A dataset of samples in memory. `test` may be empty where nothing is tested."""

    def __init__(
        self,
        name: str,
        classes: ClassTable,
        image_size: int,
        train: Sequence[Sample],
        test: Sequence[Sample] = (),
    ) -> None:
        self.name, self.classes, self.image_size = name, classes, image_size
        self.train: LabelledSplit = HeldSamples(train)
        self.test: LabelledSplit = HeldSamples(test)
