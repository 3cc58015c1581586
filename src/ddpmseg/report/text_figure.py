"""Figures whose texts are drawn in fonts that have their characters."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text

from ddpmseg.fonts import families_for


class TextFigure(Figure):
    """A figure whose texts are drawn in fonts that have their characters, wherever it is saved."""

    def draw(self, renderer: Any) -> None:
        for axes in self.axes:  # whose ticks get their texts when they are asked for
            for axis in (axes.xaxis, axes.yaxis):
                axis.get_ticklabels()
        for found in self.findobj(Text):
            assert isinstance(found, Text)
            families = families_for(found.get_text())
            if len(families) > 1:
                found.set_fontfamily(families)
        with quiet_about_glyphs():
            super().draw(renderer)


@contextmanager
def quiet_about_glyphs() -> Iterator[None]:
    """Silence matplotlib's warnings about single characters; `families_for` gives one for all."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield
