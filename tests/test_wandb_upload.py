"""Runs on their way to a server that works, is overloaded, broken or dead."""

import logging
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from tiny_run import SEGMENT, composed
from waiting import wait_until
from wandb_files import read_run, recorded
from wandb_server import Server, serving

from ddpmseg.config import LoggerConfig
from ddpmseg.runs.train import train
from ddpmseg.tracking import upload
from ddpmseg.tracking.upload import Upload
from ddpmseg.tracking.wandb_run import Identity, open_run, recorded_runs

ONLINE = ("logger=wandb", "logger.mode=online", "logger.project=tests")
IDENTITY = Identity("abc", "abc", "segment", {"seed": 0})
SLACK = 10.0
"""Seconds that a busy machine may take to start and end processes."""


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MODE", "PROJECT", "ENTITY", "RUN_ID", "SWEEP_ID"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A recorded run of a few values."""
    with open_run(LoggerConfig(mode="offline"), tmp_path, IDENTITY) as found:
        for step in range(3):
            found.log({"train/loss": 1.0 / (1 + step), "trainer/global_step": step})
    (path,) = (tmp_path / "wandb").glob("offline-run-*")
    return path


def test_a_server_that_works_gets_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(Server()) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        settings = LoggerConfig(mode="online", timeout=60)
        with caplog.at_level(logging.INFO), open_run(settings, tmp_path, IDENTITY) as found:
            found.log({"train/loss": 0.5, "trainer/global_step": 7})
        assert "W&B: abc uploaded" in caplog.text
        assert '\\"train/loss\\":0.5' in server.bodies("file_stream")
        # Whether the server knows the run already decides how a resumed one goes on.
        assert "RunResumeStatus" in server.bodies("graphql")
    assert recorded_runs(tmp_path, "abc") == []


def test_what_an_interrupted_run_left_is_uploaded_first(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Server()) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        with open_run(LoggerConfig(mode="online", timeout=60), tmp_path, IDENTITY) as found:
            found.log({"train/loss": 0.25, "trainer/global_step": 9})
        sent = server.bodies("file_stream")
    assert -1 < sent.find('\\"train/loss\\":1') < sent.find('\\"train/loss\\":0.25')
    assert recorded_runs(tmp_path, "abc") == []


def test_no_server_slows_or_fails_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that takes a connection and never answers: the worst there is."""
    with serving(Server(delay=3600)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        started = time.monotonic()
        score = train(composed(tmp_path, *SEGMENT, *ONLINE, "logger.timeout=1"))
        assert time.monotonic() - started < 1 + 2 * SLACK
    assert score is not None
    assert "not finished after logger.timeout=1 s" in caplog.text
    (part,) = recorded(tmp_path)
    assert f"upload it later with `wandb sync {tmp_path}/wandb/offline-run-" in caplog.text
    assert part.exit_code == 0
    assert part.summary["test/miou"] == pytest.approx(score, abs=1e-6)
    assert len(recorded_runs(tmp_path, part.id)) == 1


@pytest.mark.slow
def test_broken_servers_cost_the_timeout_and_nothing_else(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Internal errors, too many requests, slow refusals, and nobody there: all at once."""
    servers = {
        "broken": Server(status=500),
        "overloaded": Server(status=429),
        "slow": Server(status=500, delay=1),
    }
    timeout, uploads = 6.0, {}
    with ExitStack() as until_done:
        for server in servers.values():
            until_done.enter_context(serving(server))
        addresses = {name: server.url for name, server in servers.items()}
        addresses["nobody"] = "http://127.0.0.1:9"
        for name, url in addresses.items():
            monkeypatch.setenv("WANDB_BASE_URL", url)
            copy = shutil.copytree(run, tmp_path / name / "wandb" / run.name)
            uploads[name] = Upload(copy.parent, copy, [], timeout)
        for name, sender in uploads.items():
            started = time.monotonic()
            assert not sender.finish(), name
            assert time.monotonic() - started < timeout + SLACK
            for later in uploads.values():  # all have had their time now
                later.timeout = 0.1
    for name, server in servers.items():
        assert server.requests, name
    for name in addresses:
        (part,) = recorded(tmp_path / name)
        assert (part.exit_code, len(part.history)) == (0, 3)


def test_an_account_without_a_key_is_told_so(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    sender = Upload(run.parent, run, [], 60)
    assert not sender.finish()
    assert "upload to W&B failed" in caplog.text
    assert "wandb sync" in caplog.text


def test_a_failed_upload_is_told_while_the_run_goes_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(upload, "__name__", "ddpmseg.no_such_module")
    sender = Upload(run.parent, run, [], 5)
    wait_until(lambda: "no upload to W&B: " in caplog.text)
    assert "no_such_module" in sender.last_words()


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `wandb` whose commands only note what they were asked, and sleep where live."""
    package = tmp_path / "packages" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import pathlib, sys, time\n"
        f"with pathlib.Path({str(tmp_path / 'asked')!r}).open('a') as file:\n"
        "    file.write(' '.join(sys.argv[1:]) + '\\n')\n"
        "time.sleep(3600 if '--live' in sys.argv else 0)\n"
    )
    source = str(Path(upload.__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package.parent), source]))
    return tmp_path / "asked"


def test_a_killed_run_is_uploaded_as_far_as_it_got(stand_in: Path) -> None:
    """Nothing is left waiting for the end of a run that will never come."""
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, sys, time\n"
            f"command = [sys.executable, '-m', '{upload.__name__}', '--live', 'new', '--timeout',"
            " '5', '--parent', str(os.getpid()), '--', 'old']\n"
            "print(subprocess.Popen(command).pid, flush=True)\n"
            "time.sleep(3600)\n",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    commands = ["beta sync --yes old", "beta sync --yes --live new", "beta sync --yes new"]
    wait_until(lambda: stand_in.exists() and stand_in.read_text().splitlines() == commands[:2])
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: stand_in.read_text().splitlines() == commands)
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_run_that_fails_is_recorded_as_failed(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        open_run(LoggerConfig(mode="offline"), tmp_path, IDENTITY),
    ):
        raise ZeroDivisionError
    (path,) = (tmp_path / "wandb").glob("offline-run-*")
    assert read_run(path).exit_code == 1
