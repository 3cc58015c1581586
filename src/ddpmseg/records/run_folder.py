"""The folder of a run: who may write into it, and whether it is finished."""

import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from math import nan
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ddpmseg.config import TrainConfig, leave_out_how
from ddpmseg.errors import ConfigError
from ddpmseg.io.files import OUTPUT_DIR, atomic_write, explain_unwritable, remove_unfinished
from ddpmseg.io.locks import FolderLocks
from ddpmseg.io.record_file import read_record, write_record
from ddpmseg.records.folder_kind import CONFIG, FINISHED, RECORD, RESULTS, check_kind
from ddpmseg.records.identity import IDENTITY, Identity, listed_differences
from ddpmseg.records.results import PENDING, read_results

CHECKPOINT = "last.ckpt"
"""What an interrupted training continues from."""
EPOCHS = "epochs"
"""The folder of the weights after each epoch; with the suffix .csv the table of their scores."""
REPLACED = (
    *FINISHED,
    PENDING,
    CHECKPOINT,
    "metrics.jsonl",
    "csv/metrics.csv",
    "head.safetensors",
    "unet.safetensors",
    "segmenter.safetensors",
)
"""Files of an earlier run that must not be taken for those of the run that replaces it."""
OTHERWISE = "choose another `paths.output_dir`, or set `paths.overwrite=true`"


def check_free(folder: Path, identity: Identity, overwrite: bool, settings_only: bool) -> None:
    """Raise ConfigError unless a run of this identity may be started or continued in `folder`.

    It may not in a folder of another kind; nor, without `overwrite`, in one of a finished run, or
    of an unfinished run of another identity. `settings_only`: before images and weights are read,
    when `identity` has no digests yet.
    """
    check_kind(folder, "run", "paths.output_dir")
    if settings_only and (folder / ".locks" / "run").exists():
        with hold_run(folder):
            pass  # nobody holds it
    if overwrite:
        return
    for name in FINISHED:
        if (folder / name).exists():
            raise ConfigError(
                f"'{folder}' holds the results of a finished run ({name}), which are never "
                f"replaced unasked. {OTHERWISE.capitalize()}."
            )
    if not any((folder / name).exists() for name in (RECORD, CONFIG)):
        return
    earlier = read_identity(folder)
    compare = identity.settings_differ if settings_only else identity.differences
    if different := compare(earlier):
        raise ConfigError(
            f"'{folder}' holds an unfinished run of something else: "
            f"{listed_differences(different)}. To continue it, restore that; otherwise {OTHERWISE}."
        )


def hold_run(folder: Path) -> AbstractContextManager[None]:
    """Keep other processes from this run until the block ends. Raises ConfigError if one holds it.

    Creates the folder; raises DiskError if it cannot be written to.
    """
    with explain_unwritable(folder, OUTPUT_DIR):
        (folder / ".locks").mkdir(parents=True, exist_ok=True)
    doing = {"run": f"the run in '{folder}' is being computed"}
    return FolderLocks(folder).hold(doing, "Wait for it, or choose another `paths.output_dir`.")


def claim_run(
    config: TrainConfig, identity: Identity, facts: Mapping[str, Any] | None = None
) -> None:
    """Write the configuration and `record.json` into the output folder, which is created.

    `facts`, plain JSON values, go into the record beside the task and the identity. With
    `paths.overwrite` the results of an earlier run go. Raises ConfigError as `check_free`,
    DiskError if the folder cannot be written to.
    """
    folder, overwrite = Path(config.paths.output_dir), config.paths.overwrite
    check_free(folder, identity, overwrite, settings_only=False)
    with explain_unwritable(folder, OUTPUT_DIR):
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder, below=True)
        for name in REPLACED if overwrite else ():
            (folder / name).unlink(missing_ok=True)
        # The record first: without it nobody can say of what a run the folder is.
        record = {"kind": config.task, **(facts or {}), IDENTITY: identity.record()}
        write_record(folder / RECORD, record)
        with atomic_write(folder / CONFIG) as unfinished:
            unfinished.write_text(_recorded(config), encoding="utf-8")


def mark_finished(folder: Path, keep_epochs: bool = False) -> None:
    """Put `results.csv` in its place, the mark of a finished run.

    To be called when all else is done, loggers included: a run that is killed before is repeated,
    not taken for finished. Only then goes what the repetition would have continued from:
    `last.ckpt` and, unless `keep_epochs`, the weights of every epoch.
    """
    (folder / PENDING).replace(folder / RESULTS)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    if not keep_epochs:
        shutil.rmtree(folder / EPOCHS, ignore_errors=True)


def finished_miou(folder: Path, identity: Identity) -> float | None:
    """The score of the finished run in `folder`, NaN if it has none; None if there is no such run.

    Raises ConfigError if it is a run of another identity, DataError if its results are damaged.
    """
    if not any((folder / mark).is_file() for mark in FINISHED):
        return None
    if different := identity.differences(read_identity(folder)):
        raise ConfigError(
            f"'{folder}' holds a finished run of something else: {listed_differences(different)}. "
            f"{OTHERWISE.capitalize()}, in a multirun `multirun.resume=rerun`."
        )
    return float(read_results(folder)["miou"]) if (folder / RESULTS).is_file() else nan


def read_identity(folder: Path) -> Identity:
    """What the run in `folder` depends on. Raises ConfigError if that is not recorded."""
    path = folder / RECORD
    if not path.is_file():
        raise ConfigError(
            f"'{folder}' holds a run that does not say what it depends on: there is no '{path}', "
            f"as in runs of version 0.1. {OTHERWISE.capitalize()}."
        )
    return Identity.read(read_record(path, f"{OTHERWISE.capitalize()}."), str(path))


def _recorded(config: TrainConfig) -> str:
    """The configuration as YAML, without what only one command needed."""
    recorded = OmegaConf.structured(config)
    recorded.paths.overwrite = False
    leave_out_how(recorded)
    return OmegaConf.to_yaml(recorded, resolve=True)
