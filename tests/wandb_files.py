"""What W&B recorded on disk, read without W&B's own reader, for the tests of tracking."""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from waiting import wait_until
from wandb.proto import wandb_internal_pb2 as pb

BLOCK, HEADER = 32768, 7
FULL, LAST = 1, 4


@dataclass
class Recorded:
    """One recorded fragment of a run. `exit_code` is None before its end."""

    id: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    sweep: str = ""
    notes: str = ""
    tags: set[str] = field(default_factory=set)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    """Step axes by pattern."""
    artifacts: dict[str, Any] = field(default_factory=dict)
    commit: str = ""
    exit_code: int | None = None


def records(path: Path) -> Iterator[Any]:
    """Every record of a .wandb file: LevelDB's log format with a header of its own."""
    data, position, whole = path.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B"
    while position < len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:  # too short for another chunk: padding
            position += left
            continue
        checksum, size, kind = struct.unpack_from("<IHB", data, position)
        chunk = data[position + HEADER : position + HEADER + size]
        if len(chunk) < size:
            return  # still being written
        position += HEADER + size
        assert zlib.crc32(chunk, zlib.crc32(bytes([kind]))) == checksum
        whole += chunk
        if kind in (FULL, LAST):
            record = pb.Record()  # pyright: ignore[reportAttributeAccessIssue]
            record.ParseFromString(whole)
            whole = b""
            yield record


def read_run(folder: Path) -> Recorded:
    """What an `offline-run-*` folder holds, once its end is written: a moment after `finish`."""
    (path,) = folder.glob("*.wandb")
    wait_until(lambda: _read(path).exit_code is not None)
    return _read(path)


def _read(path: Path) -> Recorded:
    found = Recorded()
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found.id, found.project, found.group = run.run_id, run.project, run.run_group
            found.job_type, found.name, found.notes = run.job_type, run.display_name, run.notes
            found.tags, found.commit, found.sweep = set(run.tags), run.git.commit, run.sweep_id
            found.config |= _values(run.config.update)
        elif kind == "config":
            found.config |= _values(record.config.update)
        elif kind == "history":
            found.history.append(_values(record.history.item))
        elif kind == "summary":
            found.summary |= _values(record.summary.update)
        elif kind == "metric":
            metric = record.metric
            found.metrics[metric.glob_name or metric.name] = metric.step_metric
        elif kind == "artifact":
            found.artifacts[record.artifact.name] = record.artifact
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def recorded(folder: Path) -> list[Recorded]:
    """All fragments below `folder`, the oldest first."""
    found = folder.rglob("wandb/offline-run-*")
    return [read_run(path) for path in sorted(found, key=lambda path: path.name)]


def _values(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
