"""`sweep` from end to end at tiny size: what it leaves, what it never does twice, kill -9."""

import csv
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn
from weakref import WeakSet

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import ROOT, SEGMENT, SWEEP, composed, composed_sweep, contents
from waiting import wait_until

from ddpmseg.__main__ import main
from ddpmseg.backbones.base import Backbone
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags, build_unet
from ddpmseg.backbones.settings import WeightsConfig
from ddpmseg.data.ponies import draw_pony
from ddpmseg.errors import ConfigError
from ddpmseg.finished.open import open_sweep
from ddpmseg.io.files import file_sha256
from ddpmseg.records.cell_grid import Cell
from ddpmseg.records.cells import CellStore
from ddpmseg.runs.train import train
from ddpmseg.sweeps import compute
from ddpmseg.sweeps.sweep import finished, sweep

HEADER = "block,timestep,seed,miou,miou_present,pixel_accuracy,miou_small,miou_large,seconds"
FOUR = [(1, 5, 0), (1, 50, 0), (2, 5, 0), (2, 50, 0)]
REPORT = {"report.html", "cells.csv", "controls.csv", "findings.txt", "clusters.npz"}
TABLES = ("cells.csv", "controls.csv")
BARE = ("sweep.controls=[]", "sweep.clusters.images=0")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep with its log; tests work on copies, see `folder`."""
    folder = tmp_path_factory.mktemp("whole") / "sweep"
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.INFO)
    try:
        sweep(composed_sweep(folder))
    finally:
        root.setLevel(level)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "sweep")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def scores(folder: Path, name: str = "cells.csv") -> list[dict[str, str]]:
    """A table of cells without what depends on the machine."""
    table = rows(folder / name)
    for row in table:
        assert float(row.pop("seconds")) > 0
    return table


def records(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every record."""
    paths = [*folder.glob("cells/*.json"), *folder.glob("controls/*/*.json")]
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in paths
    }


def counts_of(folder: Path, control: str = "") -> dict[tuple[int, int, int], list]:
    return {cell.key: cell.counts.tolist() for cell in CellStore(folder).read(control)}


def must_not_run(*_: object, **__: object) -> NoReturn:
    pytest.fail("this must not be reached")


def test_files_of_a_sweep(whole: Path) -> None:
    found = set(contents(whole))
    assert {f"cells/b{b:02d}_t{t:04d}_s{s}.json" for b, t, s in FOUR} <= found
    assert REPORT | {"sweep.json", "sweep.log", "config.yaml", "examples.npz"} <= found
    assert "controls/pixels/b00_t0000_s0.json" in found
    figures = {name for name in found if name.startswith("figures/")}
    assert {"figures/miou_over_timesteps.png", "figures/miou_heatmap.svg"} <= figures
    assert {"figures/clusters.png", "figures/masks.png", "figures/per_class.png"} <= figures
    for path in (whole / "figures").glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
    assert "<html" in (whole / "report.html").read_text()
    assert not list(whole.rglob("*.tmp"))


def test_table_of_cells(whole: Path) -> None:
    table = rows(whole / "cells.csv")
    assert (whole / "cells.csv").read_text().splitlines()[0] == HEADER
    assert [(int(r["block"]), int(r["timestep"]), int(r["seed"])) for r in table] == FOUR
    for row, cell in zip(table, CellStore(whole).read(), strict=True):
        counts = cell.counts.numpy()
        assert counts.sum() == 2 * 16**2
        hit, true = counts.diagonal(), counts[:-1].sum(1)
        iou = hit / np.maximum(1, counts.sum(0) + true - hit)
        order = sorted((n, label) for label, n in enumerate(true) if n)
        third = len(order) // 3
        small, large = ([label for _, label in part] for part in (order[:third], order[-third:]))
        assert float(row["miou"]) == pytest.approx(iou.mean(), abs=1e-9)
        assert float(row["pixel_accuracy"]) == pytest.approx(hit.sum() / true.sum(), abs=1e-9)
        assert float(row["miou_small"]) == pytest.approx(iou[small].mean(), abs=1e-9)
        assert float(row["miou_large"]) == pytest.approx(iou[large].mean(), abs=1e-9)
        assert float(row["miou_present"]) >= float(row["miou"])


