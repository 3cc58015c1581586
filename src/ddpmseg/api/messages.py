"""Error messages of the programs, with settings by the names that Python gives them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ddpmseg.errors import UserError

NAMES = {
    "trainer.accelerator": "device",
    "paths.output_dir": "folder",
    "paths.overwrite=true": "overwrite=True",
    "sweep.head": "head",
}
GROUPS = re.compile(r"`(?:sweep\.head|backbone|features|head|sweep|dataset)\.(?=\w)")


@contextmanager
def python_names() -> Iterator[None]:
    """Let a UserError name `members` for what a command line calls `head.members`."""
    try:
        yield
    except UserError as error:
        text = str(error)
        for key, name in NAMES.items():
            text = text.replace(f"`{key}", f"`{name}")
        error.args = (GROUPS.sub("`", text),)
        raise
