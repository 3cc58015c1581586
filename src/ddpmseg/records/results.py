"""The records of a run: its configuration, one row of results, a table of classes."""

import csv
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ddpmseg.config import leave_out_how
from ddpmseg.data.class_table import ClassTable
from ddpmseg.errors import ConfigError, DataError
from ddpmseg.io.csv_cells import guarded
from ddpmseg.io.files import OUTPUT_DIR, explain_unwritable, written_whole
from ddpmseg.io.record_file import write_record
from ddpmseg.metrics.segmentation import Scores

RESULTS = "results.csv"
PENDING = f".{RESULTS}.pending"
CONFIG = "config.yaml"
RECORD = "record.json"
"""Of what kind a run is, and of which classes."""
PER_CLASS = "per_class.csv"
CONFUSION = "confusion.csv"
FINISHED = (RESULTS, "unet.json")
"""What a finished run leaves last: `task=pretrain` the second, all others the first."""
REPLACED = (
    *FINISHED,
    "last.ckpt",
    "metrics.jsonl",
    "head.safetensors",
    "unet.safetensors",
    "segmenter.safetensors",
)
"""Files of an earlier run that must not be taken for those of the run that replaces it."""
COLUMNS = (
    "dataset",
    "backbone",
    "checkpoint_sha256",
    "blocks",
    "timesteps",
    "head",
    "head_sha256",
    "protocol",
    "members",
    "seed",
    "num_labelled",
    "num_test",
    "miou",
    "miou_present",
    "pixel_accuracy",
    "uncertainty",
    "seconds_extract",
    "seconds_train",
    "seconds_test",
    "pairs_computed",
    "pairs_read",
    "peak_rss_mb",
)


def check_claim(folder: Path, cfg: DictConfig, overwrite: bool) -> None:
    """Raise ConfigError where `claim_folder` would, and change nothing."""
    if overwrite:
        return
    for name in FINISHED:
        if (folder / name).exists():
            raise ConfigError(
                f"'{folder}' holds the results of a finished run ({name}), which are never "
                "replaced unasked. Choose another `paths.output_dir`, or set "
                "`paths.overwrite=true`."
            )
    earlier = folder / CONFIG
    if earlier.exists() and not _same_settings(earlier, cfg):
        raise ConfigError(
            f"'{folder}' holds an unfinished run with other settings (see '{earlier}'). Repeat "
            "those settings to go on with it, choose another `paths.output_dir`, or set "
            "`paths.overwrite=true`."
        )


def claim_folder(
    folder: Path, cfg: DictConfig, overwrite: bool, facts: Mapping[str, Any] | None = None
) -> None:
    """Create the output folder; write the resolved configuration and `record.json` into it.

    `facts`, plain JSON values, go into the record beside the task.

    With `overwrite` the results of an earlier run go. Raises ConfigError when the folder holds the
    results of a finished run, or an unfinished run of another configuration, unless `overwrite`;
    and when it cannot be written to.
    """
    check_claim(folder, cfg, overwrite)
    with explain_unwritable(folder, OUTPUT_DIR):
        folder.mkdir(parents=True, exist_ok=True)
        for name in REPLACED if overwrite else ():
            (folder / name).unlink(missing_ok=True)
        with written_whole(folder / CONFIG) as unfinished:
            unfinished.write_text(_settings(cfg))
        write_record(folder / RECORD, {"kind": cfg.task, **(facts or {})})


def finished_miou(folder: Path, cfg: DictConfig) -> float | None:
    """The score of the finished run in `folder`, if it was made with the settings `cfg`.

    Raises DataError where its results are damaged.
    """
    earlier = folder / CONFIG
    if not (folder / RESULTS).is_file() or not earlier.is_file():
        return None
    if not _same_settings(earlier, cfg):
        return None
    return float(read_results(folder)["miou"])


def read_results(folder: Path) -> dict[str, str]:
    """The row of a finished run's `results.csv`; DataError where it has none with a score."""
    path = folder / RESULTS
    try:
        with path.open(newline="", encoding="utf-8") as file:
            row = next(csv.DictReader(file))
        float(row["miou"])
    except (OSError, StopIteration, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(
            f"'{path}' is damaged: it lacks a row with a number for miou. Repeat the run with "
            "`paths.overwrite=true`."
        ) from error
    return row


def _settings(cfg: DictConfig) -> str:
    """The resolved configuration as YAML, without what decides no result.

    So a run that replaced another is resumed by the same settings without `paths.overwrite=true`,
    and any run with another cache or with a compiled network.
    """
    recorded = cfg.copy()
    recorded.paths.overwrite = False
    leave_out_how(recorded)
    return OmegaConf.to_yaml(recorded, resolve=True)


def _same_settings(earlier: Path, cfg: DictConfig) -> bool:
    """Whether a run was made with these settings; its devices and loggers do not matter."""
    return _what_matters(earlier.read_text()) == _what_matters(_settings(cfg))


def _what_matters(settings: str) -> Any:
    found = yaml.safe_load(settings)
    if isinstance(found, dict):
        found.pop("logger", None)
        if found.get("task") != "distill":
            found.pop("segmenter", None)  # which runs recorded by an earlier version lack
        found.get("trainer", {}).pop("devices", None)
    return found


def write_results(folder: Path, row: Mapping[str, object]) -> None:
    """Write what `mark_finished` makes `results.csv`: a header and one row of `COLUMNS`."""
    write_table(folder / PENDING, COLUMNS, [row])


def score_columns(scores: Scores, uncertainties: Sequence[Tensor]) -> dict[str, str]:
    """Those of a row: the scores, and the mean uncertainty of the test images."""
    return {
        "miou": f"{scores.miou:.6f}",
        "miou_present": f"{scores.miou_present:.6f}",
        "pixel_accuracy": f"{scores.pixel_accuracy:.6f}",
        "uncertainty": f"{torch.cat(list(uncertainties)).mean():.6f}",
    }


def mark_finished(folder: Path) -> None:
    """Put `results.csv` in its place, the mark of a finished run.

    To be called once all else is done, loggers included: a run that is killed before is not taken
    for finished, and repeated.
    """
    (folder / PENDING).replace(folder / RESULTS)


def write_per_class(folder: Path, classes: ClassTable, scores: Scores) -> None:
    """Write `per_class.csv`: IoU of every class in both conventions, and its pixels.

    `iou` is empty for the ignore label, `iou_present` also for a class that occurs nowhere.
    """
    rows = [
        {
            "label": label,
            "class": name,
            "iou": _number(scores.iou[label].item()),
            "iou_present": _number(scores.iou_present[label].item()),
            "true_pixels": int(scores.confusion[label].sum()),
            "predicted_pixels": int(scores.confusion[:, label].sum()),
        }
        for label, name in enumerate(classes.names)
    ]
    write_table(folder / PER_CLASS, tuple(rows[0]), rows)
    table = [
        {"true": name, **dict(zip(classes.names, counts, strict=True))}
        for name, counts in zip(
            [*classes.names, "(ignored)"], scores.confusion.tolist(), strict=True
        )
    ]
    write_table(folder / CONFUSION, ("true", *classes.names), table)


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    with written_whole(path) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([guarded(name) for name in columns])
        writer.writerows([[guarded(row.get(name, "")) for name in columns] for row in rows])


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def _number(value: float) -> float | str:
    return "" if value != value else value
