"""How the programs talk: our own lines, not those of the libraries below."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOISE = (
    # Lightning's advice about loaders and loggers; ours are made the way they are on purpose.
    ".*does not have many workers.*",
    ".*dataloader is not resumable.*",
    # The values are those of all ranks already.
    ".*when logging on epoch level in distributed setting.*",
    # Jobs of a multirun start without it, and so do single runs on a node of a cluster.
    "The `srun` command is available on your system but is not used",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    # Of torch.compile, about the float32 parts of a network that runs in 16 bits.
    "TensorFloat32 tensor cores .* available but not enabled.*",
)


def quiet_libraries() -> None:
    """Silence hints of Lightning that do not concern a user of this package; errors still show."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append all log lines to `path` as well; a multirun closes the file of each job."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
