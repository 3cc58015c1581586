"""Networks without timesteps in the analysis: a sweep over blocks, and nothing that speaks of t."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle
from PIL import Image
from safetensors.torch import save_file
from test_report import Page, some_grid, some_study
from tiny_run import HARDWARE, composed, composed_sweep, resolved_sweep

from ddpmseg.__main__ import main
from ddpmseg.errors import ConfigError
from ddpmseg.heads import ridge
from ddpmseg.numbering import Numbering
from ddpmseg.records.cell_grid import CellGrid
from ddpmseg.records.cells import CellStore
from ddpmseg.report.canvas import house_style
from ddpmseg.report.clusters import evenly_chosen
from ddpmseg.report.figures import figures
from ddpmseg.report.findings import findings
from ddpmseg.report.page import render_report
from ddpmseg.report.panels import cluster_panels
from ddpmseg.report.profiles import miou_over_blocks, per_class_over_blocks
from ddpmseg.report.study import Study
from ddpmseg.sweeps.report import read_study
from ddpmseg.sweeps.select import select
from ddpmseg.sweeps.sweep import finished, sweep

NAMES = {2: "act1", 5: "layer1", 6: "layer2"}
TIMELESS = Numbering("in forward order", True, NAMES)
SWEEP = (
    *HARDWARE,
    "backbone=timm",
    "backbone.name=test_resnet",
    "backbone.precision='32'",
    "dataset.image_size=32",
    "dataset.num_labelled=3",
    "dataset.num_test=2",
    "sweep.head.hidden=[8]",
    "sweep.head.max_steps=6",
    "sweep.head.batch_size=64",
    "sweep.clusters.images=1",
    "sweep.num_examples=1",
)
SPEAKS_OF_TIME = re.compile(r"\bt ?=|timestep|\bt\b(?! know)", re.IGNORECASE)


def composed_timeless(folder: Path, *overrides: str):
    return composed(folder, *SWEEP, *overrides, root="sweep")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


@pytest.fixture(scope="module")
def whole(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two seeds over the network's five layers, with both controls."""
    folder = tmp_path_factory.mktemp("whole") / "sweep"
    sweep(composed_timeless(folder, f"backbone.checkpoint={weights}", "sweep.seeds=[0,1]"))
    return folder


def timeless_study(seeds: tuple[int, ...] = (0, 3)) -> Study:
    study = some_study(timesteps=(0,), seeds=seeds)
    grid, control = study.grid, some_grid((2, 5), (0,), (0,))
    assert study.clusters
    clusters = {
        name: getattr(study.clusters, name)[:, :, :1] for name in ("labels", "components")
    } | {"noised": study.clusters.noised[:, :1], "timesteps": (0,)}
    return replace(
        study,
        grid=CellGrid(grid.cells, 255, TIMELESS),
        controls={"random": CellGrid(control.cells, 255, TIMELESS)},
        clusters=replace(study.clusters, **clusters),
    )


def test_the_grid_of_a_sweep_has_one_column(whole: Path) -> None:
    found = CellStore(whole)
    assert [cell.key for cell in found.read()] == [(b, 0, s) for b in range(5) for s in (0, 1)]
    assert [cell.key for cell in found.read("random")] == [cell.key for cell in found.read()]
    with (whole / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["timestep"] for row in rows} == {"-"}
    assert [row["block"] for row in rows[::2]] == list("01234")
    with (whole / "controls.csv").open(newline="") as file:
        controls = list(csv.DictReader(file))
    assert {(row["control"], row["timestep"]) for row in controls} == {
        ("random", "-"),
        ("pixels", "-"),
    }


def test_a_sweep_leaves_figures_over_blocks(whole: Path) -> None:
    stems = {path.stem for path in (whole / "figures").glob("*.png")}
    assert stems == {
        "miou_over_blocks",
        "class_size",
        "per_class",
        "clusters",
        "components",
        "masks",
    }
    for path in (whole / "figures").glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
    text = (whole / "figures" / "miou_over_blocks.svg").read_text()
    for label in ("0  act1", "4  layer4", "block (in forward order)", "best: block "):
        assert label in text
    assert not SPEAKS_OF_TIME.search(re.sub("<[^>]*>", "", text.split("</metadata>")[1]))


