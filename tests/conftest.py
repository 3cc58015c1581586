"""Settings of the whole test run: what is checked besides, what fails, what is shared."""

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import jaxtyping
import pytest
from filelock import FileLock
from hypothesis import settings

from ddpmseg.runtime.logs import NOISE, quiet_libraries

CHECKED = ("features", "heads", "metrics")
"""Packages whose every call is checked against its annotations, shapes included."""
ALSO_CHECKED = (
    "backbones",
    "compare.ranking",
    "data",
    "randomness",
    "records.cell_grid",
    "report",
    "segmenters",
    "tables.table",
    "weights",
)
"""Checked too with --check-all-types. Elsewhere Lightning and OmegaConf decide what arrives."""

Make = Callable[[Path], object]
"""Writes into a folder, which is not there yet."""

# How long an example takes depends on what else the machine does.
settings.register_profile("ddpmseg", deadline=None, max_examples=50)
settings.load_profile("ddpmseg")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ddpmseg")
    group.addoption(
        "--check-all-types",
        action="store_true",
        help="check calls in all packages against their annotations, not just in the mathematics",
    )
    group.addoption(
        "--no-skips",
        action="store_true",
        help="a test that is skipped fails, unless it needs a GPU",
    )
    group.addoption(
        "--damages",
        type=int,
        default=160,
        metavar="N",
        help="cases of damage that the slow test tries; there are over 3,000, of a second each",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Install the type checks, which must come before the first import of what they check.

    And silence the hints that every command silences as it begins.
    """
    checked = CHECKED + (ALSO_CHECKED if config.getoption("check_all_types") else ())
    jaxtyping.install_import_hook([f"ddpmseg.{name}" for name in checked], "typecheck.checked")
    quiet_libraries()
    for message in NOISE:  # pytest resets the filters for each test
        config.addinivalue_line("filterwarnings", f"ignore:{message}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    needs_gpu = item.get_closest_marker("gpu") is not None
    if report.skipped and not needs_gpu and item.config.getoption("no_skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which --no-skips forbids: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Make], Path]:
    """Folders that many tests read and none changes, made by the first process that needs them."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of all processes

    def made(name: str, make: Make) -> Path:
        folder, done = base / "made" / name, base / "made" / f"{name}.done"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def finished_run(made_once: Callable[[str, Make], Path]) -> Path:
    """A finished run of `SEGMENT`."""
    from made_runs import make_run  # not before the type checks are installed

    return made_once("run", make_run)


@pytest.fixture(scope="session")
def members_by_seeds(made_once: Callable[[str, Make], Path]) -> Path:
    """Four finished runs: members{1,2}/seed{0,1}."""
    from made_runs import make_members_by_seeds

    return made_once("members_by_seeds", make_members_by_seeds)


@pytest.fixture(scope="session")
def finished_work(made_once: Callable[[str, Make], Path]) -> Path:
    """What every program leaves, each in a folder of its own: see `make_finished_work`."""
    from finished_work import make_finished_work

    return made_once("finished_work", make_finished_work)


@pytest.fixture
def real_data() -> Path:
    if "DDPMSEG_DATA" not in os.environ:
        pytest.skip("the environment variable DDPMSEG_DATA names no folder")
    return Path(os.environ["DDPMSEG_DATA"]) / "data"


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
