"""Settings of the whole test run."""

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
