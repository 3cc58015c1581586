"""The page `report.html` of a sweep: one file to look at and to read values off, offline.

Texts are put into `page/page.html` here, escaped; numbers and pictures travel as JSON, from which
`page/page.js` draws. The page asks the network for nothing, and its policy forbids it to.
"""

import html
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from jaxtyping import Float64

from ddpmseg.io.files import atomic_write
from ddpmseg.records.cell_grid import METRICS, CellGrid, best_cell, seed_mean, seed_spread
from ddpmseg.report.embedded import embedded_clusters, embedded_examples
from ddpmseg.report.notable import notable_cells
from ddpmseg.report.study import Study

COLUMNS = ("block", "timestep", "seed", *METRICS, "miou_small", "miou_large", "seconds")
"""Of the table of cells and of the CSV file that the page offers."""
LABELS = {
    "miou": "mIoU",
    "miou_present": "mIoU of present classes",
    "pixel_accuracy": "pixel accuracy",
}


def write_report(path: Path, study: Study, findings: Sequence[str]) -> None:
    """Write `render_report` to `path`, whole or not at all."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(render_report(study, findings), encoding="utf-8")


def render_report(study: Study, findings: Sequence[str]) -> str:
    """The page as HTML. Sections whose data the study lacks are left out."""
    page = _piece("page.html")
    for name, wanted in _sections(study, findings).items():
        content = r"\1" if wanted else ""
        page = re.sub(rf"<!-- if {name} -->\n(.*?)<!-- end {name} -->\n", content, page, flags=re.S)
    texts = {name: html.escape(text) for name, text in _texts(study).items()}
    data = json.dumps(_page_data(study), allow_nan=False, separators=(",", ":"))
    return Template(page).substitute(
        texts,
        findings="\n".join(f"<li>{html.escape(finding)}</li>" for finding in findings),
        settings="\n".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
            for name, value in _settings(study).items()
        ),
        style=_piece("page.css"),
        script=_piece("page.js"),
        data=data.replace("<", "\\u003c"),
    )


def _piece(name: str) -> str:
    return (files("ddpmseg") / "report" / "html" / name).read_text(encoding="utf-8")


def _sections(study: Study, findings: Sequence[str]) -> dict[str, bool]:
    """Which of the parts marked in `page.html` have something to show."""
    grid = study.grid
    timeless, several = grid.numbering.timeless, len(grid.blocks) > 1
    curves, classes = len(grid.timesteps) > 1, bool(study.groups.ranked)
    heatmap = not timeless and (curves or several)
    profile = timeless and several
    return {
        "findings": bool(findings),
        "command": bool(study.command),
        "explore": heatmap or profile,
        "profile": profile,
        "curves": curves,
        "spread": len(grid.seeds) > 1,
        "controls": bool(study.controls),
        "heatmap": heatmap,
        "examples": study.examples is not None,
        "sizes": (curves or profile) and bool(study.groups.small),
        "classes": classes,
        "grids": heatmap and classes,
        "profiles": profile and classes,
        "absent": classes and len(study.groups.ranked) < len(study.classes.averaged),
        "clusters": study.clusters is not None,
        "noised": not timeless,
        "clean": timeless,
    }


def _texts(study: Study) -> dict[str, str]:
    grid, clusters = study.grid, study.clusters
    absent = set(study.classes.averaged) - set(study.groups.ranked)
    return {
        "title": f"What {study.backbone} knows about {study.dataset}, by "
        + ("layer" if grid.numbering.timeless else "decoder block and timestep"),
        "order": grid.numbering.order,
        "best_cell": "block" if grid.numbering.timeless else "cell",
        "command": study.command,
        "num_seeds": str(len(grid.seeds)),
        "first_seed": str(grid.seeds[0]),
        "groups": study.groups.describe(study.classes),
        "absent": ", ".join(study.classes.names[label] for label in sorted(absent)),
        "num_clusters": str(clusters.k if clusters else 0),
        "num_cells": f"{len(grid.cells):,}",
    }


def _settings(study: Study) -> dict[str, str]:
    grid = study.grid
    sides = (
        (len(grid.blocks), "block"),
        (len(grid.timesteps), "timestep"),
        (len(grid.seeds), "seed"),
    )
    timeless = grid.numbering.timeless
    shape = " \u00d7 ".join(
        f"{count} {word}{'s' * (count > 1)}"
        for count, word in sides
        if not (timeless and word == "timestep")
    )
    shape += ", no timesteps" * timeless
    missing = math.prod(count for count, _ in sides) - len(grid.cells)
    return {"grid": shape + f", {missing} missing" * bool(missing), **study.settings}


def _page_data(study: Study) -> dict[str, Any]:
    grid, groups, classes = study.grid, study.groups, study.classes
    return {
        "blocks": grid.blocks,
        "timesteps": grid.timesteps,
        "seeds": grid.seeds,
        "timeless": grid.numbering.timeless,
        "names": [grid.numbering.names.get(block, "") for block in grid.blocks],
        "metrics": [
            _metric(study, name, label, kind, values) for name, label, kind, values in _all(study)
        ],
        "classes": [
            {
                "name": classes.names[label],
                "rgb": classes.palette[label].tolist(),
                "area": round(float(groups.area[label]), 6),
                "metric": f"class-{label}" if label in groups.ranked else None,
            }
            for label in range(classes.num_classes)
        ],
        "ranked": groups.ranked,
        "columns": COLUMNS,
        "rows": _rows(study),
        "notable": notable_cells(study),
        "examples": study.examples and embedded_examples(study.examples, study.classes),
        "clusters": study.clusters and embedded_clusters(study.clusters),
    }


Values = Callable[[CellGrid], Float64[np.ndarray, "b t s"]]


def _all(study: Study) -> Iterator[tuple[str, str, str, Values]]:
    """Id, label, heading and values of everything the page can chart."""
    for name in METRICS:
        yield name, LABELS[name], "All classes", lambda grid, name=name: grid.metric(name)
    for name in ("small", "large"):
        if labels := getattr(study.groups, name):
            values = lambda grid, labels=labels: grid.group_iou(labels)  # noqa: E731
            yield f"miou_{name}", f"mIoU of {name} classes", "Groups", values
    for label in study.groups.ranked:
        title = f"IoU of {study.classes.names[label]}"
        values = lambda grid, label=label: grid.iou[..., label]  # noqa: E731
        yield f"class-{label}", title, "Single classes, smallest first", values


def _metric(study: Study, name: str, label: str, kind: str, values: Values) -> dict[str, Any]:
    """Means and spreads over seeds by (block, timestep), and the best cell of every control."""
    every = values(study.grid)
    mean, spread = seed_mean(every), seed_spread(every)
    controls = []
    for control, grid in study.controls.items():
        means = seed_mean(values(grid))
        if not np.isnan(means).all():
            row, column = best_cell(means)
            place = {"block": grid.blocks[row], "timestep": grid.timesteps[column]}
            controls.append(
                {"name": study.control_label(control), "value": _plain(means[row, column]), **place}
            )
    return {
        "id": name,
        "label": label,
        "kind": kind,
        "mean": _plain(mean),
        "spread": None if np.isnan(spread).all() else _plain(spread),
        "best": None if np.isnan(mean).all() else best_cell(mean),
        "controls": controls,
    }


def _rows(study: Study) -> list[list[Any]]:
    grid, by_id = study.grid, {name: values for name, _, _, values in _all(study)}
    tables = [by_id[name](grid) if name in by_id else None for name in COLUMNS[3:-1]]
    rows = []
    for cell in grid.cells:
        at = tuple(
            axis.index(value)
            for axis, value in zip((grid.blocks, grid.timesteps, grid.seeds), cell.key, strict=True)
        )
        scores = [None if table is None else _plain(table[at]) for table in tables]
        timestep = grid.numbering.timestep(cell.timestep)
        rows.append([cell.block, timestep, cell.seed, *scores, round(cell.seconds, 3)])
    return rows


def _plain(values: np.ndarray | np.floating) -> Any:
    """Nested lists of numbers with six decimals; None for NaN."""
    rounded = np.asarray(values.round(6), object)
    rounded[np.isnan(values)] = None
    return rounded.tolist()
