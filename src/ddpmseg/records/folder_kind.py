"""Which program a folder belongs to, by the file that each leaves there."""

from pathlib import Path

from ddpmseg.errors import ConfigError

CONFIG, RECORD, RESULTS = "config.yaml", "record.json", "results.csv"
"""Of a run: its settings; its kind, identity and classes; its scores, the mark of its end."""
UNET = "unet.json"
FINISHED = (RESULTS, UNET)
"""What a finished run leaves last: `task=pretrain` the second, all others the first."""
SWEEP = "sweep.json"
MULTIRUN = "multirun.json"
SAMPLES = "samples.json"
KINDS = {
    "sweep": (SWEEP, "cells"),
    "multirun": (MULTIRUN,),
    "samples": (SAMPLES,),
    "run": (RECORD, *FINISHED, CONFIG),
}
"""A sweep leaves a `config.yaml`, too, and so comes before the run."""
NAMED = {
    "sweep": "a sweep",
    "multirun": "a multirun",
    "samples": "images drawn by `ddpmseg sample`",
    "run": "a run of `ddpmseg train`",
}


def kind_of(folder: Path) -> str | None:
    """'run', 'sweep', 'multirun' or 'samples'; None for any other folder."""
    for kind, marks in KINDS.items():
        if any((folder / mark).exists() for mark in marks):
            return kind
    return None


def check_kind(folder: Path, kind: str, key: str) -> None:
    """Raise ConfigError, naming the setting `key`, if the folder holds work of another kind."""
    found = kind_of(folder)
    if found not in (None, kind):
        raise ConfigError(
            f"`{key}={folder}`: this folder holds {NAMED[found]}. Choose another `{key}`."
        )
