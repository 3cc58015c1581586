"""From finished cells to tables, figures, findings and the page that shows them."""

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddpmseg.backbones.base import Backbone
from ddpmseg.errors import DataError
from ddpmseg.io.damage import explain_damage
from ddpmseg.io.files import atomic_write
from ddpmseg.numbering import Numbering
from ddpmseg.records.cell_grid import METRICS, CellGrid
from ddpmseg.records.cells import CellStore
from ddpmseg.records.folder_kind import SWEEP
from ddpmseg.records.identity import Identity
from ddpmseg.records.results import write_table
from ddpmseg.report.figures import save_figures
from ddpmseg.report.findings import findings
from ddpmseg.report.page import write_report
from ddpmseg.report.study import Examples, Study
from ddpmseg.sweeps.show import read_clusters, read_examples

log = logging.getLogger(__name__)
PRECISION_NAMES = {"32": "float32", "16": "float16", "bf16": "bfloat16"}
NETWORK = "network"
"""Key of a sweep's record under which `network_record` lies."""
COLUMNS = ("block", "timestep", "seed", *METRICS, "miou_small", "miou_large", "seconds")


def network_record(backbone: Backbone) -> dict[str, Any]:
    """What the identity of a sweep says of its network, for those who report on it."""
    names = {block.index: block.modules for block in backbone.blocks}
    timeless = backbone.num_timesteps is None
    return Numbering(backbone.block_order, timeless, names).record()


def write_sweep_report(folder: Path) -> Study:
    """Tables, figures and `report.html` of all finished cells of a sweep folder.

    Raises ConfigError where there is no sweep, DataError where no cell is finished or a record is
    damaged.
    """
    store = CellStore(folder)
    study = read_study(store)
    with store.reporting():
        write_study(folder, study)
    return study


def read_study(store: CellStore) -> Study:
    """Everything a sweep folder has to show."""
    record, identity = store.record(), store.identity()
    request = identity.settings
    classes = store.classes()
    cells = store.read()
    if not cells:
        raise DataError(f"'{store.folder}' holds no finished cell. Run the sweep first.")
    with explain_damage(store.folder / SWEEP, "Repeat the command of the sweep."):
        numbering = Numbering.read(record.get(NETWORK))
        settings = _settings(record, identity, sorted({cell.seed for cell in cells}), numbering)
        names = str(request["dataset.name"]), str(request["backbone.name"])
        made_by = str(record["command"])
    grid = CellGrid(cells, classes.ignore_label, numbering)
    # The control 'random' is the same network, and 'pixels' a single layer without timesteps.
    controls = {"random": numbering, "pixels": Numbering(timeless=True)}
    read = {name: store.read(name) for name in controls}
    return Study(
        dataset=names[0],
        backbone=names[1],
        classes=classes,
        grid=grid,
        command=made_by,
        settings=settings,
        controls={
            name: CellGrid(found, classes.ignore_label, controls[name])
            for name, found in read.items()
            if found
        },
        examples=_examples(store, grid),
        clusters=read_clusters(store.folder),
    )


def write_study(folder: Path, study: Study) -> None:
    """Write cells.csv, controls.csv, figures/, findings.txt and report.html into `folder`."""
    started = time.perf_counter()
    write_table(folder / "cells.csv", COLUMNS, list(cell_rows(study.grid, study)))
    controls = [
        {"control": name, **row}
        for name, grid in study.controls.items()
        for row in cell_rows(grid, study)
    ]
    write_table(folder / "controls.csv", ("control", *COLUMNS), controls)
    sentences = findings(study)
    with atomic_write(folder / "findings.txt") as unfinished:
        unfinished.write_text("\n".join(sentences) + "\n", encoding="utf-8")
    save_figures(study, folder / "figures")
    write_report(folder / "report.html", study, sentences)
    for sentence in sentences:
        log.info(sentence)
    log.info("report in %.1f s: %s", time.perf_counter() - started, folder / "report.html")


def cell_rows(grid: CellGrid, study: Study) -> Iterable[Mapping[str, object]]:
    """A row for every cell, by block, timestep, seed; a group of no classes has no mean."""
    values = {name: grid.metric(name) for name in METRICS}
    for name, labels in (("miou_small", study.groups.small), ("miou_large", study.groups.large)):
        empty = np.full(values["miou"].shape, np.nan)
        values[name] = grid.group_iou(labels) if labels else empty
    for cell in grid.cells:
        place = (
            grid.blocks.index(cell.block),
            grid.timesteps.index(cell.timestep),
            grid.seeds.index(cell.seed),
        )
        scores = {name: float(array[place]) for name, array in values.items()}
        yield {
            "block": cell.block,
            "timestep": grid.numbering.timestep(cell.timestep),
            "seed": cell.seed,
            **{k: "" if np.isnan(v) else v for k, v in scores.items()},
            "seconds": f"{cell.seconds:.3f}",
        }


def _settings(
    record: Mapping[str, Any], identity: Identity, seeds: Iterable[int], numbering: Numbering
) -> dict[str, str]:
    request, arithmetic = identity.settings, identity.arithmetic
    checkpoint = identity.digests.get("weights", "")[:12]
    shown = {
        "labelled images": str(record["num_labelled"]),
        "test images": str(record["num_test"]),
        "image size": f"{request['dataset.image_size']} pixels",
        **_probe({k.removeprefix("sweep.head."): v for k, v in request.items()}),
        "seeds": ", ".join(map(str, seeds)),
        "features": f"block {request['sweep.hook']}s"
        + ("" if numbering.timeless else f", noise {request['sweep.noise']}"),
    }
    if "backbone_precision" in arithmetic:
        bits = arithmetic["backbone_precision"]
        shown["computed in"] = f"{PRECISION_NAMES.get(bits, bits)} on {arithmetic['device']}"
    return shown | ({"weights (sha256)": checkpoint} if checkpoint else {})


def _probe(head: Mapping[str, Any]) -> dict[str, str]:
    """The settings of a sweep's head in words."""
    if "name" in head:  # which sweeps of an MLP do not say
        return {"probe": head["name"]}
    hidden = head["hidden"]
    shape = "-".join(["MLP", *map(str, hidden)]) if hidden else "linear"
    return {
        "probe": "the paper's MLP" if hidden is None else shape,
        "protocol": head["protocol"],
    }


def _examples(store: CellStore, grid: CellGrid) -> Examples | None:
    kept = read_examples(store.folder)
    if kept is None:
        return None
    images, truths = kept
    masks = {
        (cell.block, cell.timestep): store.masks(cell.key)
        for cell in reversed(grid.cells)  # of several seeds the first stays
    }
    fitting = {place: found for place, found in masks.items() if found.shape == truths.shape}
    return Examples(images, truths, fitting)
