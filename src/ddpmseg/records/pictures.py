"""Predicted masks as files, and a contact sheet that shows at a glance what a head has learnt."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pytorch_lightning.callbacks import Callback

from ddpmseg import ranks
from ddpmseg.data.class_table import ClassTable
from ddpmseg.heads.segment import Segmentation
from ddpmseg.io.files import atomic_write, explain_unwritable
from ddpmseg.io.tensor_file import npy

COLUMN_TITLES = ("image", "truth", "prediction", "uncertainty")
NAME_SIZE, NAME_ASCENT = 10, 10
"""Height of the letters of a class name, and their baseline below its corner, in pixels."""


class PredictionWriter(Callback):
    """Write the mask of every test image below `folder`/masks, and `overlays.png` at the end.

    On several devices each rank writes the masks of its share, and rank 0 the sheet, which shows
    the first images of all.
    """

    def __init__(self, folder: Path, classes: ClassTable, sheet_rows: int = 8) -> None:
        self.folder, self.classes, self.sheet_rows = folder, classes, sheet_rows
        self.rows: list[list[NDArray[np.uint8]]] = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: tuple[torch.Tensor, torch.Tensor, list[str]],
        *_: object,
    ) -> None:
        assert isinstance(outputs, Segmentation)
        images, truths, names = batch
        for index, name in enumerate(names):
            mask = outputs.masks[index].cpu().numpy().astype(np.uint8)
            write_mask(self.folder / "masks" / Path(name).name, mask, self.classes)
            if len(self.rows) < self.sheet_rows:
                photo = images[index].permute(1, 2, 0).cpu().numpy()
                self.rows.append(
                    [
                        photo,
                        overlay(photo, truths[index].cpu().numpy(), self.classes),
                        overlay(photo, mask, self.classes),
                        heat(outputs.disagreement[index].cpu().numpy()),
                    ]
                )

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        rows = [row for part in ranks.gathered(self.rows) for row in part][: self.sheet_rows]
        if not ranks.is_first():
            return
        with atomic_write(self.folder / "overlays.png") as unfinished:
            contact_sheet(rows, self.classes).save(unfinished, format="png")


def write_mask(stem: Path, mask: NDArray[np.uint8], classes: ClassTable) -> None:
    """Write STEM.npy (uint8 labels) and STEM.png (the same labels, indexed, in colours)."""
    with explain_unwritable(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(stem.with_name(stem.name + ".npy")) as unfinished:
        unfinished.write_bytes(npy(mask))
    with atomic_write(stem.with_name(stem.name + ".png")) as unfinished:
        classes.indexed(mask).save(unfinished, format="png")


def overlay(
    photo: NDArray[np.uint8], mask: NDArray[np.integer], classes: ClassTable
) -> NDArray[np.uint8]:
    """The mask's colours laid over the photograph: (h, w, 3) uint8."""
    return (0.3 * photo + 0.7 * classes.colourise(mask)).round().astype(np.uint8)


def heat(disagreement: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Disagreement from 0 (black) over red and yellow to ln 2 and above (white)."""
    share = np.clip(disagreement / np.log(2), 0, 1)[..., None] * 3
    return (np.clip(share - np.array([0, 1, 2]), 0, 1) * 255).astype(np.uint8)


def contact_sheet(
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    classes: ClassTable,
    titles: Sequence[str] = COLUMN_TITLES,
) -> Image.Image:
    """Rows of equally large pictures under the titles of the columns, with the classes' colours."""
    size, gap, head = 192, 6, 22
    names = [(n, tuple(c)) for n, c in zip(classes.names, classes.palette.tolist(), strict=True)]
    line_height, legend_width = 18, 210
    height = max(head + len(rows) * (size + gap), head + line_height * len(names)) + gap
    left = len(titles) * (size + gap) + gap
    sheet = Image.new("RGB", (left + legend_width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((gap + column * (size + gap), 6), title, fill="black")
        for row, pictures in enumerate(rows):
            tile = Image.fromarray(pictures[column]).resize((size, size), Image.Resampling.NEAREST)
            sheet.paste(tile, (gap + column * (size + gap), head + row * (size + gap)))
    left += gap
    for line, (name, colour) in enumerate(names):
        top = head + line * line_height
        draw.rectangle((left, top, left + 12, top + 12), fill=colour, outline="grey")
        draw_name(draw, (left + 20, top), name)
    return sheet


def draw_name(draw: ImageDraw.ImageDraw, corner: tuple[float, float], name: str) -> None:
    """Draw the name in black with its upper left corner at (x, y) in pixels, in any script.

    Pillow's own font, which has Latin letters only, draws plain ASCII; installed fonts the rest.
    """
    if name.isascii():
        draw.text(corner, name, fill="black")
        return
    from ddpmseg.fonts import split_by_font  # with matplotlib, for which most names need not wait

    left, baseline = corner[0], corner[1] + NAME_ASCENT
    for file, piece in split_by_font(name):
        font = ImageFont.truetype(file, NAME_SIZE)
        draw.text((left, baseline), piece, fill="black", font=font, anchor="ls")
        left += font.getlength(piece)