def test_examples_are_the_first_test_images(whole: Path) -> None:
    with np.load(whole / "examples.npz") as file:
        images, truths = file["images"], file["truths"]
    assert (images.shape, truths.shape) == ((1, 16, 16, 3), (1, 16, 16))
    image, mask = draw_pony(0, "test", 0, 16)
    np.testing.assert_array_equal(images[0], image)
    np.testing.assert_array_equal(truths[0], mask)
    assert all(CellStore(whole).masks(key).shape == (1, 16, 16) for key in FOUR)


def test_log_tells_the_grid_the_forecast_and_every_timestep(whole: Path) -> None:
    log = (whole / "sweep.log").read_text()
    assert "grid: 2 blocks x 2 timesteps x 1 seeds = 4 cells" in log
    assert "to do: 2 of 2 timesteps" in log
    assert "forecast: " in log
    for part in ("t = 5: best block ", "t = 50: best block ", "control pixels: best block 0"):
        assert log.count(part) == 1
    assert "(3 of 3, 0 s left)" in log
    for sentence in (whole / "findings.txt").read_text().splitlines():
        assert sentence in log


def test_score_of_a_sweep_is_its_best_cell(whole: Path) -> None:
    best = max(float(row["miou"]) for row in rows(whole / "cells.csv"))
    assert finished(composed_sweep(whole)) == best


def test_a_job_reports_its_own_best_cell(folder: Path) -> None:
    """Not that of the folder, which other jobs fill, too."""
    worst, *_, best = sorted(rows(folder / "cells.csv"), key=lambda row: float(row["miou"]))
    assert float(worst["miou"]) < float(best["miou"])
    place = (f"sweep.blocks=[{worst['block']}]", f"sweep.timesteps=[{worst['timestep']}]")
    own = composed_sweep(folder, *place, "sweep.controls=[]")
    assert finished(own) == float(worst["miou"])
    assert sweep(own, True) == finished(own)


def test_a_later_timestep_does_not_move_the_control(weights: Path, tmp_path: Path) -> None:
    given = (f"backbone.checkpoint={weights}", "sweep.controls=[random]")
    for timesteps in ("[50]", "[400,5]"):
        sweep(composed_sweep(tmp_path, *given, f"sweep.timesteps={timesteps}"), True)
    assert {key[1] for key in counts_of(tmp_path, "random")} == {50}
    sweep(composed_sweep(tmp_path, *given, "sweep.control_timestep=5"), True)
    assert {key[1] for key in counts_of(tmp_path, "random")} == {5, 50}


def test_a_control_is_computed_once_by_processes_side_by_side(tmp_path: Path) -> None:
    """The second waits for the first, and then finds it done."""
    first = composed_sweep(tmp_path, "sweep.timesteps=[5]")
    store = CellStore(tmp_path)
    sweep(composed_sweep(tmp_path, "sweep.timesteps=[5]", "sweep.controls=[]"), True)
    with ThreadPoolExecutor(1) as pool, store.held((), ["pixels"]):
        other = pool.submit(sweep, first, True)
        with pytest.raises(TimeoutError):
            other.result(timeout=2)
        counts = torch.zeros(12, 11, dtype=torch.int64)
        store.write(Cell(0, 0, 0, counts, 1.0), np.zeros((1, 16, 16), np.uint8), "pixels")
        before = records(tmp_path)
    other.result()
    assert records(tmp_path) == before


@pytest.mark.parametrize("finished_run_first", [True, False])
def test_a_folder_belongs_to_one_program(
    finished_run_first: bool, finished_run: Path, whole: Path, tmp_path: Path
) -> None:
    taken = tmp_path / "taken"
    shutil.copytree(finished_run if finished_run_first else whole, taken)
    before = contents(taken)

    def other(*overwrite: str) -> None:
        if finished_run_first:
            sweep(composed_sweep(taken, *overwrite), True)
        else:
            train(composed(taken, *SEGMENT, *overwrite))

    for overwrite in ("false", "true"):
        with pytest.raises(ConfigError, match=r"this folder holds a (run|sweep).*Choose another"):
            other(f"paths.overwrite={overwrite}")
    assert contents(taken) == before


def test_configuration_comes_back(whole: Path) -> None:
    config = open_sweep(whole).config
    assert config.sweep.blocks == [1, 2]
    assert config.backbone.name == "random"
    with pytest.raises(ConfigError, match="is not the folder of a sweep"):
        open_sweep(whole / "cells")


def test_done_is_done_and_a_smaller_grid_reports_all_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, tables = records(folder), [(folder / name).read_bytes() for name in TABLES]
    monkeypatch.setattr(compute, "probe_timestep", must_not_run)
    monkeypatch.setattr(WeightsConfig, "build", must_not_run)
    smaller = composed_sweep(folder, "sweep.blocks=[1]", "sweep.timesteps=[5]", *BARE)
    score = sweep(smaller)
    assert score == finished(smaller)
    assert records(folder) == before
    assert [(folder / name).read_bytes() for name in TABLES] == tables


