"""A sweep on disk: what was asked for, and one whole record for every finished cell."""

import base64
import io
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from ddpmseg.data.class_table import ClassTable, load_class_table, read_class_table
from ddpmseg.errors import ConfigError, DataError
from ddpmseg.io.damage import DAMAGE, checked_counts, read_object, reason_of
from ddpmseg.io.files import OUTPUT_DIR, atomic_write, explain_unwritable, remove_unfinished
from ddpmseg.io.locks import FolderLocks
from ddpmseg.records.cell_grid import Cell
from ddpmseg.records.folder_kind import CONFIG, SWEEP, check_kind
from ddpmseg.records.identity import IDENTITY, Identity, listed_differences

VERSION = 2
"""Of the format of `sweep.json`; a later one is refused, never guessed at."""
CELL_VERSION = 1
"""Of the format of the record of a cell."""
REPORT = ("cells.csv", "controls.csv", "findings.txt", "report.html", "figures/*")
"""Files that are made of cells, below the folder of a sweep or a multirun."""
RECORD = re.compile(r"b(\d+)_t(\d+)_s(\d+)\.json")

Key = tuple[int, int, int]
"""(block, timestep, seed)"""


class CellStore:
    """The records of one sweep folder, below `cells/` and, for controls, `controls/NAME/`.

    A record appears whole or not at all, so that whatever is there is done.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks = FolderLocks(folder)

    def record(self) -> dict[str, Any]:
        """What `claim` wrote. Raises ConfigError if the folder holds no sweep, or is damaged."""
        path = self.folder / SWEEP
        if not path.is_file():
            raise ConfigError(
                f"'{self.folder}' is not the folder of a sweep: there is no '{path}'."
            )
        try:
            found = read_object(path)
            version = int(found["version"])
            if version == 1:
                found = _from_version_1(found)
            if version <= VERSION:
                Identity.read(found, str(path))
                if "classes" in found:
                    read_class_table(found["classes"], str(path))
        except (ConfigError, *DAMAGE) as error:
            raise ConfigError(
                f"'{path}' is damaged ({reason_of(error)}), so nobody can say of what the cells "
                "there are. Restore it, or choose another `paths.output_dir`."
            ) from error
        if version > VERSION:
            raise ConfigError(
                f"'{self.folder}' holds a sweep in format {version}; this program reads formats "
                f"up to {VERSION}. Choose another `paths.output_dir`, or use the program that "
                "made it."
            )
        return found

    def identity(self) -> Identity:
        """What the cells depend on; raises as `record`."""
        return Identity.read(self.record(), str(self.folder / SWEEP))

    def classes(self) -> ClassTable:
        """The classes of the cells; raises as `record`, and ConfigError for a damaged table.

        Version 0.1 recorded only the name of the table.
        """
        record = self.record()
        if "classes" in record:
            return read_class_table(record["classes"], str(self.folder / SWEEP))
        return load_class_table(record[IDENTITY]["settings"]["dataset.classes"])

    def check(self, identity: Identity, settings_only: bool = False) -> None:
        """Raise ConfigError unless the folder is new, or its cells are of this identity.

        `settings_only`: before images and weights are read, when `identity` has no digests yet.
        """
        check_kind(self.folder, "sweep", "paths.output_dir")
        if not (self.folder / SWEEP).exists():
            if any(self.folder.glob("cells/*.json")):
                raise ConfigError(
                    f"'{self.folder}' holds cells, but '{SWEEP}' that says of what is missing. "
                    "Choose another `paths.output_dir`."
                )
            return
        earlier = self.identity()
        compare = identity.settings_differ if settings_only else identity.differences
        if different := compare(earlier):
            raise ConfigError(
                f"'{self.folder}' holds the cells of another request: "
                f"{listed_differences(different)}. Choose another `paths.output_dir`, or set "
                "`paths.overwrite=true`."
            )

    def claim(self, identity: Identity, facts: Mapping[str, Any], settings: str) -> None:
        """Create the folder, or check that it holds the cells of the same identity.

        `facts`, plain JSON values, and `settings`, the configuration as YAML, are for those who
        read the folder later. Raises ConfigError as `check`, DataError if the folder cannot be
        written to.
        """
        check_kind(self.folder, "sweep", "paths.output_dir")
        with explain_unwritable(self.folder, OUTPUT_DIR):
            (self.folder / "cells").mkdir(parents=True, exist_ok=True)
        with self._locks.hold({"claim": ""}):
            self.check(identity)
            remove_unfinished(self.folder, below=True)
            record = {"version": VERSION, **facts, IDENTITY: identity.record()}
            for name, text in ((CONFIG, settings), (SWEEP, json.dumps(record, indent=1))):
                with atomic_write(self.folder / name) as unfinished:
                    unfinished.write_text(text, encoding="utf-8")

    def clear(self) -> None:
        """Delete all records and what was made of them. Raises ConfigError when they are in use."""
        if not self.folder.exists():
            return
        busy = [path.name for path in self.folder.glob(".locks/*")]
        timesteps = sorted(int(name[1:]) for name in busy if name.startswith("t"))
        controls = [name.removeprefix("control_") for name in busy if name.startswith("control_")]
        with self.held(timesteps, controls):
            for pattern in ("cells/*.json", "controls/*/*.json", "*.npz", *REPORT, SWEEP):
                for path in self.folder.glob(pattern):
                    _remove(path)

    def drop(self, keys: Iterable[Key], control: str = "") -> None:
        """Delete the records of these cells; the others stay."""
        for key in keys:
            self._path(key, control).unlink(missing_ok=True)

    def held(
        self, timesteps: Iterable[int], controls: Iterable[str] = (), wait: bool = False
    ) -> AbstractContextManager[None]:
        """Keep other processes from these timesteps and controls until the block ends.

        If another process holds one now, raises ConfigError or, with `wait`, waits for it.
        """
        locks = {
            f"t{timestep:04d}": f"t = {timestep} of '{self.folder}' is being computed"
            for timestep in timesteps
        }
        locks |= {
            f"control_{name}": f"control {name} of '{self.folder}' is being computed"
            for name in controls
        }
        other = "Wait for it and repeat the command, or choose other `sweep.timesteps`."
        return self._locks.hold(locks, refuse="" if wait else other)

    def reporting(self) -> AbstractContextManager[None]:
        """Wait until no other process writes the report, then keep others waiting."""
        return self._locks.hold({"report": f"the report of '{self.folder}' is being written"})

    def done(self, control: str = "") -> set[Key]:
        """The cells that have a record."""
        return {_key(path) for path in self._records(control)}

    def read(self, control: str = "") -> list[Cell]:
        """All finished cells, sorted. Raises DataError for a damaged record."""
        num_classes = self._num_classes()
        return [self._parse(path, num_classes)[0] for path in sorted(self._records(control))]

    def masks(self, key: Key, control: str = "") -> UInt8[np.ndarray, "n s s"]:
        """What the probe of a cell made of the example images."""
        return self._parse(self._path(key, control))[1]

    def drop_damaged(self, control: str = "") -> list[str]:
        """Remove records that cannot be read, so that their cells are computed again.

        Returns a sentence about each.
        """
        found = self._damaged(control)
        for path in found:
            _remove(path)
        return list(found.values())

    def is_damaged(self, control: str = "") -> bool:
        """Whether there is a record that `drop_damaged` would remove."""
        return bool(self._damaged(control))

    def _damaged(self, control: str) -> dict[Path, str]:
        """A sentence about every record that cannot be read."""
        messages, num_classes = {}, self._num_classes()
        for path in sorted(self._records(control)):
            try:
                self._parse(path, num_classes)
            except DataError as error:
                messages[path] = str(error)
        return messages

    def write(self, cell: Cell, masks: UInt8[np.ndarray, "n s s"], control: str = "") -> None:
        """Record a finished cell. Raises DataError when the disk is full; other cells stay."""
        record = {
            "version": CELL_VERSION,
            "block": cell.block,
            "timestep": cell.timestep,
            "seed": cell.seed,
            "seconds": round(cell.seconds, 3),
            "counts": cell.counts.tolist(),
            "masks": _pack(masks),
        }
        path = self._path(cell.key, control)
        with explain_unwritable(self.folder, OUTPUT_DIR):
            path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as unfinished:
            unfinished.write_text(json.dumps(record), encoding="utf-8")

    def _records(self, control: str) -> list[Path]:
        found = self._folder(control).glob("b*_t*_s*.json")
        return [path for path in found if RECORD.fullmatch(path.name)]

    def _folder(self, control: str) -> Path:
        return self.folder / "controls" / control if control else self.folder / "cells"

    def _path(self, key: Key, control: str) -> Path:
        block, timestep, seed = key
        return self._folder(control) / f"b{block:02d}_t{timestep:04d}_s{seed}.json"

    def _num_classes(self) -> int | None:
        """Of the cells; None where the folder does not say it."""
        path = self.folder / SWEEP
        classes = self.record().get("classes") if path.is_file() else None
        return None if classes is None else read_class_table(classes, str(path)).num_classes

    def _parse(self, path: Path, num_classes: int | None = None) -> tuple[Cell, np.ndarray]:
        try:
            record = read_object(path)
            if record["version"] != CELL_VERSION:
                raise ValueError(f"format {record['version']}, not {CELL_VERSION}")
            key = (record["block"], record["timestep"], record["seed"])
            if key != _key(path):
                raise ValueError(f"it is of cell {key}")
            counts = checked_counts(record["counts"])
            if num_classes not in (None, len(counts[0])):
                raise ValueError(f"it counts {len(counts[0])} classes of {num_classes}")
            seconds = float(record["seconds"])
            if not 0 <= seconds < inf:
                raise ValueError(f"it took {seconds} seconds")
            return Cell(*key, torch.tensor(counts), seconds), _unpack(record["masks"])
        except (Image.DecompressionBombError, *DAMAGE) as error:
            raise DataError(
                f"record '{path}' is damaged ({reason_of(error)}). Repeat the command of the "
                "sweep: it computes this cell again and keeps the others."
            ) from error


def _from_version_1(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a sweep of version 0.1, which knew neither dtypes nor devices."""
    identity = {
        "settings": record["request"],
        "arithmetic": {},
        "digests": {
            "weights": record.get("checkpoint_sha256", ""),
            "images": record.get("data_sha256", ""),
        },
    }
    return {**record, IDENTITY: identity}


def _remove(path: Path) -> None:
    """Whatever lies there, in the place of a file."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _key(path: Path) -> Key:
    matched = RECORD.fullmatch(path.name)
    assert matched
    block, timestep, seed = map(int, matched.groups())
    return block, timestep, seed


def _pack(masks: UInt8[np.ndarray, "n s s"]) -> str:
    """Masks below one another as a greyscale PNG in base64, with their number."""
    if not len(masks):
        return ""
    file = io.BytesIO()
    Image.fromarray(masks.reshape(-1, masks.shape[-1])).save(file, format="png")
    return base64.b64encode(file.getvalue()).decode()


def _unpack(text: str) -> UInt8[np.ndarray, "n s s"]:
    if not text:
        return np.zeros((0, 0, 0), np.uint8)
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        column = np.asarray(image, dtype=np.uint8)
    size = column.shape[1]
    return column.reshape(-1, size, size)
