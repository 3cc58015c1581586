"""Recorded W&B runs on their way to the server, in a process of its own.

A run never talks to the network itself: it records, and this process reads what it has recorded and
sends it. So a server that is slow, overloaded or not there costs the run nothing but the seconds it
is willing to wait at its end. `python -m ddpmseg.tracking.upload` is that process; it imports the
standard library alone.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

log = logging.getLogger(__name__)
LOG = "upload.log"
"""Beside the recorded runs: what `wandb sync` said."""
PATTERN = "offline-run-*"
"""Names of recorded runs."""
POLL = 0.2
"""Seconds between looks at a process."""


class Upload:
    """The process that uploads `run` while it is recorded, after the `earlier` ones of its name.

    `run` is None where all runs are recorded already. The process ends when everything is sent,
    when `finish` has waited long enough, and when this process dies.
    """

    def __init__(
        self, log_folder: Path, run: Path | None, earlier: Sequence[Path], timeout: float
    ) -> None:
        self.timeout = timeout
        self.log_path = log_folder / LOG
        self.recorded = [*earlier, *([] if run is None else [run])]
        live = [] if run is None else ["--live", str(run)]
        options = [*live, "--parent", str(os.getpid()), "--timeout", str(timeout)]
        with self.log_path.open("a", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, *options, "--", *map(str, earlier)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the run, which then ends its upload
            )
        self._finishing = False
        Thread(target=self._watch, daemon=True).start()

    def finish(self) -> bool:
        """Wait for the rest, at most `timeout` seconds; whether all was sent."""
        self._finishing = True
        try:
            status = self._process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            _end_group(self._process)
            reason = f"was not finished after logger.timeout={self.timeout:g} s"
        else:
            if not status:
                return True
            reason = f"failed ({self.last_words()})"
        log.warning(
            "the upload to W&B %s. All is recorded; upload it later with `wandb sync %s`. "
            "More in %s",
            reason,
            self.recorded[0] if len(self.recorded) == 1 else self.recorded[0].parent / PATTERN,
            self.log_path,
        )
        return False

    def last_words(self) -> str:
        """What `wandb sync` said last, in a line; where there is an error, that."""
        lines = [
            line.removeprefix("wandb: ")
            for line in self.log_path.read_text(encoding="utf-8").splitlines()
        ]
        output = [line.strip() for line in lines if line.strip() not in ("", "ERROR")]
        errors = [line for line in output if "error" in line.lower()]
        return (errors or output or ["it said nothing"])[-1][:200]

    def _watch(self) -> None:
        """Say at once that nothing is uploaded, not only when the run ends hours later."""
        status = self._process.wait()
        if status and not self._finishing:
            log.warning("no upload to W&B: %s. The run is recorded all the same", self.last_words())


def main(arguments: Sequence[str] | None = None) -> int:
    """Upload the runs given, then the live one as it grows; the exit status of the last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--live", help="a run that is still being recorded")
    parser.add_argument("--parent", type=int, required=True, help="the process that records it")
    parser.add_argument("--timeout", type=float, required=True, help="once that process is gone")
    parser.add_argument("recorded", nargs="*")
    options = parser.parse_args(arguments)
    status = 0
    if options.recorded:
        status = _sync(options.recorded, options.parent, options.timeout)
    if options.live is None or status:
        return status
    status = _sync(["--live", options.live], options.parent, 0)
    if os.getppid() != options.parent:
        # A run that was killed never says that it has ended, for which --live would wait for ever.
        status = _sync([options.live], options.parent, options.timeout)
    return status


def _sync(what: Sequence[str], parent: int, patience: float) -> int:
    """Run `wandb beta sync`, until `patience` seconds after the parent is gone."""
    process = subprocess.Popen([sys.executable, "-m", "wandb", "beta", "sync", "--yes", *what])
    gone_at = None
    while process.poll() is None:
        if os.getppid() != parent:
            gone_at = gone_at or time.monotonic()
            if time.monotonic() - gone_at >= patience:
                process.terminate()
                return process.wait() or 1
        time.sleep(POLL)
    return process.returncode


def _end_group(process: subprocess.Popen) -> None:
    """End the process and those it started, kindly first."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signum)
            process.wait(2)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


if __name__ == "__main__":
    sys.exit(main())
