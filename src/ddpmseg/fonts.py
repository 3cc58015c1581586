"""Fonts for texts in any script: installed ones draw what matplotlib's own cannot."""

import logging
import unicodedata
from collections.abc import Iterable
from functools import cache

from matplotlib.font_manager import FontEntry, findfont, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font

log = logging.getLogger(__name__)
USUAL = "DejaVu Sans"
"""Comes with matplotlib."""
NOT_DRAWN = ("C", "Z")
"""Categories of characters: control characters and spaces."""
_without_font: set[str] = set()
"""Characters that no installed font has, as far as they were met in this process."""


def families_for(text: str) -> list[str]:
    """Families that have all characters of a text between them, the usual one first.

    A warning, once in a process, says that no installed font has some of them.
    """
    fonts = filter(None, map(_font_for, dict.fromkeys(text)))
    return list(dict.fromkeys([USUAL, *(font.name for font in fonts)]))


def split_by_font(text: str) -> list[tuple[str, str]]:
    """The text in pieces, each with the path of a font file that has its characters.

    The usual font draws what no installed font has; warns as `families_for`.
    """
    usual = findfont(USUAL)
    pieces: list[tuple[str, str]] = []
    for character in text:
        font = _font_for(character)
        file = usual if font is None else font.fname
        if pieces and pieces[-1][0] == file:
            pieces[-1] = (file, pieces[-1][1] + character)
        else:
            pieces.append((file, character))
    return pieces


def _font_for(character: str) -> FontEntry | None:
    """An installed font that has the character; None where the usual one will do, or none has it.

    Warns of the first character that no font has.
    """
    if ord(character) < 128 or unicodedata.category(character)[0] in NOT_DRAWN:
        return None
    font = _font_with(character)
    if font is None:
        if not _without_font:
            log.warning(
                "no installed font has the character '%s': figures show boxes for it and its like. "
                "Install one, such as Noto Sans CJK (Debian: fonts-noto-cjk) for Chinese, Japanese "
                "and Korean, and draw the figures anew",
                character,
            )
        _without_font.add(character)
    return font


@cache
def _font_with(character: str) -> FontEntry | None:
    """An installed font that has the character; the usual one if it does."""
    known = _first_with(character, fontManager.ttflist)
    return known or _first_with(character, _new_fonts())


def _first_with(character: str, entries: Iterable[FontEntry]) -> FontEntry | None:
    ordered = sorted(entries, key=_preference)
    return next((e for e in ordered if ord(character) in _characters(e.fname)), None)


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
