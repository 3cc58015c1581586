"""Names that a spreadsheet would compute stand in CSV files as text, and are read back as given."""

import csv
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddpmseg.compare.per_class import read_class_scores
from ddpmseg.data.class_table import read_class_table
from ddpmseg.io.csv_cells import guarded, unguarded
from ddpmseg.metrics.segmentation import SegmentationScores
from ddpmseg.records.results import CONFUSION, PER_CLASS, write_per_class
from ddpmseg.tables.table import Row, Table, as_csv

NAMES = ("=cmd|' /C calc'!A0", "+1", "-tail", "@home", "'=quoted", "plain", "-")


@pytest.mark.parametrize("name", NAMES)
def test_a_formula_becomes_text(name: str) -> None:
    written = guarded(name)
    assert str(written)[0] not in "=@" or name == written == "plain"
    assert unguarded(str(written)) == name


@pytest.mark.parametrize("number", [-1.5, 3, "-0.25", "+2", "", None])
def test_numbers_stay(number: object) -> None:
    assert guarded(number) == number


@given(st.text(max_size=6))
def test_every_text_comes_back(text: str) -> None:
    assert unguarded(str(guarded(text))) == text


def test_class_names_are_guarded_in_the_tables_of_a_run(tmp_path: Path) -> None:
    classes = read_class_table(
        {"name": "x", "ignore_label": 255, "classes": [{"name": name} for name in NAMES]}, "x"
    )
    metric, labels = SegmentationScores(len(NAMES), 255), torch.arange(len(NAMES))[None, None]
    metric.update(labels, labels)
    write_per_class(tmp_path, classes, metric.compute())
    for file in (PER_CLASS, CONFUSION):
        with (tmp_path / file).open(newline="") as lines:
            cells = [cell for row in csv.reader(lines) for cell in row]
        assert "'=cmd|' /C calc'!A0" in cells
        assert not [cell for cell in cells if cell[:1] in ("=", "@") or cell == "-tail"]
    assert tuple(read_class_scores(tmp_path, "miou").index) == NAMES


def test_tables_of_runs_are_guarded_too() -> None:
    table = Table(("=stub",), ("@column",), (Row(("-label",), (None,)),))
    assert as_csv(table) == "'=stub,column,mean,deviation,runs\n"