def test_nothing_a_sweep_says_is_about_timesteps(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    given = (f"backbone.checkpoint={weights}", "sweep.head.max_steps=2")
    sweep(composed_timeless(tmp_path / "sweep", *given, "sweep.clusters.images=0"))
    told = [r.getMessage() for r in caplog.records if r.name.startswith("ddpmseg")]
    assert "grid: 5 blocks x 1 seeds = 5 cells; no timesteps" in told
    assert any(line.startswith("all blocks: best block ") for line in told)
    assert any(line.startswith("Best block: block ") and "layer" in line for line in told)
    said = [line for line in told if not line.startswith(("grid", "forecast", "report", "peak"))]
    assert [line for line in said if SPEAKS_OF_TIME.search(line)] == []


def test_a_dry_run_lists_blocks(
    whole: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    given = (f"backbone.checkpoint={weights}", "sweep.seeds=[0,1]", "sweep.dry_run=true")
    sweep(composed_timeless(whole, *given))
    told = [record.message for record in caplog.records]
    assert "block  4  t =   -  seed 1  done" in told
    assert "block  4  t =   -  seed 1  done  (random)" in told
    assert "block  0  t =   -  seed 1  done  (pixels)" in told


def test_a_finished_sweep_is_known(whole: Path, weights: Path) -> None:
    given = (f"backbone.checkpoint={weights}", "sweep.seeds=[0,1]")
    best = finished(composed_timeless(whole, *given))
    assert best is not None
    assert finished(composed_timeless(whole, *given, "sweep.seeds=[0,1,2]")) is None


def test_timesteps_are_refused_and_the_grids_are_left_out(tmp_path: Path) -> None:
    random = "backbone.checkpoint=random"
    for given in ([], ["grid=quick"], ["sweep.timesteps=[0]"], ["sweep.timesteps=null"]):
        assert resolved_sweep(composed_timeless(tmp_path, random, *given)).grid.timesteps == (0,)
    for key in ("sweep.timesteps", "sweep.clusters.timesteps"):
        with pytest.raises(ConfigError) as caught:
            resolved_sweep(composed_timeless(tmp_path, random, f"{key}=[50,150]"))
        assert str(caught.value) == (
            f"`{key}=[50, 150]`: backbone 'test_resnet' knows no timesteps; its maps are those of "
            "the clean image. Leave it out: the sweep is over blocks."
        )
    config = resolved_sweep(composed_sweep(tmp_path, "grid=quick", "sweep.timesteps=null"))
    assert config.grid.timesteps == (0, 50, 100, 150, 250, 400, 600, 800)


def test_a_sweep_is_over_the_layers_that_are_chosen(tmp_path: Path) -> None:
    def blocks(*given: str) -> tuple[int, ...]:
        random = "backbone.checkpoint=random"
        return resolved_sweep(composed_timeless(tmp_path, random, *given)).grid.blocks

    assert blocks() == (0, 1, 2, 3, 4)
    assert blocks("backbone.layers=last2") == (3, 4)
    assert blocks("backbone.layers=last2", "sweep.blocks=[0]") == (0,)


def test_selection_is_among_blocks(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge, "HIDDEN", 16)
    found = select(whole)
    assert found.rule == ((0, 1, 2, 3, 4), (0,))
    assert found.score >= found.rule_score
    proposed, rule, _, command = found.lines()
    blocks = ",".join(map(str, found.chosen[0]))
    assert command.startswith("ddpmseg train dataset=ponies backbone=")
    assert command.endswith(f" 'features.blocks=[{blocks}]'")
    assert proposed.startswith(f"proposed      blocks {list(found.chosen[0])}: ")
    assert rule.startswith("all blocks    blocks [0, 1, 2, 3, 4]: 400 channels, ")


def test_a_folder_of_before_there_were_names_is_a_diffusion_models(
    whole: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / "old")
    identity = json.loads((folder / "sweep.json").read_text())
    assert identity.pop("network") == {
        "order": "in forward order",
        "timeless": True,
        "names": ["act1", "layer1", "layer2", "layer3", "layer4"],
    }
    (folder / "sweep.json").write_text(json.dumps(identity))
    assert read_study(CellStore(folder)).grid.numbering == Numbering()
    assert main(["report", str(folder)]) == 0
    assert (folder / "figures" / "miou_heatmap.png").is_file()


# Sentences and figures of plain numbers


def test_sentences_name_blocks_and_no_timesteps() -> None:
    told = findings(timeless_study())
    assert told[0].startswith("Best block: block ")
    assert any(name in told[0] for name in ("(act1)", "(layer1)", "(layer2)"))
    assert "control random reaches" in told[-1]
    assert [line for line in told if SPEAKS_OF_TIME.search(line)] == []
    assert not any("paper" in line for line in told)


def test_sentences_of_a_diffusion_model_stay_as_they_were() -> None:
    told = findings(some_study())
    assert re.match(r"Best cell: block \d at t = \d+ with", told[0])
    assert any("at their best t" in line or "at any t" in line for line in told)


def test_numbering_tells_places() -> None:
    assert Numbering().cell(3, 50) == "block 3, t = 50"
    assert Numbering(names={3: "up"}).cell(3, 50, " at ") == "block 3 at t = 50"
    assert TIMELESS.cell(5, 0) == "block 5 (layer1)"
    assert TIMELESS.cell(9, 0) == "block 9"
    assert (TIMELESS.short(5, 0), Numbering().short(5, 50)) == ("b5", "b5, t50")
    assert Numbering.read(None) == Numbering()
    whole = Numbering("in forward order", True, {0: "a", 1: "b"})
    assert Numbering.read(json.loads(json.dumps(whole.record()))) == whole


@pytest.mark.parametrize(
    ("count", "chosen"),
    [(1, [0]), (5, [0, 1, 2, 3, 4]), (12, [0, 2, 4, 7, 9, 11]), (24, [0, 5, 9, 14, 18, 23])],
)
def test_clusters_are_shown_of_blocks_from_the_first_to_the_last(
    count: int, chosen: list[int]
) -> None:
    assert evenly_chosen(count) == chosen


def test_bars_have_the_height_of_the_means() -> None:
    study = timeless_study()
    mean = 100 * np.nanmean(study.grid.metric("miou"), axis=2)[:, 0]
    axes = miou_over_blocks(study).axes[0]
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [bar.get_height() for bar in bars] == pytest.approx(mean.tolist())
    dark = {bar.get_facecolor() for bar in bars if bar.get_height() == pytest.approx(mean.max())}
    others = {bar.get_facecolor() for bar in bars if bar.get_height() != pytest.approx(mean.max())}
    assert len(dark) == 1
    assert not dark & others
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        "2  act1",
        "5  layer1",
        "6  layer2",
    ]
    values = {text.get_text() for text in axes.texts}
    assert {f"{value:.1f}" for value in mean} <= values
    assert any(value.startswith("random ") for value in values)


def test_rows_of_classes_go_from_the_smallest_to_the_largest() -> None:
    study = timeless_study()
    axes = per_class_over_blocks(study).axes[0]
    picture = axes.images[0].get_array()
    assert picture is not None
    iou = 100 * np.nanmean(study.grid.iou, axis=2)[:, 0]
    for row, label in enumerate(study.groups.ranked):
        assert picture[row].tolist() == pytest.approx(iou[:, label].tolist())
    assert len(axes.patches) == len(study.groups.ranked)


@pytest.mark.parametrize("count", [1, 5, 12, 48])
def test_figures_of_any_number_of_blocks_fit_their_paper(count: int) -> None:
    grid = some_grid(tuple(range(count)), (0,), (0,))
    names = {block: f"blocks.{block}.a_rather_long_name" for block in range(count)}
    study = replace(
        timeless_study((0,)), grid=CellGrid(grid.cells, 255, replace(TIMELESS, names=names))
    )
    for stem, figure in figures(replace(study, examples=None, clusters=None)).items():
        with house_style():
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
        for axes in figure.axes:
            for label in [*axes.get_xticklabels(), axes.xaxis.label]:
                box = label.get_window_extent(canvas.get_renderer())
                assert box.y0 >= 0, (stem, label)
                assert box.x1 <= figure.bbox.width + 1, (stem, label)


def test_clusters_lie_in_rows() -> None:
    study = timeless_study()
    figure = cluster_panels(study)
    texts = [text.get_text() for text in figure.texts]
    assert "image" in texts
    assert "block 5\nlayer1" in texts
    assert not any(text.startswith("t =") for text in texts)
    pictures = sum(len(axes.images) for axes in figure.axes)
    assert pictures == 2 * (1 + 2)


def test_the_page_has_bars_instead_of_curves() -> None:
    page = Page(render_report(timeless_study(), ["Best block: block 5."]))
    assert page.figures == ["profile", "masks", "sizes", "classes", "clusters", "cells"]
    assert page.data["timeless"] is True
    assert page.data["names"] == ["act1", "layer1", "layer2"]
    assert {row[1] for row in page.data["rows"]} == {"-"}
    shown = " ".join(page.text)
    assert "What ddpm_things knows about things, by layer" in shown
    assert "3 blocks \N{MULTIPLICATION SIGN} 2 seeds, no timesteps" in shown
    assert "decoder" not in shown
    assert "figure 3 of the paper" not in shown


def test_the_page_of_a_single_block_has_no_bars() -> None:
    study = timeless_study()
    single = some_grid((4,), (0,), (0,))
    alone = replace(study, grid=CellGrid(single.cells, 255, TIMELESS), examples=None, clusters=None)
    page = Page(render_report(alone, []))
    assert page.figures == ["classes", "cells"]
