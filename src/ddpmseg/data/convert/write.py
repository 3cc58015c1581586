"""Any labelled set as the folder that `dataset=folder` reads."""

from pathlib import Path

import numpy as np
from PIL import Image

from ddpmseg.data.convert.folder import CLASSES, TEST, TRAIN, Split, class_yaml, summary
from ddpmseg.data.labelled import LabelledSet, LabelledSplit


def write_set(dataset: LabelledSet, folder: Path) -> list[str]:
    """Write images, masks and class table below `folder`; returns a summary, as lines of text.

    Images become real/train/NAME.png and real/test/NAME.png at the set's `image_size`, each with
    its labels as NAME.npy (uint8), so that reading them at this size gives the same bytes.
    """
    train = _write_split(folder / TRAIN, dataset.train)
    test = _write_split(folder / TEST, dataset.test)
    table = class_yaml(dataset.classes, train, test)
    (folder / CLASSES).write_text(table, encoding="utf-8")
    return summary(dataset.classes, train, test)


def _write_split(folder: Path, split: LabelledSplit) -> Split:
    folder.mkdir(parents=True)
    pixels, holding = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for sample in split:
        photo = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
        Image.fromarray(photo).save(folder / f"{sample.name}.png")
        mask = sample.mask.numpy()
        np.save(folder / f"{sample.name}.npy", mask)
        found = np.bincount(mask.ravel(), minlength=256)
        pixels += found
        holding += found > 0
    return Split(len(split), (), 0, pixels, holding)
