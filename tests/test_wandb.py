"""What W&B runs hold: read from the files that real runs record without a network."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_run import HARDWARE, PRETRAIN, ROOT, SEGMENT, composed, composed_sweep, multirun
from wandb_files import Recorded, read_run, recorded

from ddpmseg.config import LoggerConfig, run_key
from ddpmseg.data.class_table import load_class_table
from ddpmseg.report.study import Study
from ddpmseg.runs.train import train
from ddpmseg.sweeps import report
from ddpmseg.sweeps.sweep import sweep
from ddpmseg.tracking.wandb_run import Identity, open_run

OFFLINE = ("logger=wandb", "logger.mode=offline", "logger.project=tests")
SMALL = tuple(o for o in SEGMENT if not o.startswith(("features.blocks", "features.timesteps")))
JOBS = (
    *SMALL,
    *OFFLINE,
    "head.members=1",
    "features.blocks=[1]",
    "features.timesteps=[5]",
    "logger.tags=[ours]",
)


@pytest.fixture(scope="module", autouse=True)
def no_settings_of_mine() -> Iterator[None]:
    """Whoever runs the tests may have W&B set up; nothing of it counts here."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MODE", "PROJECT", "ENTITY", "API_KEY", "BASE_URL", "RUN_ID", "SWEEP_ID"):
            patch.delenv(f"WANDB_{name}", raising=False)
        yield


def no_figures(study: Study, folder: Path) -> list[str]:
    """Drawing takes most of the time of a tiny run, and is tested elsewhere."""
    return []


def results(folder: Path) -> dict[str, str]:
    (row,) = csv.DictReader((folder / "results.csv").read_text().splitlines())
    return row


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multirun of three jobs, the last of which fails, repeated after the first was cut off.

    The last finds a file where it is to put its masks, once it has trained.
    """
    folder = tmp_path_factory.mktemp("jobs")
    runs = [
        folder / "outputs" / "segment" / f"ponies_random_{run_key(composed(folder, *JOBS, seed))}"
        for seed in ("seed=0", "seed=1", "seed=2")
    ]
    runs[2].mkdir(parents=True)
    (runs[2] / "masks").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "save_figures", no_figures)
        assert multirun(folder, "train.py", *JOBS, "seed=0,1,2") == 1
        (runs[0] / "results.csv").unlink()
        assert multirun(folder, "train.py", *JOBS, "seed=0,1,2") == 1
    assert (runs[0] / "results.csv").exists()
    return folder


@pytest.fixture(scope="module")
def fragments(jobs: Path) -> dict[str, list[Recorded]]:
    """What was recorded of each run, by its folder's name."""
    folders = sorted((jobs / "outputs" / "segment").iterdir())
    return {folder.name: recorded(folder) for folder in folders}


def test_every_job_is_a_run_of_its_own(jobs: Path, fragments: dict[str, list[Recorded]]) -> None:
    assert len(fragments) == 3
    ids = [{part.id for part in parts} for parts in fragments.values()]
    assert all(len(found) == 1 for found in ids)
    assert len(set.union(*ids)) == 3
    (folder,) = (jobs / "outputs" / "multirun").iterdir()
    for name, parts in fragments.items():
        for part in parts:
            assert part.id == "segment-" + name.rsplit("_", 1)[1]
            assert (part.name, part.job_type, part.project) == (name, "segment", "tests")
            assert part.group == folder.name
            assert part.tags == {"ponies", "random", "mlp-8", "b1", "t5", "ours"}


def test_states_are_those_of_the_jobs(jobs: Path, fragments: dict[str, list[Recorded]]) -> None:
    states = {name: [part.exit_code for part in parts] for name, parts in fragments.items()}
    failed = [
        path.name
        for path in (jobs / "outputs" / "segment").iterdir()
        if not (path / "results.csv").exists()
    ]
    assert len(failed) == 1
    assert states.pop(failed[0]) == [1, 1]
    # The one that was cut off has gone on under the same name, the other was not run again.
    assert sorted(states.values()) == [[0], [0, 0]]


