"""`results.csv`: one row per measured quantity, appended, never replaced."""

import csv
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import ratios
from ddpmseg.errors import DataError
from ddpmseg.io.files import atomic_write

ROOT = Path(__file__).parents[1]
FASTER, SMALLER = "times as fast as plain", "times as small as plain"
"""How the quantity of a row ends that sums up a comparison."""


class DisagreementError(RuntimeError):
    """Two ways that should give the same numbers do not; their times mean nothing."""


@dataclass(frozen=True)
class Row:
    """A quantity of a variant: median, lowest and highest of its repeats.

    date: UTC, the same in all rows of a case. note: how the number came about where it was not
    measured as it stands ('extrapolated from ...', 'computed ...').
    """

    date: str
    commit: str
    machine: str
    torch: str
    benchmark: str
    case: str
    variant: str
    quantity: str
    unit: str
    median: float
    low: float
    high: float
    repeats: int
    note: str = ""


COLUMNS = tuple(field.name for field in fields(Row))


class Recorder:
    """Collects the rows of one case of a benchmark; `save` appends them to the file."""

    def __init__(self, path: Path, benchmark: str, case: str, device: torch.device) -> None:
        self.path, self.rows = path, list[Row]()
        self._shared = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "machine": machine(device),
            "torch": torch.__version__,
            "benchmark": benchmark,
            "case": case,
        }

    def add(
        self, variant: str, quantity: str, unit: str, values: Sequence[float], note: str = ""
    ) -> None:
        """The repeats of one quantity."""
        middle, count = statistics.median(values), len(values)
        self._add(variant, quantity, unit, (middle, min(values), max(values)), count, note)

    def add_ratio(
        self,
        variant: str,
        quantity: str,
        plain: Sequence[float],
        ours: Sequence[float],
        note: str = "",
    ) -> None:
        """How many times as much the straightforward way takes, turn by turn."""
        self._add(variant, quantity, "x", ratios(plain, ours), min(len(plain), len(ours)), note)

    def check(self, variant: str, quantity: str, error: float, limit: float) -> None:
        """Record an error (a fraction); raises DisagreementError above `limit` or for NaN."""
        self.add(variant, quantity, "error", [error], f"must be at most {limit:g}")
        if not error <= limit:
            raise DisagreementError(
                f"{self._shared['benchmark']}, {self._shared['case']}: {quantity} of '{variant}' "
                f"is {error:.3g}, more than {limit:g}"
            )

    def save(self) -> None:
        """Append the rows since the last `save`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [*(read(self.path) if self.path.is_file() else []), *self.rows]
        with (
            atomic_write(self.path) as unfinished,
            unfinished.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(_written(row) for row in rows)
        self.rows = []

    def _add(
        self,
        variant: str,
        quantity: str,
        unit: str,
        values: tuple[float, float, float],
        repeats: int,
        note: str,
    ) -> None:
        median, low, high = values
        described = self._shared | {"variant": variant, "quantity": quantity, "unit": unit}
        row = Row(**described, median=median, low=low, high=high, repeats=repeats, note=note)
        self.rows.append(row)


def read(path: Path) -> list[Row]:
    """All rows of the file. Raises DataError when it is missing or has other columns."""
    if not path.is_file():
        raise DataError(f"there is no '{path}'. Run `make bench` first, or give --results.")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise DataError(
                f"'{path}' has the columns {reader.fieldnames}, not {list(COLUMNS)}. "
                "Move it away and run the benchmarks again."
            )
        return [
            Row(
                **{key: row[key] for key in COLUMNS if key not in _NUMBERS},
                median=float(row["median"]),
                low=float(row["low"]),
                high=float(row["high"]),
                repeats=int(row["repeats"]),
            )
            for row in reader
        ]


def newest(rows: Sequence[Row]) -> list[Row]:
    """Of every case on every machine only the rows of its last run, in the order of the file."""
    last: dict[tuple[str, str, str], str] = {}
    for row in rows:
        key = (row.benchmark, row.case, row.machine)
        last[key] = max(last.get(key, ""), row.date)
    return [row for row in rows if row.date == last[row.benchmark, row.case, row.machine]]


def shown(value: float) -> str:
    """At least three significant digits, without an exponent from a thousandth on."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


_NUMBERS = ("median", "low", "high", "repeats")


def _written(row: Row) -> dict[str, Any]:
    values = asdict(row)
    return values | {key: f"{values[key]:.6g}" for key in ("median", "low", "high")}


def commit() -> str:
    """Short hash of the checkout, with '+' where the code differs from it; '' outside of git."""
    try:
        short = _git("rev-parse", "--short", "HEAD").strip()
        changed = _git("status", "--porcelain", "--", "src", "conf", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return short + ("+" if changed else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def machine(device: torch.device) -> str:
    """What decides the times: the GPU, or the CPU's model, cores, threads and 16-bit units."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    able = torch.cpu.get_capabilities()
    units = [unit for unit in ("avx512_bf16", "amx_bf16", "amx_fp16") if able.get(unit)]
    name = able.get("cpu_name") or platform.processor() or platform.machine()
    count = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return ", ".join([str(name), count, *(units or ["no 16-bit units"])])
