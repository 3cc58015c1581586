"""The classes of masks, as a Python program names them."""

from collections.abc import Iterable, Sequence
from os import PathLike

import numpy as np

from ddpmseg.data.class_table import ClassTable, load_class_table, read_class_table
from ddpmseg.errors import ConfigError, DataError

IGNORED = 255
"""Label of pixels without a class in tables that are made here."""
Classes = ClassTable | int | Sequence[str] | str | PathLike[str] | None


def class_table(classes: Classes, masks: Iterable[np.ndarray]) -> ClassTable:
    """The table that `classes` describes.

    classes: names in label order; their number; the name of a table that comes with the package, or
        the path of a YAML file like those; a table. None: as many as the masks have labels. Where
        no table says otherwise, label 255 marks pixels without a class.
    masks: integer labels, read only where `classes` is None.

    Raises ConfigError for fewer than two classes or more than 255, for repeated names, and for a
    table that is not there; DataError where the labels of the masks are no classes.
    """
    if isinstance(classes, ClassTable):
        return classes
    if isinstance(classes, str | PathLike):
        return load_class_table(str(classes))
    if classes is None:
        classes = _number_of_labels(masks)
    if isinstance(classes, int):
        classes = [f"class {label}" for label in range(classes)]
    names = list(classes)
    if not 2 <= len(names) <= IGNORED:
        raise ConfigError(
            f"`classes` describes {len(names)} classes; 2 to {IGNORED} are possible, background "
            "included."
        )
    content = {
        "name": "arrays",
        "ignore_label": IGNORED,
        "classes": [{"name": name} for name in names],
    }
    return read_class_table(content, "`classes`")


def _number_of_labels(masks: Iterable[np.ndarray]) -> int:
    """One more than the largest label that is not `IGNORED`, at least two."""
    largest = 1
    for mask in masks:
        labels = mask[mask != IGNORED]
        if labels.size and (labels.min() < 0 or labels.max() > IGNORED):
            raise DataError(
                f"the masks have labels in {labels.min()}..{labels.max()}; labels are "
                f"0..{IGNORED - 1}, and {IGNORED} marks pixels without a class."
            )
        largest = max(largest, int(labels.max(initial=0)))
    return largest + 1