def test_the_config_has_axes_to_group_by(fragments: dict[str, list[Recorded]]) -> None:
    seeds = set()
    for parts in fragments.values():
        for part in parts:
            config = part.config
            assert (config["features"]["block"], config["features"]["timestep"]) == (1, 5)
            assert (config["dataset"]["name"], config["backbone"]["name"]) == ("ponies", "random")
            assert config["head"]["name"] == "mlp-8"
            seeds.add(config["seed"])
            assert "." not in "".join(config)  # nested: W&B puts the dots itself
    assert seeds == {0, 1, 2}


def test_summaries_are_the_results(jobs: Path, fragments: dict[str, list[Recorded]]) -> None:
    compared = 0
    for name, parts in fragments.items():
        folder = jobs / "outputs" / "segment" / name
        if not (folder / "results.csv").exists():
            assert "test/miou" not in parts[-1].summary
            continue
        row, summary = results(folder), parts[-1].summary
        for column in ("miou", "miou_present", "pixel_accuracy", "uncertainty"):
            assert summary[f"test/{column}"] == float(row[column])
            compared += 1
        for stage in ("extract", "train", "test"):
            assert summary[f"seconds/{stage}"] == float(row[f"seconds_{stage}"])
        assert summary["memory/peak_rss_mb"] == float(row["peak_rss_mb"])
    assert compared == 8


