"""White paper for figures: one style, positions in inches from the top left, widths of texts.

Everything has a place computed beforehand. So nothing overlaps, whatever the size of a grid, and no
layout engine has to draw a figure before it can be drawn.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from numpy import ndarray

from ddpmseg.data.class_table import ClassTable
from ddpmseg.fonts import families_for
from ddpmseg.io.files import atomic_write
from ddpmseg.report.text_figure import TextFigure, quiet_about_glyphs

DPI = 150
GREY, DARK = "#767676", "#222222"
SMALL, NORMAL = 7.0, 8.5
"""Font sizes in points."""
MARGIN = 0.15
_STYLE: dict[Any, Any] = {
    "font.size": NORMAL,
    "text.color": DARK,
    "axes.labelcolor": DARK,
    "axes.titlesize": NORMAL,
    "axes.labelsize": NORMAL,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": DARK,
    "ytick.labelcolor": DARK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "hatch.linewidth": 0.5,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.borderaxespad": 0.0,
    "legend.borderpad": 0.0,
    "legend.labelspacing": 0.35,
    # Names of classes and backbones are no formulae, even with dollar signs in them.
    "text.parse_math": False,
    # Vector formats keep every picture by itself.
    "image.composite_image": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "ddpmseg",
}


@contextmanager
def house_style() -> Iterator[None]:
    """The same look whatever the user's matplotlibrc says; settings are put back afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def save_figure(figure: Figure, path: Path) -> None:
    """Write it as PNG or SVG, by the suffix, the same bytes every time."""
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with house_style(), atomic_write(path) as unfinished:
        figure.savefig(unfinished, format=path.suffix[1:], dpi=DPI, metadata=metadata)


def paper(width: float, height: float) -> Figure:
    """An empty figure of whole pixels; sizes in inches."""
    return TextFigure((round(width * DPI) / DPI, round(height * DPI) / DPI), dpi=DPI)


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes with the upper left corner at (left, top), all in inches."""
    across, down = figure.get_size_inches()
    return figure.add_axes(
        (left / across, 1 - (top + height) / down, width / across, height / down)
    )


def desk(figure: Figure) -> Axes:
    """Invisible axes over all the paper, in inches from its upper left corner.

    Axes are slow to make; dozens of pictures share these.
    """
    across, down = figure.get_size_inches()
    axes = axes_at(figure, 0, 0, across, down)
    axes.set(xlim=(0, across), ylim=(down, 0), autoscale_on=False)
    axes.set_axis_off()
    return axes


def inches_of(axes: Axes) -> tuple[float, float]:
    """Width and height of axes in inches."""
    box = axes.get_window_extent()
    return box.width / DPI, box.height / DPI


def write(
    figure: Figure, left: float, top: float, text: str, room: float | None = None, **look: Any
) -> Text:
    """Put a text with its upper left corner at (left, top), cut to `room`; inches."""
    across, down = figure.get_size_inches()
    look = {"va": "top", "size": NORMAL} | look
    shown = text if room is None else fitted(text, look["size"], room)
    return figure.text(left / across, 1 - top / down, shown, **look)


def headline(figure: Figure, left: float, title: str, note: str) -> None:
    """A title and a line in grey below it; together they take `HEAD` inches."""
    room = figure.get_size_inches()[0] - left - 0.05
    write(figure, left, MARGIN, title, room, size=10)
    write(figure, left, MARGIN + 0.2, note, room, size=NORMAL - 0.5, color=GREY)


HEAD = MARGIN + 0.45


def text_width(text: str, size: float) -> float:
    """Inches that a line takes in the font of the figures."""
    font = FontProperties(family=families_for(text), size=size)
    with quiet_about_glyphs():
        return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72


def widest(texts: Iterable[str], size: float) -> float:
    """Inches of the longest line, 0 for none."""
    return max((text_width(text, size) for text in texts), default=0.0)


def fitted(text: str, size: float, room: float) -> str:
    """The text, or as much of its beginning as fits `room` inches, and an ellipsis."""
    if text_width(text, size) <= room:
        return text
    end = len(text)
    while end > 1 and text_width(text[:end].rstrip() + "…", size) > room:
        end -= 1
    return text[:end].rstrip() + "…"


def class_labels(classes: ClassTable) -> tuple[str, ...]:
    """Names without their path ('head***eye***iris' becomes 'iris') where that is unambiguous."""
    last = [name.split("***")[-1] for name in classes.names]
    return tuple(
        short if last.count(short) == 1 else name.replace("***", " / ")
        for short, name in zip(last, classes.names, strict=True)
    )


def hexadecimal(colour: UInt8[ndarray, " 3"]) -> str:
    """RGB as '#rrggbb'."""
    return "#" + bytes(colour).hex()
