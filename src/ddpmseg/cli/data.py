"""`data get`, `data check`, `data write`, `data convert` and `data unpack`: labelled images."""

from pathlib import Path
from typing import Any

from ddpmseg.cli.common import (
    add_command,
    add_group,
    add_overrides,
    number,
    path,
    seed,
    show,
    typed,
)
from ddpmseg.cli.completion import add_choice
from ddpmseg.command_line import hydra_override


def add(commands: Any) -> None:
    commands = add_group(commands, "data", "labelled images: get, check, write, convert, unpack")
    for action, run, text in (
        ("get", _get, "fetch and unpack a dataset of conf/dataset/"),
        ("check", _check, "read every file of a dataset, name what is wrong; status 1 if any is"),
        ("write", _write, "write a dataset as the folder that dataset=folder reads"),
    ):
        command = add_command(commands, action, run, text)
        add_choice(command, "name", "dataset", "such as horse_21")
        add_overrides(command)
        if run is _write:
            command.add_argument("--output", type=path, required=True, help="must be new or empty")
            command.add_argument("--config", type=path, help="also write conf/dataset/NAME.yaml")
    _add_convert(commands)
    _add_unpack(commands)


def _add_convert(commands: Any) -> None:
    text = "annotations of COCO or labelme to a folder"
    command = add_command(commands, "convert", _convert, text)
    command.add_argument("source", type=path, help="COCO .json, or a folder of labelme .json files")
    command.add_argument("output_dir", type=path, help="must be new or empty")
    command.add_argument("--images", type=path, help="folder of the images; default: of the .json")
    for split in ("train", "test"):
        text = f"{split} images: a share (0.5), a number (20), or a text file of names"
        command.add_argument(f"--{split}", help=text)
    command.add_argument("--seed", type=seed, default=0, help="draws the split")
    command.add_argument("--classes", type=path, help="text file of class names, one a line")
    command.add_argument(
        "--unlabelled", choices=("background", "ignore"), default="background",
        help="what pixels are that no shape covers; default: background",
    )  # fmt: skip
    command.add_argument(
        "--on-top", choices=("smaller", "later"), default="smaller",
        help="which shape counts where two overlap; default: smaller",
    )  # fmt: skip
    command.add_argument("--config", type=path, help="also write conf/dataset/NAME.yaml")
    text = "for --config: the side at which the backbone sees images; default: 256"
    command.add_argument("--image-size", type=number, default=256, help=text)


def _add_unpack(commands: Any) -> None:
    text = "synthetic images with labels in an .npz to a folder"
    command = add_command(commands, "unpack", _unpack, text)
    command.add_argument("archive", type=path, help="samples_256x256x3.npz, as the authors have it")
    command.add_argument("output", type=path, help="goes on where it was stopped")
    command.add_argument("--classes", required=True, help="class table, such as horse_21")
    command.add_argument("--num", type=number, help="only so many, the first")


def _get(name: str, config_dir: Path | None, overrides: list[str]) -> int:
    from ddpmseg.composition.build import cache_folder

    config = typed(config_dir, hydra_override("dataset", name), *overrides)
    config.dataset.fetch(cache_folder(config.paths, "downloads"))
    return 0


def _check(name: str, config_dir: Path | None, overrides: list[str]) -> int:
    from ddpmseg.data_tools.check import check_dataset

    config = typed(config_dir, hydra_override("dataset", name), *overrides)
    return 0 if check_dataset(config.dataset) else 1


def _write(
    name: str, config_dir: Path | None, overrides: list[str], output: Path, config: Path | None
) -> int:
    from ddpmseg.data_tools.write import write

    typed_config = typed(config_dir, hydra_override("dataset", name), *overrides)
    return show(write(typed_config.dataset, output, config))


def _convert(**options: Any) -> int:
    from ddpmseg.data_tools.convert import convert

    return show(convert(**options))


def _unpack(**options: Any) -> int:
    from ddpmseg.data_tools.unpack import unpack_samples

    return show(unpack_samples(**options))
