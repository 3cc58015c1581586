"""`data check`: inspects a folder of labelled images and prints what is wrong."""

from ddpmseg.data.class_table import ClassTable
from ddpmseg.data.digests import known_files, known_splits
from ddpmseg.data.inspection import SplitFolders, SplitInspection, inspect_folder
from ddpmseg.data.pairs import DRAWN
from ddpmseg.data.settings import DatasetConfig
from ddpmseg.data.survey import Survey
from ddpmseg.errors import ConfigError
from ddpmseg.io.stdout import write_out


def check_dataset(config: DatasetConfig) -> bool:
    """Print the content of every split and what is wrong; returns whether nothing is wrong.

    Raises ConfigError for a dataset without a folder, or a folder that does not exist.
    """
    dataset = config.on_disk()
    if dataset is None:
        raise ConfigError(f"`dataset={config.name}` is drawn when asked for: nothing to check.")
    root = dataset.folder
    if not root.is_dir():
        raise ConfigError(f"`dataset.root={dataset.root}`: no such folder.{dataset.how_to_get()}")
    classes, known = dataset.class_table(), known_splits(dataset.name)
    splits = [
        SplitFolders("train", dataset.train_images, dataset.train_masks),
        SplitFolders("test", dataset.test_images, dataset.test_masks),
    ]
    if DRAWN in known and (root / DRAWN).is_dir():
        splits.append(SplitFolders(DRAWN, DRAWN))
    single = known_files(dataset.name, root.resolve())
    inspections = inspect_folder(root, splits, classes, dataset.center_crop, known, single)

    lines = [f"{dataset.name} in '{root}'"]
    for inspection in inspections:
        lines += ["", *_described(inspection, classes)]
    lines += ["", *_remarks(inspections, classes)]
    if not known and not single:
        lines.append("no digests of this set are known: its content could not be compared")
    problems = [problem for inspection in inspections for problem in inspection.problems]
    lines += [f"error: {problem}" for problem in problems]
    if problems:
        lines.append(f"{len(problems)} found wrong")
        if dataset.url:
            lines.append(f"to fetch it anew, remove the folder: `{dataset.command('get')}`")
    else:
        lines.append("nothing found wrong")
    write_out("\n".join(lines) + "\n")
    return not problems


def _described(inspection: SplitInspection, classes: ClassTable) -> list[str]:
    """A line of counts, sizes and types, then a table of the classes."""
    if inspection.listing is None:
        return [f"{inspection.folders.images}: nothing to read"]
    pairs = len(inspection.listing.pairs)
    title = (
        f"{inspection.folders.images}: {pairs} images with masks; "
        f"{_listed(inspection.sizes, 'image')}; masks {_listed(inspection.dtypes, 'mask')}"
    )
    total = max(1, int(inspection.pixels.sum()))
    labels = list(range(classes.num_classes))
    names = dict(enumerate(classes.names))
    if classes.ignore_label not in names and inspection.pixels[classes.ignore_label]:
        labels.append(classes.ignore_label)
        names[classes.ignore_label] = "(ignored)"
    width = max(len(name) for name in names.values())
    percent = [100 * int(pixels) / total for pixels in inspection.pixels]
    table = [
        f"{label:>3}  {names[label]:<{width}}  {percent[label]:>7.3f}  "
        f"{int(inspection.images_with[label]):>6}"
        for label in labels
    ]
    same = f"{' and '.join(inspection.verified)}: as known, by SHA-256"
    header = f"{'id':>3}  {'name':<{width}}  {'area %':>7}  {'images':>6}"
    return [title, *([same] if inspection.verified else []), header, *table]


def _listed(counts: dict[str, int], kind: str) -> str:
    """Text such as '256x256', or '256x256 (29), 128x128 (1)'."""
    if len(counts) < 2:
        return next(iter(counts), f"no readable {kind}")
    return ", ".join(f"{value} ({count})" for value, count in counts.items())


def _remarks(inspections: list[SplitInspection], classes: ClassTable) -> list[str]:
    """Notes about what is no damage: images stored turned, classes that no image holds."""
    notes = [
        f"note: {each.turned} images of '{each.folders.images}' are stored turned, with a note "
        "(EXIF orientation) that viewers follow; they are read upright, as their masks must be"
        for each in inspections
        if each.turned
    ]
    train, test = (inspection.pixels[: classes.num_classes] for inspection in inspections[:2])
    return notes + [f"note: {text}" for text in Survey("", train, test).warnings(classes)]
