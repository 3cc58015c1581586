"""What heads made of corrupted images: one whole record for every finished test."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from ddpmseg.data.corruptions import Corruption
from ddpmseg.io.damage import DAMAGE, checked_counts, read_object, reason_of
from ddpmseg.io.files import atomic_write, explain_unwritable, remove_unfinished
from ddpmseg.io.locks import FolderLocks

log = logging.getLogger(__name__)
VERSION = 1
"""Of the format of records."""
ELSEWHERE = "another `--output`"


@dataclass(frozen=True, eq=False)
class Outcome:
    """A test of one head on one version of its test images.

    counts: pixels by true label (last row: ignored) and predicted label. seconds: it took.
    """

    counts: Int64[Tensor, "k_plus_1 k"]
    seconds: float


class OutcomeStore:
    """The outcomes of one head below `folder`/tests/KEY, where the key is made of `identity`: all
    that decides them. So what is there is done, and a head, images or settings that have changed
    have another place.

    Raises DataError where the folder cannot be written to.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], num_classes: int) -> None:
        text = json.dumps({"version": VERSION, **identity}, sort_keys=True)
        self.folder = folder / "tests" / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.identity, self.num_classes = identity, num_classes

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Wait until no other process tests this head, then keep others waiting."""
        locks = {"tests": f"tests in '{self.folder}' are being made"}
        with ExitStack() as until_done:
            with explain_unwritable(self.folder, ELSEWHERE):
                self.folder.mkdir(parents=True, exist_ok=True)
                until_done.enter_context(FolderLocks(self.folder).hold(locks))
                remove_unfinished(self.folder)
                # For people: nothing reads it.
                with atomic_write(self.folder / "identity.json") as unfinished:
                    unfinished.write_text(json.dumps(self.identity, indent=1), encoding="utf-8")
            yield

    def read(self, corruption: Corruption | None) -> Outcome | None:
        """The outcome of a version, None for the clean images; None where there is no sound record.

        A damaged one is reported.
        """
        path = self._path(corruption)
        if not path.exists():
            return None
        try:
            record = read_object(path)
            counts = checked_counts(record["counts"])
            if len(counts[0]) != self.num_classes:
                raise ValueError(f"it counts {len(counts[0])} classes of {self.num_classes}")
            seconds = float(record["seconds"])
            if not 0 <= seconds < inf:
                raise ValueError(f"it took {seconds} seconds")
            return Outcome(torch.tensor(counts), seconds)
        except DAMAGE as error:
            reason = reason_of(error)
            log.warning("record '%s' is damaged (%s): its test is repeated", path, reason)
            return None

    def write(self, corruption: Corruption | None, outcome: Outcome) -> None:
        record = {"seconds": round(outcome.seconds, 3), "counts": outcome.counts.tolist()}
        path = self._path(corruption)
        with explain_unwritable(self.folder, ELSEWHERE), atomic_write(path) as unfinished:
            unfinished.write_text(json.dumps(record), encoding="utf-8")

    def _path(self, corruption: Corruption | None) -> Path:
        name = f"{corruption.type}_{corruption.severity}" if corruption else "clean"
        return self.folder / f"{name}.json"
