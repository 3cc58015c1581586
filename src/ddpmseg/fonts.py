"""Fonts for texts in any script: installed ones draw what matplotlib's own cannot."""

import logging
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

log = logging.getLogger(__name__)
USUAL = "DejaVu Sans"
"""Comes with matplotlib."""
NOT_DRAWN = ("C", "Z")
"""Categories of characters: control characters and spaces."""
_without_font: set[str] = set()
"""Characters that no installed font has, as far as they were met in this process."""


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


def families_for(text: str) -> list[str]:
    """Families that have all characters of a text between them, the usual one first.

    A warning, once in a process, says that no installed font has some of them.
    """
    families = dict.fromkeys([USUAL])
    for character in dict.fromkeys(text):
        if ord(character) < 128 or unicodedata.category(character)[0] in NOT_DRAWN:
            continue
        family = _family_with(character)
        if family is not None:
            families[family] = None
        elif not _without_font:
            log.warning(
                "no installed font has the character '%s': figures show boxes for it and its like. "
                "Install one, such as Noto Sans CJK (Debian: fonts-noto-cjk) for Chinese, Japanese "
                "and Korean, and draw the figures anew",
                character,
            )
        if family is None:
            _without_font.add(character)
    return list(families)


@cache
def _family_with(character: str) -> str | None:
    """The family of an installed font that has the character; the usual one if it does."""
    known = _first_with(character, fontManager.ttflist)
    return known or _first_with(character, _new_fonts())


def _first_with(character: str, entries: Iterable[FontEntry]) -> str | None:
    ordered = sorted(entries, key=_preference)
    return next((e.name for e in ordered if ord(character) in _characters(e.fname)), None)


def _preference(entry: FontEntry) -> tuple[bool, bool, bool, bool, str]:
    """Smaller for the usual family, for upright sans serif, for the usual weight."""
    return (
        entry.name != USUAL,
        "Sans" not in entry.name,
        entry.style != "normal",
        str(entry.weight) not in ("400", "normal", "regular"),
        entry.name,
    )


@cache
def _characters(file: str) -> frozenset[int]:
    """What a font file has; nothing for one that cannot be read, or that has a box for all."""
    if "LastResort" in file:
        return frozenset()
    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError) as error:
        log.debug("font '%s' cannot be read: %s", file, error)
        return frozenset()


@cache
def _new_fonts() -> list[FontEntry]:
    """Fonts that were installed since matplotlib listed them; it knows them from now on."""
    known = {entry.fname for entry in fontManager.ttflist}
    for file in sorted(set(findSystemFonts()) - known):
        try:
            fontManager.addfont(file)
        except (OSError, RuntimeError, NotImplementedError) as error:
            log.debug("font '%s' cannot be read: %s", file, error)
    return [entry for entry in fontManager.ttflist if entry.fname not in known]
