"""Names are drawn in any script that an installed font has; one sentence says that none has it."""

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from ddpmseg import fonts
from ddpmseg.data.class_table import ClassTable
from ddpmseg.records.pictures import contact_sheet
from ddpmseg.report.canvas import axes_at, house_style, paper, save_figure, text_width, write

HORSE, LEG = "\u9a6c", "\u817f"
FAMILY = "A Tiny Sans"


@pytest.fixture(autouse=True)
def without_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No installed font has these characters, whatever this machine has."""
    monkeypatch.setattr(fonts, "findSystemFonts", list)
    kept = [e for e in fontManager.ttflist if ord(HORSE) not in fonts._characters(e.fname)]
    monkeypatch.setattr(fontManager, "ttflist", kept)
    forget()
    yield
    forget()


def forget() -> None:
    fonts._font_with.cache_clear()
    fonts._new_fonts.cache_clear()
    fonts._without_font.clear()


def save_font(path: Path) -> None:
    """A font that has one character, twice as wide as it is high: a bar along its foot."""
    pen = TTGlyphPen(None)
    for number, point in enumerate([(0, 0), (0, 100), (2000, 100), (2000, 0)]):
        (pen.lineTo if number else pen.moveTo)(point)
    pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "horse"])
    font.setupCharacterMap({ord(HORSE): "horse"})
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "horse": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (500, 0), "horse": (2000, 0)})
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupNameTable({"familyName": FAMILY, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)


@pytest.fixture
def new_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A font with the character for a horse was installed after matplotlib listed all fonts."""
    save_font(tmp_path / "tiny.ttf")
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: [str(tmp_path / "tiny.ttf")])


def drawn(text: str) -> Figure:
    """The text as a title and as the label of a tick."""
    with house_style():
        figure = paper(2, 1)
        write(figure, 0.2, 0.1, text, room=1.8)
        axes_at(figure, 1, 0.4, 0.8, 0.4).set_yticks([0], [text])
    return figure


def pixels(figure: Figure) -> np.ndarray:
    file = io.BytesIO()
    figure.savefig(file, format="rgba")
    return np.frombuffer(file.getvalue(), np.uint8)


@pytest.mark.usefixtures("new_font")
def test_a_font_that_has_the_characters_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert fonts.families_for(f"a {HORSE}") == [fonts.USUAL, FAMILY]
    assert text_width(HORSE, 72) == pytest.approx(2, abs=0.05)
    figure = drawn(f"a {HORSE}")
    for suffix in ("png", "svg"):
        save_figure(figure, tmp_path / f"figure.{suffix}")
    assert FAMILY in (tmp_path / "figure.svg").read_text(encoding="utf-8")
    assert not np.array_equal(pixels(figure), pixels(drawn(f"a {LEG}")))  # a box
    assert len(caplog.records) == 1
    assert LEG in caplog.text


def legend(*names: str) -> np.ndarray:
    """The names of classes beside a contact sheet, as grey values (height, width)."""
    palette = np.full((len(names), 3), 255, np.uint8)
    sheet = contact_sheet([], ClassTable("tiny", names, palette, 255, None, None), titles=[])
    return np.asarray(sheet.convert("L"))[22:, 26:]


@pytest.mark.usefixtures("new_font")
def test_a_contact_sheet_draws_names_of_classes_in_such_a_font(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inked = np.argwhere(legend(HORSE) < 128)
    height, width = np.ptp(inked, axis=0) + 1
    assert width == pytest.approx(20, abs=1)  # the bar of the font above, at 10 pixels
    assert height <= 2
    ink = {name: (legend(name) < 128).sum(0).nonzero()[0].max() for name in ("ab", f"ab{HORSE}")}
    assert ink[f"ab{HORSE}"] == pytest.approx(ink["ab"] + 20, abs=3)
    assert not caplog.records
    legend(LEG)
    assert len(caplog.records) == 1


def test_one_sentence_says_that_no_font_has_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(3):
            save_figure(drawn(f"{HORSE}{LEG}"), tmp_path / f"{number}.png")
            pixels(drawn(f"{HORSE} {LEG}"))  # as a program that has the figure saves it
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"no installed font has the character '{HORSE}': figures show boxes for it and its like. "
        "Install one, such as Noto Sans CJK (Debian: fonts-noto-cjk)"
    )


def test_names_that_the_usual_font_has_keep_it(caplog: pytest.LogCaptureFixture) -> None:
    for text in ("head / eye", "Pferdeköpfe…", "лошадь", "±1", "a\n\tb\u200b\u00a0c"):
        assert fonts.families_for(text) == [fonts.USUAL]
    assert not caplog.records
