"""Settings of the whole test run."""

import errno
import fcntl
import os
import re
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings

# Every call in these packages is checked against its annotations, shapes included. Elsewhere
# Lightning and OmegaConf decide what arrives. The hook must come before the first import.
CHECKED = (
    "backbones",
    "compare.ranking",
    "data",
    "features",
    "heads",
    "metrics",
    "randomness",
    "records.cell_grid",
    "report",
    "segmenters",
    "tables.table",
    "weights",
)
jaxtyping.install_import_hook([f"ddpmseg.{name}" for name in CHECKED], "typecheck.checked")

# How long an example takes depends on what else the machine does.
settings.register_profile("ddpmseg", deadline=None, max_examples=50)
settings.load_profile("ddpmseg")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No type checks within this test: it gives what only a run outside the tests would accept."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let a file find no room where it is written next: it meets a device that is always full."""
    monkeypatch.setattr("ddpmseg.io.files.token_hex", lambda _: "0")

    def fill(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f".{path.name}.0.tmp").symlink_to("/dev/full")

    return fill


@pytest.fixture
def disk_without_locks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Callable[[], list[str]]:
    """Every disk is without locks, as some network drives are.

    Gives the folders of which a warning said so, in order.
    """

    def flock(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    says = re.compile(r"'(.+)' has no locks \(No locks available\): start one command at a time")

    def warned() -> list[str]:
        found = (says.match(record.getMessage()) for record in caplog.records)
        return [match[1] for match in found if match]

    return warned
