"""A multirun that is killed twice: does it lose or repeat anything?

`python -m benchmarks.multirun FOLDER`: 24 jobs on ponies by two workers, killed after a third and
after two thirds of them, and repeated. Ends with an error where a job is missing or comes twice.
"""

import argparse
import csv
import logging
import os
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import ROOT
from ddpmseg.multiruns.job_records import PLAN, Job, State, read_jobs

log = logging.getLogger(__name__)
LEDGER = "DDPMSEG_BENCHMARK_PASSES"
"""Environment variable: the file in which every process counts the pairs it begins to compute."""
COUNTING = """
import importlib.abc, importlib.util, os, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "ddpmseg.features.extract":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            count(module.FeatureExtractor)

        spec.loader.exec_module = exec_module
        return spec

def count(extractor):
    forward = extractor._forward

    def counted(self, images, names, pairs):
        lines = [f"{names[i]} {t}\\n" for i, t in pairs if not names[i].startswith("estimate/")]
        with open(os.environ["DDPMSEG_BENCHMARK_PASSES"], "a") as file:
            file.write("".join(lines))
        return forward(self, images, names, pairs)

    extractor._forward = counted

sys.meta_path.insert(0, Finder())
"""
"""A `sitecustomize.py`: runs in every process that the launcher starts."""
JOBS = (
    "features.blocks=[3],[4],[5],[6],[7],[8]",
    "features.timesteps=[0],[50],[150],[250]",
    "head.members=1",
    "dataset.num_test=40",
    "hydra/launcher=joblib",
    "hydra.launcher.n_jobs=2",
    "logger=wandb",
    "logger.mode=offline",
)


@dataclass(frozen=True)
class Outcome:
    """What a multirun left: its folder, its jobs, how often each (image, t) was begun."""

    folder: Path
    jobs: list[Job]
    passes: Counter[str]
    seconds: list[float]
    """Of every start of the command."""

    def cells(self) -> list[tuple[int, int, int]]:
        """(block, timestep, seed) of every row of `cells.csv`."""
        with (self.folder / "cells.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [(int(row["block"]), int(row["timestep"]), int(row["seed"])) for row in rows]

    def wandb_runs(self) -> Counter[str]:
        """Offline runs of W&B that ended well, by the output folder of the job."""
        place = self.folder.parents[2]
        found: Counter[str] = Counter({job.folder: 0 for job in self.jobs})
        for folder in found:
            for path in (place / folder).glob("wandb/offline-run-*/*.wandb"):
                found[folder] += 0 in exit_codes(path)
        return found


def killed_and_repeated(
    program: Path, overrides: Sequence[str], place: Path, after: Sequence[int]
) -> Outcome:
    """Start a multirun in `place`, kill all its processes once so many jobs are done, repeat it.

    The last start runs to its end; RuntimeError where that fails.
    """
    place.mkdir(parents=True, exist_ok=True)
    (place / "counting").mkdir(exist_ok=True)
    (place / "counting" / "sitecustomize.py").write_text(COUNTING, encoding="utf-8")
    path = os.pathsep.join([str(place / "counting"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {
        "PYTHONPATH": path.rstrip(os.pathsep),
        "WANDB_SILENT": "true",
        LEDGER: str(place / "passes.txt"),
    }
    command = [sys.executable, str(program), "-m", *overrides]
    seconds = []
    for enough in after:
        started = time.perf_counter()
        _kill_when(
            lambda enough=enough: _num_finished(place) >= enough, command, place, environment
        )
        seconds.append(time.perf_counter() - started)
        log.info("killed after %d jobs, %.1f s", _num_finished(place), seconds[-1])
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    seconds.append(time.perf_counter() - started)
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}:\n{done.stdout}\n{done.stderr}")
    folder = _folder(place)
    assert folder is not None
    passes = Counter((place / "passes.txt").read_text(encoding="utf-8").splitlines())
    return Outcome(folder, read_jobs(folder), passes, seconds)


def _kill_when(
    enough: Callable[[], bool], command: Sequence[str], cwd: Path, environment: Mapping[str, str]
) -> None:
    with (cwd / "killed.log").open("a", encoding="utf-8") as told:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=told, stderr=told, start_new_session=True
        )
    try:
        while not enough():
            if process.poll() is not None:
                raise RuntimeError(
                    f"ended by itself:\n{(cwd / 'killed.log').read_text(encoding='utf-8')}"
                )
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _folder(place: Path) -> Path | None:
    found = list(place.glob(f"outputs/multirun/*/{PLAN}"))
    return found[0].parent if found else None


def _num_finished(place: Path) -> int:
    folder = _folder(place)
    if folder is None:
        return 0
    return sum(job.state in (State.DONE, State.SKIPPED) for job in read_jobs(folder))


def exit_codes(path: Path) -> list[int]:
    """Of a file of W&B's: 0 for a run that ended well; nothing for one that was cut off.

    The format is LevelDB's log, blocks of 32768 bytes, behind a header of seven.
    """
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    data, position, whole, found = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:  # padding
            position += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        whole += data[position + 7 : position + 7 + size]
        position += 7 + size
        if position > len(data):
            break  # cut off while it was written
        if kind in (1, 4):  # a whole record, or its last part
            record = Record.FromString(whole)
            whole = b""
            if record.WhichOneof("record_type") == "exit":
                found.append(record.exit.exit_code)
    return found


def main() -> int:
    """Exit status 1 where something was lost or came twice."""
    parser = argparse.ArgumentParser("python -m benchmarks.multirun", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder for everything")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    outcome = killed_and_repeated(ROOT / "train.py", JOBS, chosen.folder.resolve(), (8, 16))
    cells, runs = Counter(outcome.cells()), outcome.wandb_runs()
    repeated = outcome.passes.total() - len(outcome.passes)
    log.info("seconds of each start: %s", ", ".join(f"{s:.1f}" for s in outcome.seconds))
    log.info("jobs: %s", dict(Counter(str(job.state) for job in outcome.jobs)))
    log.info("cells: %d, of these twice: %d", len(cells), sum(n > 1 for n in cells.values()))
    log.info(
        "(image, t) pairs: %d begun, %d of them, in flight at a kill, a second time",
        len(outcome.passes),
        repeated,
    )
    log.info("finished W&B runs of a job: %s", dict(Counter(runs.values())))
    whole = len(cells) == len(outcome.jobs) == 24 and set(cells.values()) == {1}
    return 0 if whole and min(runs.values()) >= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
