"""`data convert`: converts annotations of common tools to a folder for `dataset=folder`."""

from pathlib import Path
from typing import Any, Literal

from ddpmseg.command_line import override, overrides
from ddpmseg.config.choice import check_choice, write_choice
from ddpmseg.data.convert.annotations import AnnotatedSet, OnTop, read_json
from ddpmseg.data.convert.coco import read_coco
from ddpmseg.data.convert.folder import (
    CLASSES,
    MASKS,
    TEST,
    TRAIN,
    choose_labels,
    class_yaml,
    summary,
    write_split,
)
from ddpmseg.data.convert.labelme import read_labelme
from ddpmseg.data.file_names import as_read
from ddpmseg.data.split import split_names
from ddpmseg.errors import ConfigError, DataError
from ddpmseg.io.files import atomic_folder
from ddpmseg.io.text_file import read_text


def convert(
    source: Path,
    output_dir: Path,
    images: Path | None = None,
    train: str | None = None,
    test: str | None = None,
    seed: int = 0,
    classes: Path | None = None,
    unlabelled: Literal["background", "ignore"] = "background",
    on_top: OnTop = "smaller",
    config: Path | None = None,
    image_size: int = 256,
) -> list[str]:
    """Write photographs, masks, class table and summary to `output_dir`; returns lines to print.

    The folder appears complete or not at all. Options as `ddpmseg data convert --help`
    lists them. Raises ConfigError for an option, DataError for annotations or photographs that
    cannot be used, or an output folder that is not empty.
    """
    check_output(output_dir)
    if config is not None:
        check_choice(config, "dataset", "--config")
    if image_size < 8:
        raise ConfigError(f"`--image-size {image_size}`: must be at least 8 pixels.")
    annotated = _read(source, images)
    names = [image.name for image in annotated.images]
    parts = split_names(names, train, test, seed)
    listed = None if classes is None else _class_list(classes)
    name = output_dir.absolute().name
    labels = choose_labels(name, annotated, listed, unlabelled == "background")
    by_name = {image.name: image for image in annotated.images}
    with atomic_folder(output_dir) as folder:
        in_train, in_test = (
            write_split(folder / split, (by_name[name] for name in part), labels, on_top)
            for split, part in zip((TRAIN, TEST), parts, strict=True)
        )
        table = class_yaml(labels.table, in_train, in_test)
        (folder / CLASSES).write_text(table, encoding="utf-8")
        lines = summary(labels.table, in_train, in_test)
        (folder / "summary.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings: dict[str, Any] = {
        "root": str(output_dir),
        "classes": str(output_dir / CLASSES),
        "train_masks": TRAIN + MASKS,
        "test_masks": TEST + MASKS,
    }
    if in_train.num_not_square or in_test.num_not_square:
        settings["center_crop"] = True
    chosen = {"dataset": "folder"} | {f"dataset.{key}": value for key, value in settings.items()}
    lines += [f"wrote {output_dir}: use it with", f"  {overrides(chosen)}"]
    if config is not None:
        comments = [f"Written by `ddpmseg data convert` from {source.name}."]
        settings |= {"center_crop": "center_crop" in settings, "image_size": image_size}
        write_choice(config, comments, "folder_schema", settings)
        lines.append(f"wrote {config}: or with `{override('dataset', config.stem)}`")
    return lines


def check_output(folder: Path) -> None:
    """Raise DataError if the output exists and is not an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"'{folder}' exists and is not an empty folder; it is never overwritten. Remove it, or "
            "name another."
        )


def _read(source: Path, images: Path | None) -> AnnotatedSet:
    """Read the annotations at `source`, whose format is recognised by its content."""
    if images is not None and not images.is_dir():
        raise DataError(f"`--images {images}`: there is no such folder.")
    if source.is_dir():
        files = sorted(path for path in source.glob("*.json") if not path.name.startswith("."))
        if not files:
            raise DataError(
                f"there is no .json file in '{source}'. Name the folder of labelme's files, or the "
                "file of COCO."
            )
        return read_labelme(files, images)
    content = read_json(source)
    if "shapes" in content:
        return read_labelme([source], images)
    if "annotations" in content:
        return read_coco(source, images or source.parent)
    keys = ", ".join(sorted(content)[:8]) or "nothing"
    raise DataError(
        f"'{source}' is in no format that can be converted: it holds {keys}; COCO has "
        "`annotations`, labelme has `shapes`."
    )


def _class_list(path: Path) -> list[str]:
    """Read class names, one per line, without the two non-classes of labelme's own lists."""
    if not path.is_file():
        raise ConfigError(f"`--classes {path}`: there is no such file.")
    text = as_read(read_text(path, "list of classes", ConfigError))
    lines = [line.strip() for line in text.split("\n")]
    names = [line for line in lines if line and line not in ("__ignore__", "_background_")]
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"`--classes {path}`: give every class once, one per line.")
    return names