def test_a_larger_grid_keeps_what_is_done_and_adds_the_rest(folder: Path, tmp_path: Path) -> None:
    larger = ("sweep.blocks=[3,1,2]", "sweep.timesteps=[200,5,50]", "sweep.seeds=[1,0]")
    before = records(folder)
    assert finished(composed_sweep(folder, *larger)) is None
    sweep(composed_sweep(folder, *larger), True)
    after = records(folder)
    assert {name: after[name] for name in before} == before
    keys = [(b, t, s) for b in (1, 2, 3) for t in (5, 50, 200) for s in (0, 1)]
    assert list(counts_of(folder)) == keys
    # What a cell holds does not depend on which were done before.
    sweep(composed_sweep(tmp_path / "at_once", *larger, "sweep.controls=[]"), True)
    assert counts_of(tmp_path / "at_once") == counts_of(folder)


def test_dry_run_lists_and_writes_nothing(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = contents(folder)
    wanted = ("sweep.dry_run=true", "sweep.timesteps=[5,200]")
    with caplog.at_level(logging.INFO):
        assert sweep(composed_sweep(folder, *wanted)) is None
    assert caplog.messages == [
        f"5 cells, 3 done, 2 to do, in '{folder}'",
        "block  1  t =   5  seed 0  done",
        "block  2  t =   5  seed 0  done",
        "block  1  t = 200  seed 0  to do",
        "block  2  t = 200  seed 0  to do",
        "block  0  t =   0  seed 0  done  (pixels)",
    ]
    assert contents(folder) == before
    assert finished(composed_sweep(folder, "sweep.dry_run=true")) is None
    sweep(composed_sweep(tmp_path / "new", *wanted))
    assert not (tmp_path / "new").exists()


def test_dry_run_of_many_cells_is_a_line_for_each_timestep(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = ("sweep.dry_run=true", "sweep.timesteps=[5,200]", "sweep.seeds=[0,1,2,3,4,5]")
    with caplog.at_level(logging.INFO):
        sweep(composed_sweep(folder, *wanted))
    assert caplog.messages == [
        f"30 cells, 3 done, 27 to do, in '{folder}'",
        "t = 5                     2 of 12 done",
        "t = 200                   0 of 12 done",
        "control pixels            1 of 6 done",
        "hydra.verbose=true lists every cell",
    ]
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        sweep(composed_sweep(folder, *wanted))
    listed = [line for line in caplog.messages if line.startswith("block ")]
    assert len(listed) == 30


def test_overwrite_begins_anew(folder: Path) -> None:
    before = counts_of(folder)
    changed = ("sweep.head.max_steps=40", "sweep.blocks=[1]", "paths.overwrite=true")
    with pytest.raises(ConfigError, match=r"`sweep\.head\.max_steps` was 6, is 40"):
        sweep(composed_sweep(folder, *changed[:-1]))
    assert finished(composed_sweep(folder, *changed)) is None
    sweep(composed_sweep(folder, *changed, *BARE))
    after = counts_of(folder)
    assert list(after) == [(1, 5, 0), (1, 50, 0)]
    assert after[1, 5, 0] != before[1, 5, 0]
    assert rows(folder / "controls.csv") == []
    assert not (folder / "clusters.npz").exists()


def test_damaged_records_are_computed_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before, counts = records(folder), counts_of(folder)
    spoilt = ["cells/b02_t0050_s0.json", "controls/pixels/b00_t0000_s0.json"]
    for name in spoilt:
        (folder / name).write_bytes(before[name][0][:-9])
    assert finished(composed_sweep(folder)) is None
    sweep(composed_sweep(folder), True)
    for name in spoilt:
        assert f"record '{folder / name}' is damaged" in caplog.text
    assert counts_of(folder) == counts
    after = records(folder)
    assert set(after) == set(before)
    kept = set(before) - set(spoilt)
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_a_job_of_a_multirun_leaves_the_report_to_the_last(tmp_path: Path) -> None:
    score = sweep(composed_sweep(tmp_path, "sweep.timesteps=[5]", *BARE), True)
    assert score is not None
    assert set(contents(tmp_path)) & (REPORT | {"examples.npz"}) == set()
    assert len(CellStore(tmp_path).done()) == 2


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file; the network is that of the tiny sweep."""
    path = tmp_path_factory.mktemp("weights") / "unet.pt"
    flags = UNetFlags(16, 32, 1, "1,2", attention_resolutions="8", resblock_updown=True)
    torch.manual_seed(5)
    unet, _ = build_unet(flags)
    for value in unet.parameters():
        torch.nn.init.normal_(value, std=0.05)
    torch.save(unet.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def trained(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cells of the tiny sweep over trained weights, with both controls and without a report."""
    folder = tmp_path_factory.mktemp("trained") / "sweep"
    sweep(composed_sweep(folder, f"backbone.checkpoint={weights}", "backbone.name=random"), True)
    return folder


def test_a_sweep_holds_one_network_at_a_time(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own, that of the control 'random', and its own again for the clusters."""
    alive: WeakSet[Backbone] = WeakSet()
    others: list[int] = []
    build = WeightsConfig.build

    def counted(settings: WeightsConfig, device: torch.device) -> Backbone:
        others.append(len(alive))
        network = build(settings, device)
        alive.add(network)
        return network

    monkeypatch.setattr(WeightsConfig, "build", counted)
    given = (f"backbone.checkpoint={weights}", "sweep.controls=[random]")
    sweep(composed_sweep(tmp_path, *given))
    assert others == [0, 0, 0]


def test_controls_of_trained_weights(whole: Path, weights: Path, trained: Path) -> None:
    """'random' is the same network untrained, at the smallest timestep: the sweep of it at t=5."""
    assert counts_of(trained, "pixels") == counts_of(whole, "pixels")
    ours = counts_of(whole)
    assert counts_of(trained, "random") == {key: ours[key] for key in ours if key[1] == 5}
    assert counts_of(trained)[1, 5, 0] != ours[1, 5, 0]
    assert CellStore(trained).identity().digests["weights"] == file_sha256(weights)


def test_report_is_drawn_on_demand(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "sweep"))
    assert not (folder / "report.html").exists()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").is_file()
    keys = [(int(row["block"]), int(row["timestep"]), 0) for row in rows(folder / "cells.csv")]
    assert keys == FOUR
    found = [(r["control"], r["block"], r["timestep"]) for r in rows(folder / "controls.csv")]
    assert found == [("random", "1", "5"), ("random", "2", "5"), ("pixels", "0", "-")]
    (folder / "cells" / "b01_t0005_s0.json").write_text("{")
    assert main(["report", str(folder)]) == 2
    assert "b01_t0005_s0.json' is damaged" in capsys.readouterr().err
    assert main(["report", str(folder / "cells")]) == 2
    assert "is not the folder of a sweep" in capsys.readouterr().err


def test_backbone_without_timesteps(tmp_path: Path) -> None:
    others = [override for override in SWEEP if not override.startswith("backbone")]
    others += ["sweep.blocks=null", "sweep.timesteps=null"]
    sweep(composed(tmp_path, "backbone=pixels", *others, root="sweep"), True)
    assert list(counts_of(tmp_path)) == [(0, 0, 0)]
    assert counts_of(tmp_path, "pixels") == {}


MOMENTS: list[Callable[[Path], bool]] = [
    lambda folder: (folder / "cells" / "b01_t0005_s0.json").exists(),
    lambda folder: (folder / "clusters.npz").exists(),
]
"""In the middle of the cells, and in the middle of the report."""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_sweep_goes_on_to_exactly_the_same_cells(tmp_path: Path) -> None:
    longer = ("sweep.timesteps=[5,50,200,400]", "sweep.seeds=[0,1]")
    folder = tmp_path / "killed"
    command = [sys.executable, "sweep.py", *SWEEP, *longer, f"paths.output_dir={folder}"]
    before: dict[str, tuple[bytes, int]] = {}
    for moment in MOMENTS:
        running = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(lambda: moment(folder) or running.poll() is not None, 90)  # noqa: B023
        running.kill()
        assert running.wait() == -9
        done = records(folder)
        assert done
        assert {name: done[name] for name in before} == before
        assert not (folder / "report.html").exists()
        before = done
    assert finished(composed_sweep(folder, *longer)) is not None
    sweep(composed_sweep(folder, *longer))
    assert {name: records(folder)[name] for name in before} == before
    sweep(composed_sweep(tmp_path / "whole", *longer))
    assert len(scores(folder)) == 16
    assert scores(folder) == scores(tmp_path / "whole")
    assert scores(folder, "controls.csv") == scores(tmp_path / "whole", "controls.csv")
