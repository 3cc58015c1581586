"""Runs the cells of docs/notebook.ipynb and keeps what they print and draw in it.

python tests/notebook.py
"""

import base64
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(notebook: dict[str, Any]) -> Iterator[tuple[str, list[bytes]]]:
    """What each code cell prints and the PNG files of the figures it leaves open."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(notebook), 1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
        figures = []
        for figure in map(plt.figure, plt.get_fignums()):
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=60, bbox_inches="tight")
            figures.append(file.getvalue())
        plt.close("all")
        yield printed.getvalue(), figures


def outputs(printed: str, figures: list[bytes]) -> list[dict[str, Any]]:
    """In the notebook's format (nbformat 4)."""
    found: list[dict[str, Any]] = []
    if printed:
        text = printed.splitlines(keepends=True)
        found.append({"output_type": "stream", "name": "stdout", "text": text})
    for figure in figures:
        data = {"image/png": base64.b64encode(figure).decode()}
        found.append({"output_type": "display_data", "metadata": {}, "data": data})
    return found


def main() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = code_cells(notebook)
    for number, (cell, (printed, figures)) in enumerate(zip(cells, run(notebook), strict=True), 1):
        cell["execution_count"], cell["outputs"] = number, outputs(printed, figures)
        sys.stderr.write(f"cell {number}: {len(printed)} characters, {len(figures)} figures\n")
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
