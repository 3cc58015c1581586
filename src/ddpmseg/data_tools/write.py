"""`data write`: writes a configured dataset as a folder."""

from dataclasses import replace
from pathlib import Path

from ddpmseg.command_line import override, overrides
from ddpmseg.config import DatasetConfig
from ddpmseg.config.choice import check_choice, write_choice
from ddpmseg.data.convert.folder import CLASSES, write_set
from ddpmseg.data_tools.convert import check_output
from ddpmseg.io.files import atomic_folder


def write(dataset: DatasetConfig, output: Path, config: Path | None = None) -> list[str]:
    """Write both splits of a dataset and its class table to `output`; returns lines to print.

    The folder is written atomically. Masks include tiny annotations: reading the folder applies
    `dataset.tiny_annotations` as usual. `config` becomes a choice `dataset=NAME` for the folder.
    Raises ConfigError and DataError as the dataset, DataError for an output that is not empty.
    """
    check_output(output)
    if config is not None:
        check_choice(config, "dataset", "--config")
    dataset.check()
    source = replace(dataset, tiny_annotations="keep").build()
    with atomic_folder(output) as folder:
        lines = write_set(source, folder)
    settings = {
        "root": str(output),
        "classes": str(output / CLASSES),
        "image_size": dataset.image_size,
    }
    chosen = {"dataset": "folder"} | {f"dataset.{key}": value for key, value in settings.items()}
    lines += [f"wrote {output}: use it with", f"  {overrides(chosen)}"]
    if config is not None:
        comments = [f"Written by `ddpmseg data write {dataset.name}`."]
        write_choice(config, comments, "folder_schema", settings)
        lines.append(f"wrote {config}: or with `{override('dataset', config.stem)}`")
    return lines
