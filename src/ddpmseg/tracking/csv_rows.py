"""Lightning's CSV logger for a run that may be interrupted: earlier rows stay."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from ddpmseg.io.files import append_text
from ddpmseg.records.results import write_table

Row = Mapping[str, Any]
Place = tuple[int, frozenset[str]]
"""The step of a row, and its columns that hold something."""


class ContinuedCSV(CSVLogger):
    """Goes on with the `metrics.csv` of an earlier process, which Lightning's own logger deletes.

    A row replaces the earlier one of the same step and columns: a training repeats what came after
    its last checkpoint.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> "_Rows":
        if self._experiment is None:
            self._experiment = _Rows(self.log_dir)
        assert isinstance(self._experiment, _Rows)
        return self._experiment


class _Rows(ExperimentWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.path = Path(self.metrics_file_path)
        rows = _read(self.path)
        self._earlier = {_place(row) for row in rows}
        self.metrics_keys = sorted(rows[0]) if rows else []
        if self.path.exists():
            self._write(rows)  # without what was cut off

    def _check_log_dir_exists(self) -> None:
        """Keeps what is there."""

    def save(self) -> None:
        names = sorted(set(self.metrics_keys).union(*self.metrics))
        repeated = self._earlier.intersection(map(_place, self.metrics))
        if repeated or names != self.metrics_keys:
            kept = [row for row in _read(self.path) if _place(row) not in repeated]
            self._earlier -= repeated
            self.metrics_keys = names
            self._write([*kept, *self.metrics])
        else:
            text = io.StringIO(newline="")
            csv.DictWriter(text, names).writerows(self.metrics)
            append_text(self.path, text.getvalue())
        self.metrics = []

    def _write(self, rows: list[Row]) -> None:
        write_table(self.path, self.metrics_keys, rows)


def _read(path: Path) -> list[Row]:
    """The whole rows of a table; a process that was killed may have left half of one."""
    if not path.is_file():
        return []
    lines = path.read_bytes().decode(errors="replace").splitlines(keepends=True)
    rows = csv.DictReader(line for line in lines if line.endswith("\n"))
    return [row for row in rows if None not in (*row, *row.values()) and row["step"].isdigit()]


def _place(row: Row) -> Place:
    return int(row["step"]), frozenset(name for name, value in row.items() if value != "")
