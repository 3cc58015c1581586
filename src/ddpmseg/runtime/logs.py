"""How the programs talk: our own lines, not those of the libraries below."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddpmseg.io.files import FULL, explain_unwritable

NOISE = (
    # Lightning's advice about loaders and loggers; ours are made the way they are on purpose.
    ".*does not have many workers.*",
    ".*dataloader is not resumable.*",
    # The values are those of all ranks already.
    ".*when logging on epoch level in distributed setting.*",
    # Jobs of a multirun start without it, and so do single runs on a node of a cluster.
    "The `srun` command is available on your system but is not used",
    # Of Hydra, about conf/hydra/launcher/, whose files have the names of the plugin's schemas.
    r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema",
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


class _LogFile(logging.FileHandler):
    """A log file whose lines are lost on a full disk.

    The program itself says that the disk is full as soon as it writes anything else.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not _is_full(sys.exception()):
            super().handleError(record)

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # what was not written yet
            if not _is_full(error):
                raise


def _is_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in FULL


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append all log lines to `path` as well; a multirun closes the file of each job."""
    with explain_unwritable(path):
        handler = _LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
