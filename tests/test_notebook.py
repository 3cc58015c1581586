"""docs/notebook.ipynb runs from top to bottom, and holds what it printed and drew."""

import json
from pathlib import Path

import notebook
import pytest


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = json.loads(notebook.NOTEBOOK.read_text(encoding="utf-8"))
    drawn = [figures for _, figures in notebook.run(content)]
    for cell, figures in zip(notebook.code_cells(content), drawn, strict=True):
        stored = [output for output in cell["outputs"] if "data" in output]
        assert len(stored) == len(figures), "".join(cell["source"])
    assert sum(map(len, drawn)) >= 4


def test_the_notebook_is_small_enough_to_read_in_a_browser() -> None:
    assert notebook.NOTEBOOK.stat().st_size < 500_000
