"""Splits the images of a set into training and test images."""

from collections.abc import Sequence
from pathlib import Path

from ddpmseg.data.file_names import as_read
from ddpmseg.data.subsets import nested_subset
from ddpmseg.errors import ConfigError, DataError
from ddpmseg.io.text_file import read_text
from ddpmseg.limits import no_path


def split_names(
    names: Sequence[str], train: str | None, test: str | None, seed: int
) -> tuple[list[str], list[str]]:
    """Divide `names` into training and test images, each in the order of `names`.

    Args:
        names: names of all images, without suffix.
        train: a share of all images ('0.5'), a number of them ('20'), or the path of a text file
            with one name per line. None: all that are not for testing; half when both are None.
        test: likewise.
        seed: draws the images that no file lists; a smaller training set is part of a larger one.

    Raises ConfigError for a share or number that is not possible, DataError for a list with an
    unknown image, and for an image in both lists.
    """
    if train is None and test is None:
        train = "0.5"
    parts = {"train": train, "test": test}
    listed = {part: _listed(value, names, f"--{part}") for part, value in parts.items()}
    if both := sorted(set(listed["train"] or ()) & set(listed["test"] or ())):
        raise DataError(f"image '{both[0]}' is listed in both '{train}' and '{test}'.")
    taken = {name for members in listed.values() for name in members or ()}
    free = [name for name in names if name not in taken]
    free = [free[index] for index in nested_subset(len(free), len(free), seed)]
    # The part that takes the rest comes last.
    for part in sorted(parts, key=lambda part: parts[part] is None):
        if listed[part] is not None:
            continue
        value = parts[part]
        count = max(1, len(free)) if value is None else _count(value, len(names), f"--{part}")
        if count > len(free):
            raise ConfigError(
                f"`--{part} {value or '(the rest)'}` asks for {count} of {len(names)} images, but "
                f"only {len(free)} are left for it."
            )
        listed[part], free = free[:count], free[count:]
    order = {name: position for position, name in enumerate(names)}
    in_train, in_test = (sorted(listed[part] or (), key=order.__getitem__) for part in parts)
    return in_train, in_test


def _listed(value: str | None, names: Sequence[str], option: str) -> list[str] | None:
    """The names in the text file `value`; None when `value` is None or a number."""
    if value is None or _number(value) is not None:
        return None
    path = Path(value)
    if no_path(value) or not path.is_file():
        raise ConfigError(
            f"`{option} {value[:60]}`: give a share such as 0.5, a number of images such as 20, "
            "or a text file of image names; there is no such file."
        )
    known, listed = {as_read(name): name for name in names}, dict[str, None]()
    for line in read_text(path, "list of images", ConfigError).split("\n"):
        entry = line.strip()
        if not entry:
            continue
        name = as_read(entry) if as_read(entry) in known else as_read(Path(entry).stem)
        if name not in known:
            raise DataError(f"'{path}' lists '{entry}', which is no image of the annotations.")
        listed[known[name]] = None
    if not listed:
        raise DataError(f"'{path}' lists no image.")
    return list(listed)


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _count(value: str, total: int, option: str) -> int:
    number = float(value)
    if 0 < number < 1:
        return max(1, round(number * total))
    if number >= 1 and number == int(number):
        return int(number)
    raise ConfigError(
        f"`{option} {value}`: a share lies between 0 and 1, a number of images is a whole number "
        "from 1 on."
    )