def test_curves_have_a_step_axis(fragments: dict[str, list[Recorded]]) -> None:
    for parts in fragments.values():
        steps = [row["trainer/global_step"] for row in parts[-1].history if "train/loss" in row]
        assert steps == sorted(set(steps))
        assert parts[-1].metrics["train/*"] == "trainer/global_step"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose command line and settings hold secrets."""
    folder = tmp_path_factory.mktemp("run") / "run"
    secrets = (
        "dataset.url=https://me:hunter2@host/set.tar?sig=swordfish",
        "backbone.url=https://host/w.pt?sig=swordfish",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", "0123456789" * 4)
        patch.setattr(sys, "argv", ["train.py", *secrets])
        quoted = secrets[-1].replace("=", "='", 1) + "'"
        # Two passes of one image each, of which one is shown.
        small = ("logger.num_images=1", "features.batch_size=2")
        given = (*SEGMENT, *OFFLINE, *small, quoted)
        train(composed(folder, *given))
        assert sys.argv == ["train.py", *secrets]
    return folder


def media(run: Path) -> Path:
    (path,) = (run / "wandb").glob("offline-run-*/files")
    return path


def test_images_have_masks_to_switch(run: Path) -> None:
    (part,) = recorded(run)
    (row,) = [row for row in part.history if "examples/masks/all_masks" in row]
    assert row["examples/masks/count"] == row["examples/uncertainty/count"] == 1
    assert row["examples/masks/captions"][0].startswith("test/test_00000, uncertainty 0.")
    (layers,) = row["examples/masks/all_masks"]
    assert set(layers) == {"prediction", "ground_truth"}
    for layer in layers.values():
        assert (media(run) / layer["path"]).is_file()
    names = load_class_table("ponies").names
    told = part.config["_wandb"]["mask/class_labels"].values()
    assert [labels["value"]["0"] for labels in told] == [names[0]] * 2
    assert [labels["value"]["255"] for labels in told] == ["(ignored)"] * 2


def test_masks_are_those_of_the_files(run: Path) -> None:
    import numpy as np
    from PIL import Image

    (part,) = recorded(run)
    (row,) = [row for row in part.history if "examples/masks/all_masks" in row]
    shown = Image.open(media(run) / row["examples/masks/all_masks"][0]["prediction"]["path"])
    assert np.array_equal(np.asarray(shown), np.load(run / "masks" / "test_00000.npy"))


def table(run: Path, part: Recorded, key: str) -> dict[str, Any]:
    (row,) = [row for row in part.history if f"{key}/path" in row]
    return json.loads((media(run) / row[f"{key}/path"]).read_text())


def test_tables_are_those_of_the_files(run: Path) -> None:
    (part,) = recorded(run)
    found = table(run, part, "test/per_class")
    with (run / "per_class.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert found["columns"] == header
    assert [[str(cell) for cell in row[:2]] for row in found["data"]] == [row[:2] for row in rows]
    told = [float(row[2]) if row[2] else None for row in rows]
    assert [row[2] for row in found["data"]] == pytest.approx(told)
    counts = table(run, part, "test/confusion_table")
    with (run / "confusion.csv").open(newline="") as file:
        expected = sum(int(cell) for row in list(csv.reader(file))[1:] for cell in row[1:])
    assert sum(row[2] for row in counts["data"]) == expected > 0


def test_artifacts(run: Path) -> None:
    (part,) = recorded(run)
    head = part.artifacts[f"head-{part.id}"]
    assert head.type == "model"
    (entry,) = head.manifest.contents
    assert entry.local_path == str(run / "head.safetensors")  # where it is, not a copy
    assert json.loads(head.metadata)["miou"] == float(results(run)["miou"])
    data = part.artifacts["dataset-ponies"]
    sha256 = json.loads(data.metadata)["sha256"]
    assert len(sha256) == 64
    (entry,) = data.manifest.contents
    assert entry.digest == f"sha256://{sha256}"
    assert "weights-random" not in part.artifacts  # there is no file


def test_nothing_secret_is_recorded(run: Path) -> None:
    files = [path for path in (run / "wandb").rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        for secret in (b"0123456789" * 4, b"hunter2", b"swordfish"):
            assert secret not in content, path


def test_few_keys_in_the_history(run: Path) -> None:
    (part,) = recorded(run)
    keys = {key.split("/")[0] + "/" + key.split("/")[1] for row in part.history for key in row
            if "/" in key}  # fmt: skip
    assert keys <= {
        "train/loss",
        "trainer/global_step",
        "test/miou",
        "test/miou_present",
        "test/pixel_accuracy",
        "test/uncertainty",
        "test/per_class",
        "test/confusion_table",
        "examples/masks",
        "examples/uncertainty",
        "examples/sheet",
    }


def test_no_images_and_no_artifacts_where_none_are_wanted(tmp_path: Path) -> None:
    train(composed(tmp_path, *SEGMENT, *OFFLINE, "logger.num_images=0", "logger.artifacts=false"))
    (part,) = recorded(tmp_path)
    assert not [name for name, artifact in part.artifacts.items() if artifact.type != "run_table"]
    assert not list((tmp_path / "wandb").rglob("*.png"))
    assert part.config["features"]["maps"] == "b1-2_t5-50"
    assert "block" not in part.config["features"]


def test_the_id_is_that_of_the_content(tmp_path: Path) -> None:
    first, second = (composed(tmp_path, *SEGMENT, *OFFLINE, f"seed={seed}") for seed in (0, 1))
    assert run_key(first) != run_key(second)
    assert run_key(first) == run_key(composed(tmp_path / "x", *SEGMENT))


def test_a_run_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    import wandb

    theirs = wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True))
    settings = LoggerConfig(mode="offline")
    with open_run(settings, tmp_path, Identity("abc", "abc", "segment", {"seed": 0})) as ours:
        assert ours.id == "abc" != theirs.id
    theirs.log({"still": "open"})
    theirs.finish()
    ours, other = sorted(recorded(tmp_path), key=lambda part: part.id != "abc")
    assert (len(ours.history), len(other.history)) == (0, 1)


def test_runs_are_recorded_below_their_folders_wherever_the_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        identity = Identity(name, name, "segment", {"seed": 0})
        with open_run(LoggerConfig(mode="offline"), Path("run"), identity):
            pass
        assert [part.id for part in recorded(tmp_path / name / "run")] == [name]


def test_disabled(tmp_path: Path) -> None:
    train(composed(tmp_path, *SEGMENT, "logger=wandb", "logger.mode=disabled"))
    assert not (tmp_path / "wandb").exists()
    assert (tmp_path / "results.csv").exists()


def test_pretraining(tmp_path: Path) -> None:
    train(composed(tmp_path, *PRETRAIN, *OFFLINE, "pretrain.sample_every=3", *HARDWARE))
    (part,) = recorded(tmp_path)
    assert (part.job_type, part.exit_code) == ("pretrain", 0)
    assert part.artifacts[f"unet-{part.id}"].type == "model"
    assert sum("examples/samples/path" in row for row in part.history) == 2
    assert part.config["pretrain"]["num_steps"] == 6


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept") / "sweep"
    sweep(composed_sweep(folder, *OFFLINE, "logger.runs=cell"))
    return folder


def test_a_sweep_is_a_run(swept: Path) -> None:
    (part,) = [part for part in recorded(swept) if part.job_type == "sweep"]
    assert part.exit_code == 0
    assert part.group == swept.name
    cells = list(csv.DictReader((swept / "cells.csv").read_text().splitlines()))
    best = max(cells, key=lambda cell: float(cell["miou"]))
    assert part.summary["test/miou"] == pytest.approx(float(best["miou"]), abs=1e-6)
    assert part.summary["best/block"] == int(best["block"])
    rows = [row for row in part.history if "timestep" in row and "curve/block_01" in row]
    assert [row["timestep"] for row in rows] == [5, 50]
    by_cell = {(int(c["block"]), int(c["timestep"])): float(c["miou"]) for c in cells}
    for row in rows:
        for block in (1, 2):
            expected = by_cell[block, row["timestep"]]
            assert row[f"curve/block_0{block}"] == pytest.approx(expected, abs=1e-6)
    shown = {key for row in part.history for key in row}
    for key in ("sweep/cells", "sweep/controls", "sweep/miou_table", "sweep/report"):
        assert any(name.startswith(key) for name in shown), key
    for figure in ("miou_heatmap", "miou_over_timesteps", "class_size", "clusters"):
        assert f"figures/{figure}/path" in shown
    assert "dataset-ponies" in part.artifacts
    assert "Best cell" in part.notes


def test_cells_are_runs_on_request(swept: Path) -> None:
    cells = [part for part in recorded(swept) if part.job_type == "cell"]
    table = list(csv.DictReader((swept / "cells.csv").read_text().splitlines()))
    assert len(cells) == len(table) == 4
    found = {
        (part.config["features"]["block"], part.config["features"]["timestep"]): part
        for part in cells
    }
    for row in table:
        part = found[int(row["block"]), int(row["timestep"])]
        assert part.summary["test/miou"] == float(row["miou"])
        assert part.group == swept.name
        assert {f"b{row['block']}", f"t{row['timestep']}"} < part.tags


def test_a_sweep_that_goes_on_records_its_new_cells(
    swept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "save_figures", no_figures)
    before = {path.name for path in (swept / "wandb").glob("offline-run-*")}
    sweep(composed_sweep(swept, *OFFLINE, "logger.runs=cell", "sweep.timesteps=[5,50,90]"))
    new = [read_run(p) for p in (swept / "wandb").glob("offline-run-*") if p.name not in before]
    assert sorted(part.job_type for part in new) == ["cell", "cell", "sweep"]
    assert {part.config["features"]["timestep"] for part in new if part.job_type == "cell"} == {90}


def test_jobs_have_a_run_that_shows_them_all(jobs: Path) -> None:
    first, part = recorded(jobs / "outputs" / "multirun")
    assert (first.id, first.exit_code, part.exit_code) == (part.id, 0, 0)
    (folder,) = (jobs / "outputs" / "multirun").iterdir()
    assert (part.job_type, part.group, part.id) == ("sweep", folder.name, f"multirun-{folder.name}")
    assert any("sweep/jobs/path" in row for row in part.history)
    assert "seed" not in part.config


def test_the_sweep_of_the_docs_makes_overrides_of_its_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's own code writes the command; what it chose composes, and its id is taken."""
    import wandb
    import yaml
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    given = yaml.safe_load((ROOT / "docs" / "wandb_sweep.yaml").read_text())
    assert (given["program"], given["command"][1:3]) == ("ddpmseg", ["${program}", "train"])
    assert given["command"][-1] == "${args_no_hyphens}"
    chosen = {
        key: {"value": parameter["values"][-1]} for key, parameter in given["parameters"].items()
    }
    overrides = create_sweep_command_args({"args": chosen})["args_no_hyphens"]
    assert overrides == ["features.blocks=[8]", "features.timesteps=[150]", "seed=2"]
    fixed = [argument for argument in given["command"] if "=" in argument]
    cfg = composed(tmp_path, *fixed, *overrides)
    assert (cfg.features.blocks, cfg.seed, cfg.logger.wandb) == ([8], 2, True)

    wandb.teardown()  # which has read the environment of this process already
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "agent1")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    settings = LoggerConfig(mode="offline")
    with open_run(settings, tmp_path, Identity("abc", "abc", "segment", {"seed": 0})):
        pass
    wandb.teardown()
    (part,) = recorded(tmp_path)
    assert (part.id, part.sweep, part.project) == ("agent1", "sweep1", "theirs")
