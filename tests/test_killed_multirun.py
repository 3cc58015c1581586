"""A multirun by two workers, killed twice and repeated: nothing is lost or computed twice."""

from pathlib import Path

import pytest
from tiny_run import ROOT, SEGMENT

from benchmarks.multirun import killed_and_repeated
from ddpmseg.multiruns.job_records import State

JOBS = (
    *(o for o in SEGMENT if not o.startswith(("features.blocks", "features.timesteps", "head."))),
    "head.members=1",
    "head.hidden=[8]",
    "head.max_steps=3",
    "features.batch_size=2",
    "features.timesteps=[5],[50]",
    "features.blocks=[1],[2]",
    "hydra/launcher=joblib",
    "hydra.launcher.n_jobs=2",
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_and_nothing_computed_twice(tmp_path: Path) -> None:
    found = killed_and_repeated(ROOT / "train.py", JOBS, tmp_path / "place", (1, 2))
    assert {job.state for job in found.jobs} == {State.DONE}
    assert [job.number for job in found.jobs] == list(range(4))
    assert sorted(found.cells()) == [(b, t, 0) for b in (1, 2) for t in (5, 50)]
    assert (found.folder / "report.html").is_file()
    # One pass gives the maps of both blocks: (3 + 2 images) x 2 timesteps.
    assert len(found.passes) == 10
    # Only what two workers had in flight at two kills, two pairs each, may be begun again.
    assert found.passes.total() - len(found.passes) <= 8
    assert not (found.folder / "maps").exists()
