"""Tables as the commands give them out: to stdout or a file, with or without a figure."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ddpmseg.errors import ConfigError
from ddpmseg.io.files import written_whole
from ddpmseg.tables.markup import FORMATS
from ddpmseg.tables.table import Table
from ddpmseg.tables.terminal import as_text

log = logging.getLogger(__name__)
FIGURES = (".png", ".svg")
STYLES: dict[str, Callable[[Table], str]] = {"text": as_text, **FORMATS}


def deliver(text: str, output: Path | None, what: str) -> None:
    """Write `text` to `output`, and say `what` it holds, or to stdout."""
    if output is None:
        sys.stdout.write(text)
        return
    with place_of(output), written_whole(output) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    log.info("%s in %s", what, output)


@contextmanager
def place_of(path: Path) -> Iterator[None]:
    """Make the folder of a file that the block writes; ConfigError where one of them fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ConfigError(
            f"'{path}' cannot be written ({error.strerror}). Name another file."
        ) from error


def check_figure(figure: Path | None) -> None:
    """ConfigError for a name that tells no known format."""
    if figure is not None and figure.suffix not in FIGURES:
        raise ConfigError(f"--figure {figure}: the name must end in {' or '.join(FIGURES)}.")
