"""Stops programs at any moment, repeats them, and compares with what they leave undisturbed.

python tests/stops.py kill FOLDER [PROGRAM ...] [--times 20]    kills at random moments
python tests/stops.py fill FOLDER [PROGRAM ...] [--disks 14]     on a disk that is full; needs root

A child takes over the libraries that its parent has imported, so that most kills meet the program
at its work. Exit status 1 if a repeated program leaves other files, or does not end as it should.
"""

import argparse
import csv
import io
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tiny_run import CONF, DISTILL, HARDWARE, PRETRAIN, ROOT, SEGMENT, SWEEP, UNET

log = logging.getLogger(__name__)
CONFIG = ("--config-dir", str(CONF))
LONGER = ("head.max_steps=2100", "head.batch_size=16", "trainer.log_every_n_steps=50")
JOBS = (
    *(o for o in SEGMENT if not o.startswith(("features.blocks", "features.timesteps"))),
    *LONGER,
    "features.timesteps=[5],[50]",
    "features.blocks=[1],[2]",
    "hydra/launcher=joblib",
    "hydra.launcher.n_jobs=2",
    "hydra.sweep.dir=out",
)
DRAWN = ("random", *UNET, "backbone.precision='32'", *HARDWARE, "--steps", "10", *CONFIG)
LEFT_OVER = re.compile(r".*\.log|report\.html|multirun\.yaml|\..*")
"""Names of files that may differ: logs, a page that shows seconds, Hydra's record of the folder it
ran in, and what is hidden."""
MEASURED = re.compile(r"seconds.*|pairs_.*|peak_rss_mb")
SIZES = (0, 4, 16, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
"""Room on a disk of 32 MB that is almost full, in kB."""


@dataclass(frozen=True)
class Program:
    """A command that works in `out`, and what must have run in the same folder before."""

    words: Sequence[str]
    before: Sequence[Sequence[str]] = field(default=())
    is_forked: bool = True
    """False if it starts processes of its own that must be killed with it."""
    disk: int = 32
    """MB of a disk that has room for all it writes."""


RUN = ("train", *SEGMENT, "paths.output_dir=run")
SAMPLES = ("sample", *DRAWN, "--num", "12", "--output", "samples", "--labels", "run")
OUT = "paths.output_dir=out"
PROGRAMS = {
    "train": Program(("train", *SEGMENT, *LONGER, OUT)),
    "paper": Program(("train", *SEGMENT, *LONGER, OUT, "head.protocol=paper")),
    "sweep": Program(("sweep", *SWEEP, "sweep.head.max_steps=200", OUT)),
    "multirun": Program(("train", "-m", *JOBS), is_forked=False),
    "pretrain": Program(
        ("train", *PRETRAIN, "pretrain.num_steps=40", "pretrain.sample_every=10", OUT)
    ),
    "distill": Program(
        ("train", *DISTILL, "segmenter.images=samples", "segmenter.num_epochs=4", OUT),
        before=(RUN, SAMPLES),
        disk=1024,  # its weights take 44 MB an epoch
    ),
    "sample": Program(
        ("sample", *DRAWN, "--num", "24", "--output", "out", "--labels", "run", "--keep", "20"),
        before=(RUN,),
    ),
}


def start(program: Program, folder: Path, words: Sequence[str] = ()) -> int:
    """Start a command in a folder, in a process group of its own; returns its process id."""
    words = words or program.words
    if not program.is_forked:
        command = [sys.executable, "-m", "ddpmseg", *words]
        with (folder.parent / f"{folder.name}.out").open("w") as told:
            return subprocess.Popen(
                command, cwd=folder, stdout=told, stderr=told, start_new_session=True
            ).pid
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        told = os.open(folder.parent / f"{folder.name}.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(told, 1)
        os.dup2(told, 2)
        os.chdir(folder)
        from ddpmseg.__main__ import main

        sys.argv = ["ddpmseg", *words]
        try:
            status = main(list(words))
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def ended(process: int) -> int:
    """Wait for a process; its exit status, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def completed(program: Program, folder: Path, words: Sequence[str] = ()) -> float:
    """Run a command to its end; its seconds. RuntimeError if it fails."""
    started = time.perf_counter()
    status = ended(start(program, folder, words))
    if status:
        said = (folder.parent / f"{folder.name}.out").read_text()
        raise RuntimeError(f"status {status}:\n{said[-3000:]}")
    return time.perf_counter() - started


def results(folder: Path) -> dict[str, object]:
    """What a program has found in a folder, file by file."""
    found = {}
    for path in sorted(path for place in _places(folder) for path in place.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(LEFT_OVER.fullmatch(part) for part in relative.parts):
            found[str(relative)] = _content(path)
    return found


def _places(folder: Path) -> list[Path]:
    """Where a program leaves what it has found; jobs of a multirun leave it in the second."""
    return [folder / "out", folder / "outputs"]


def _content(path: Path) -> object:
    if path.name == "last.ckpt":
        saved = torch.load(path, weights_only=True)
        saved["callbacks"].pop("Checkpoint")
        saved["loops"] = None  # which count what was begun
        buffer = io.BytesIO()
        torch.save(saved, buffer)
        return buffer.getvalue()
    if path.suffix == ".csv":
        rows = csv.DictReader(io.StringIO(path.read_text(), newline=""))
        return [
            {key: value for key, value in row.items() if not MEASURED.fullmatch(key)}
            for row in rows
        ]
    if path.suffix == ".json":
        record = json.loads(path.read_text())
        return {key: value for key, value in record.items() if key != "seconds"}
    return path.read_bytes()


def differing(found: dict[str, object], expected: dict[str, object]) -> list[str]:
    return [
        name
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]


def unfinished(folder: Path) -> list[str]:
    """Files and folders that a program has left half written."""
    found = (path for place in _places(folder) for path in place.rglob(".*.tmp"))
    return sorted(str(path.relative_to(folder)) for path in found)


def prepared(program: Program, folder: Path) -> Path:
    """A new folder in which everything has run that the program needs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for words in program.before:
        completed(Program(words), folder)
    return folder


def kill(name: str, place: Path, times: int, seed: int) -> bool:
    """Kill a program `times` times, in rounds of one to three kills, and complete it after each."""
    program, drawn = PROGRAMS[name], random.Random(f"{name} {seed}")
    folder = prepared(program, place / name)
    seconds = completed(program, folder)
    expected = results(folder)
    done, late, wrong = 0, 0, []
    while done < times:
        for found in _places(folder):
            shutil.rmtree(found, ignore_errors=True)
        moments = []
        for _ in range(min(drawn.randint(1, 3), times - done)):
            moments.append(drawn.uniform(0, seconds))
            process = start(program, folder)
            time.sleep(moments[-1])
            try:
                os.killpg(process, signal.SIGKILL)
            except ProcessLookupError:  # before it had a group of its own
                os.kill(process, signal.SIGKILL)
            done += 1
            if ended(process) >= 0:
                late += 1
        if _is_finished(folder / "out"):
            continue
        completed(program, folder)
        if names := [*differing(results(folder), expected), *unfinished(folder)]:
            wrong.append((moments, names))
    for moments, names in wrong:
        log.info("%s killed after %s s: %s differ", name, [round(m, 2) for m in moments], names)
    log.info(
        "%s: %.1f s undisturbed; %d kills (%d of them after its end), %d rounds with other files",
        *(name, seconds, done, late, len(wrong)),
    )
    return not wrong


def _is_finished(out: Path) -> bool:
    """Whether a single run is finished, which is then never replaced."""
    return any((out / name).exists() for name in ("results.csv", "unet.json"))


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Callable[[int | None], None]]:
    """Put a disk of `size` MB at `folder`. What it gives leaves so many kB free on it, or all."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder)]
    subprocess.run(mounted, check=True)
    filler = folder / "filler"

    def leave(room: int | None) -> None:
        filler.unlink(missing_ok=True)
        if room is not None:
            free = os.statvfs(folder).f_bavail * 4096 - room * 1024
            filler.write_bytes(bytes(max(0, free)))

    try:
        yield leave
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(name: str, place: Path, disks: int) -> bool:
    """Run a program on a disk with ever more room, then make room and repeat it."""
    program, wrong = PROGRAMS[name], 0
    source = prepared(program, place / name)
    shutil.copytree(source, place / f"{name}_undisturbed")
    completed(program, place / f"{name}_undisturbed")
    expected = results(place / f"{name}_undisturbed")
    fitted = 0
    rooms = [size * program.disk // 32 for size in SIZES[:: max(1, len(SIZES) // disks)]]
    for room in rooms:
        folder = place / f"{name}_disk"
        with disk(folder, program.disk) as leave:
            shutil.copytree(source, folder, dirs_exist_ok=True)
            leave(room)
            status = ended(start(program, folder))
            said = (place / f"{folder.name}.out").read_text()
            problems = []
            if status == 0:
                fitted += 1
            else:
                errors = re.findall(r"^error: .*", said, re.MULTILINE)
                at_most = 1 if program.is_forked else 3  # two workers, and their parent
                if status != 2 or "Traceback" in said or not 1 <= len(errors) <= at_most:
                    problems.append(f"status {status}, said: {said[-1500:]}")
            leave(None)
            if not _is_finished(folder / "out"):
                completed(program, folder)
            if names := [*differing(results(folder), expected), *unfinished(folder)]:
                problems.append(f"{names} differ")
            for problem in problems:
                log.info("%s with %d kB: %s", name, room, problem)
            wrong += bool(problems)
    log.info(
        "%s: %d disks, %d of them with enough room, %d with problems",
        *(name, len(rooms), fitted, wrong),
    )
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("how", choices=("kill", "fill"))
    parser.add_argument("folder", type=Path, help="a new folder for everything")
    parser.add_argument("programs", nargs="*", default=list(PROGRAMS), metavar="PROGRAM")
    parser.add_argument("--times", type=int, default=20, help="kills of each program")
    parser.add_argument("--disks", type=int, default=len(SIZES), help="that a program is run on")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    place = chosen.folder.resolve()
    # What a child takes over: all that the programs import.
    from ddpmseg.cli import tasks
    from ddpmseg.runs import train
    from ddpmseg.sampling import sample
    from ddpmseg.sweeps import sweep

    assert all((tasks, train, sample, sweep))
    os.chdir(ROOT)
    if chosen.how == "kill":
        good = [kill(name, place, chosen.times, chosen.seed) for name in chosen.programs]
    else:
        good = [fill(name, place, chosen.disks) for name in chosen.programs]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
