"""Heads on corrupted images: the numbers, their tables and figure, resuming, what can go wrong."""

import csv
import logging
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_bad_input import CLASSES, save_pair, some_pair
from tiny_run import HARDWARE, PRETRAIN, SEGMENT, checked, composed, contents, extractor_of

from ddpmseg.__main__ import INTERRUPTED, main
from ddpmseg.data.corruptions import Corruption, corrupt
from ddpmseg.finished.open import FinishedRun, open_run
from ddpmseg.heads.export import load_head
from ddpmseg.heads.segment import segment
from ddpmseg.metrics import functional
from ddpmseg.records.identity import Identity
from ddpmseg.records.run_folder import claim_run
from ddpmseg.records.runs import Run
from ddpmseg.robustness import run as app
from ddpmseg.robustness.figures import examples_figure, robustness_figure
from ddpmseg.robustness.scores import Line, Robustness, drop_table, lines, miou_table, relative_drop
from ddpmseg.runs.train import train
from ddpmseg.tables.table import as_markdown

PIXELS = (
    "backbone=pixels",
    "dataset.image_size=32",
    "dataset.num_labelled=2",
    "dataset.num_test=3",
    "head.members=2",
    "head.hidden=[8]",
    "head.max_steps=20",
    *HARDWARE,
)
UNTRAINED = (*SEGMENT, "dataset.image_size=32", "backbone.unet.image_size=32", "head.max_steps=3")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs on the same ponies of 32 pixels."""
    folder = tmp_path_factory.mktemp("runs")
    train(composed(folder / "pixels", *PIXELS))
    train(composed(folder / "random", *UNTRAINED, "dataset.num_test=3"))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def command(cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Run the command with these arguments; returns its exit status."""
    caplog.set_level(logging.INFO)

    def run(*arguments: str | Path, types: str = "fog,contrast", severities: str = "1,5") -> int:
        given = ["--types", types, "--severities", severities, "--accelerator", "cpu"]
        places = ["--output", str(tmp_path / "out"), "--cache-dir", str(cache)]
        return main(["robustness", *given, *places, *map(str, arguments)])

    return run


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_is_written(command, runs: Path, tmp_path: Path, capsys) -> None:
    assert command(runs / "random", runs / "pixels") == 0
    out = tmp_path / "out"
    rows = table(out / "robustness.csv")
    assert [(row["method"], row["corruption"], row["severity"], row["level"]) for row in rows] == [
        (method, *version)
        for method in ("random", "pixels")
        for version in (
            ("clean", "0", "clean"),
            ("fog", "1", "weak"), ("fog", "5", "strong"),
            ("contrast", "1", "weak"), ("contrast", "5", "strong"),
        )
    ]  # fmt: skip
    for first in (0, 5):
        run = Path(rows[first]["run"])
        (result,) = table(run / "results.csv")
        clean = float(rows[first]["miou"])
        for metric in ("miou", "miou_present", "pixel_accuracy"):
            assert rows[first][metric] == result[metric]
        for row in rows[first : first + 5]:
            assert float(row["drop"]) == pytest.approx(1 - float(row["miou"]) / clean, abs=1e-4)
            assert row["num_test"] == "3"
    shown = capsys.readouterr().out
    assert "| method | clean | weak | strong |" in shown
    assert "| corruption | random, weak | random, strong | pixels, weak | pixels, strong |" in shown
    assert {path.name for path in out.iterdir()} >= {
        "robustness.csv", "robustness.png", "robustness.svg", "examples.png",
        "miou.md", "miou.csv", "miou.tex", "drop.md", "drop.csv", "drop.tex",
    }  # fmt: skip
    assert (out / "drop.md").read_text() in shown
    assert (out / "miou.tex").read_text().startswith("\\begin{tabular}")
    assert not list(out.rglob("*.tmp"))


def test_tests_on_a_disk_without_locks(
    command, runs: Path, tmp_path: Path, disk_without_locks: Callable[[], list[str]]
) -> None:
    assert command(runs / "pixels", "--cache-dir", tmp_path / "versions", types="fog") == 0
    out = tmp_path / "out"
    assert len(table(out / "robustness.csv")) == 3
    (tests,) = (out / "tests").iterdir()
    assert disk_without_locks() == [
        str(tests),
        str(tmp_path / "versions" / "corruptions"),
        str(out),
    ]


@pytest.mark.parametrize("name", ["random", "pixels"])
def test_scores_are_those_of_a_plain_loop(name: str, command, runs: Path, tmp_path: Path) -> None:
    run = runs / name
    assert command(run, "--seed", "4", types="snow,impulse_noise", severities="3") == 0
    config = open_run(run).config
    head, _ = load_head(run / "head.safetensors")
    extractor = extractor_of(config, config.backbone.build(torch.device("cpu")))
    reader = head.reader(extractor.layout, extractor.backbone.dtype)
    test = config.dataset.build().test
    for row in table(tmp_path / "out" / "robustness.csv")[1:]:
        counts = torch.zeros(12, 11, dtype=torch.int64)
        for sample in test:
            image = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
            one = Corruption(row["corruption"], 3)
            spoilt = torch.from_numpy(corrupt(image, one, 4, f"test/{sample.name}").copy())
            maps = extractor(spoilt.permute(2, 0, 1)[None].contiguous(), [f"test/{sample.name}"])
            counts += functional.confusion(segment(reader, maps).masks[0], sample.mask, 11, 255)
        assert float(row["miou"]) == pytest.approx(float(functional.miou(counts, 255)), abs=1e-9)


def test_a_command_that_broke_off_goes_on(
    command, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    original, tested = app._test, []

    def breaks_off(plan, head, extractor, split):
        if len(tested) == 3:
            raise KeyboardInterrupt
        tested.append(split)
        return original(plan, head, extractor, split)

    with monkeypatch.context() as patch:
        patch.setattr(app, "_test", breaks_off)
        assert command(runs / "pixels") == INTERRUPTED
    assert not (tmp_path / "out" / "robustness.csv").exists()
    before = contents(tmp_path / "out" / "tests")
    assert command(runs / "pixels") == 0
    assert "pixels on 3 test images, 3 of 5 tests are done" in caplog.text
    assert "2 tests to go, about " in caplog.text
    after = contents(tmp_path / "out" / "tests")
    assert all(after[name] == content for name, content in before.items())
    # Now that all is done, no network is built; other types add to what is there.
    with monkeypatch.context() as patch:
        patch.setattr(FinishedRun, "extractor", lambda *_: pytest.fail("opened"))
        assert command(runs / "pixels", types="contrast") == 0
    caplog.clear()
    assert command(runs / "pixels", types="contrast,frost") == 0
    assert "3 of 5 tests are done" in caplog.text
    assert len(table(tmp_path / "out" / "robustness.csv")) == 5


def test_a_damaged_record_is_tested_again(command, runs: Path, tmp_path: Path, caplog) -> None:
    assert command(runs / "pixels") == 0
    before = table(tmp_path / "out" / "robustness.csv")
    (place,) = (tmp_path / "out" / "tests").iterdir()
    (place / "fog_1.json").write_text('{"seconds": 1, "counts": [[1, 2]')
    (place / "fog_5.json").write_text('{"seconds": 1, "counts": [[1, 2]]}')
    assert command(runs / "pixels") == 0
    for name in ("fog_1", "fog_5"):
        assert f"record '{place / name}.json' is damaged (" in caplog.text
    assert "3 of 5 tests are done" in caplog.text
    assert table(tmp_path / "out" / "robustness.csv") == before


def test_fewer_images_and_other_draws_are_other_tests(
    command, runs: Path, tmp_path: Path, caplog
) -> None:
    for options in ([], ["--images", "2"], ["--seed", "1"]):
        caplog.clear()
        assert command(runs / "pixels", *options, types="fog", severities="3") == 0
        assert " 0 of 2 tests are done" in caplog.text
    assert len(list((tmp_path / "out" / "tests").iterdir())) == 3
    assert command(runs / "pixels", "--images", "2", types="fog", severities="3") == 0
    assert " 2 of 2 tests are done" in caplog.text
    assert table(tmp_path / "out" / "robustness.csv")[0]["num_test"] == "2"


@pytest.fixture
def photographs(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of photographs, and a finished run on them."""
    root = tmp_path / "photographs"
    for split in ("train", "test"):
        (root / "real" / split).mkdir(parents=True)
        for index in range(2):
            save_pair(root / "real" / split, f"photo_{index}", *some_pair(index, 32, 32))
    (root / "classes.yaml").write_text(CLASSES)
    where = (f"dataset.root={root}", f"dataset.classes={root / 'classes.yaml'}")
    some = ("dataset.num_labelled=null", "dataset.num_test=null", "head.max_steps=2")
    train(composed(tmp_path / "run", "dataset=folder", *PIXELS, *where, *some))
    return root, tmp_path / "run"


def test_changed_images_under_the_same_names(
    command, photographs: tuple[Path, Path], tmp_path: Path, caplog
) -> None:
    root, run = photographs
    assert command(run) == 0
    save_pair(root / "real" / "test", "photo_1", *some_pair(7, 32, 32))
    caplog.clear()
    assert command(run) == 0
    assert " 0 of 5 tests are done" in caplog.text
    assert len(list((tmp_path / "out" / "tests").iterdir())) == 2


def test_clean_images_that_score_otherwise_than_recorded(
    command, runs: Path, tmp_path: Path, caplog
) -> None:
    run = Path(shutil.copytree(runs / "pixels", tmp_path / "run"))
    (row,) = table(run / "results.csv")
    text = (run / "results.csv").read_text().replace(row["miou"], "0.876543", 1)
    (run / "results.csv").write_text(text)
    assert command(run, types="fog", severities="3") == 0
    assert "its results.csv says 0.8765: images or machine are not those of the run" in caplog.text
    caplog.clear()
    assert command(runs / "pixels", types="fog", severities="3") == 0
    assert "says" not in caplog.text


def no_results(run: Path) -> None:
    (run / "results.csv").unlink()


def no_head(run: Path) -> None:
    (run / "head.safetensors").unlink()


def damaged_head(run: Path) -> None:
    (run / "head.safetensors").write_bytes(b"x" * 100)


def other_weights(run: Path) -> None:
    (row,) = table(run / "results.csv")
    row["checkpoint_sha256"] = "abc"
    (run / "results.csv").write_text(f"{','.join(row)}\n{','.join(row.values())}\n")


def lost_weights(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("checkpoint: random", "checkpoint: lost.pt"))


def other_head(run: Path) -> None:
    shutil.copy(run.parent / "pixels" / "head.safetensors", run)


def empty(run: Path) -> None:
    shutil.rmtree(run)
    run.mkdir()


def pretrained(run: Path) -> None:
    shutil.rmtree(run)
    claim_run(checked(composed(run, *PRETRAIN)), Identity({}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (no_results, "is unfinished: there is no results.csv."),
        (no_head, "head.safetensors' is not a head written by ddpmseg"),
        (damaged_head, "head.safetensors' is not a head written by ddpmseg"),
        (other_weights, "the weights of 'random' are not those on whose features the head of"),
        (lost_weights, "run '{run}': checkpoint 'lost.pt' does not exist"),
        (other_head, "reads D = 3 features per pixel, by the config.yaml beside it they are"),
        (empty, "there is no run of ddpmseg train in '{run}'."),
        (pretrained, "is a run of task=pretrain."),
        (shutil.rmtree, "'{run}' is no folder."),
    ],
)
def test_runs_that_cannot_be_tested(
    damage, says: str, command, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "pixels", tmp_path / "pixels")
    run = Path(shutil.copytree(runs / "random", tmp_path / "run"))
    damage(run)
    assert command(run, runs / "pixels") == 2
    assert says.format(run=run) in capsys.readouterr().err


def test_a_run_below_a_folder_is_left_out(command, runs: Path, tmp_path: Path, capsys) -> None:
    folder = Path(shutil.copytree(runs, tmp_path / "some"))
    no_results(folder / "random")
    assert command(folder, types="fog", severities="3") == 0
    assert f"'{folder / 'random'}' is unfinished" in capsys.readouterr().err
    assert {row["method"] for row in table(tmp_path / "out" / "robustness.csv")} == {"pixels"}


def test_missing_photographs(command, photographs: tuple[Path, Path], capsys) -> None:
    root, run = photographs
    shutil.rmtree(root / "real")
    assert command(run) == 2
    assert f"run '{run}': there is no folder '{root}/real/train'" in capsys.readouterr().err
    root.rename(root.with_name("moved"))
    assert command(run) == 2
    assert f"run '{run}': " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--types", "mist"], "there is no corruption 'mist'"),
        (["--severities", "7"], "severity 7 does not exist: severities are 1..5"),
        (["--types", ","], "name at least one of each"),
        (["--images", "4"], "--images 4: there are 3 test images. Give a number of 1..3"),
        (["--images", "0"], "--images 0: there are 3 test images"),
        (["--types", "blur"], "32 pixels are too small for motion_blur at severity 5"),
        (["--accelerator", "abacus"], "must be one of auto, cpu"),
    ],
)
def test_mistaken_arguments(
    options: list[str], says: str, command, runs: Path, tmp_path: Path, capsys
) -> None:
    assert command(*options, runs / "pixels") == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_severities_that_are_no_numbers(command, runs: Path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        command(runs / "pixels", "--severities", "strong")
    assert "'strong': give whole numbers, as in 1,3,5" in capsys.readouterr().err


def test_images_that_are_too_small(command, tmp_path: Path, capsys) -> None:
    train(composed(tmp_path / "run", *PIXELS, "dataset.image_size=16", "head.max_steps=2"))
    assert command(tmp_path / "run") == 2
    assert "images of 16 pixels are too small for fog at severity 1, which needs 32" in (
        capsys.readouterr().err
    )


def test_without_the_extra(command, runs: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    assert command(runs / "pixels") == 2
    assert "pip install -e '.[corruptions]'" in capsys.readouterr().err


def test_folders_that_cannot_be_written_to(command, runs: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "taken").write_text("precious")
    for option in ("--output", "--cache-dir"):
        assert command(runs / "pixels", option, tmp_path / "taken", types="frost") == 2
        error = capsys.readouterr().err
        assert "cannot be written to (" in error
        assert option in error


def test_a_full_disk_keeps_what_is_finished(
    command, runs: Path, tmp_path: Path, full_disk: Callable[[Path], None], capsys, caplog
) -> None:
    assert command(runs / "pixels", types="fog") == 0
    (place,) = (tmp_path / "out" / "tests").iterdir()
    full_disk(place / "contrast_5.json")
    assert command(runs / "pixels") == 2
    path = place / "contrast_5.json"
    says = f"'{path}' cannot be written to (No space left on device). Make room, and repeat "
    assert says in capsys.readouterr().err
    caplog.clear()
    assert command(runs / "pixels") == 0
    assert "4 of 5 tests are done" in caplog.text


def test_the_cache_of_the_surroundings_is_used(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDPMSEG_CACHE", str(tmp_path / "mine"))
    given = ["--types", "fog", "--severities", "3", "--accelerator", "cpu"]
    assert main(["robustness", str(runs / "pixels"), *given, "--output", str(tmp_path / "o")]) == 0
    (place,) = (tmp_path / "mine" / "corruptions").glob("[0-9a-f]*")
    assert len(list(place.glob("*.png"))) == 3


FOGS = [Corruption("fog", step) for step in (1, 3, 5)]
CONTRASTS = [Corruption("contrast", step) for step in (1, 3, 5)]


def some_tests(
    clean: float, *corrupted: float, method: str = "DDPM", dataset: str = "horse_21", **others
) -> Robustness:
    """Fog at three severities, then contrast, with these scores."""
    settings = {"method": method, "dataset.name": dataset, "backbone.name": method, "seed": 0}
    settings |= {key.replace("__", "."): value for key, value in others.items()}
    versions = zip(FOGS + CONTRASTS, corrupted, strict=True)
    scores = {
        one: {"miou": miou, "miou_present": miou, "pixel_accuracy": 1} for one, miou in versions
    }
    return Robustness(Run(str(settings), settings, {}), 5, {"miou": clean}, scores)


DDPM = some_tests(0.5, 0.5, 0.4, 0.2, 0.4, 0.3, 0.1)
MAE = some_tests(0.4, 0.3, 0.2, 0.1, 0.44, 0.2, 0.0, method="MAE")


def test_tables() -> None:
    drawn = lines([DDPM, MAE])
    assert [line.label for line in drawn] == ["DDPM", "MAE"]
    assert as_markdown(miou_table(drawn)).splitlines()[2:] == [
        "| DDPM | 50.0 | 45.0 | 35.0 | 15.0 |",
        "| MAE | 40.0 | 37.0 | 20.0 | 5.0 |",
    ]
    header, _, *rows = as_markdown(drop_table(drawn)).splitlines()
    columns = [
        f"{name}, {level}" for name in ("DDPM", "MAE") for level in ("weak", "medium", "strong")
    ]
    assert header == f"| corruption | {' | '.join(columns)} |"
    assert rows == [
        "| fog | 0.0 | 20.0 | 60.0 | 25.0 | 50.0 | 75.0 |",
        "| contrast | 20.0 | 40.0 | 80.0 | -10.0 | 50.0 | 100.0 |",
        "| mean | 10.0 | 30.0 | 70.0 | 7.5 | 50.0 | 87.5 |",
    ]


def test_runs_over_seeds_share_a_line_and_others_do_not() -> None:
    again = some_tests(0.25, 0.125, 0.4, 0.2, 0.125, 0.3, 0.1, seed=1)
    other = some_tests(0.5, 0.5, 0.4, 0.2, 0.4, 0.3, 0.1, head__members=2)
    assert [line.label for line in lines([DDPM, again])] == ["DDPM"]
    (line,) = lines([DDPM, again])
    assert str(line.drop(1)) == "30.0 ± 28.3 (2)"
    assert str(line.drop(1, "fog")) == "25.0 ± 35.4 (2)"
    assert str(line.miou(1)) == "28.8 ± 23.0 (2)"
    assert str(line.clean()) == "37.5 ± 17.7 (2)"
    assert [line.label for line in lines([other, DDPM])] == [
        "DDPM: head.members=2", "DDPM: head.members=null",
    ]  # fmt: skip
    there = some_tests(0.5, 0.5, 0.4, 0.2, 0.4, 0.3, 0.1, dataset="cat_15")
    assert [line.label for line in lines([there, DDPM])] == ["DDPM, cat_15", "DDPM, horse_21"]


def test_nothing_to_lose() -> None:
    assert math.isnan(relative_drop(0.0, 0.1))
    line = Line("x", (some_tests(0.0, *[0.0] * 6),))
    assert line.drop(1) is None
    assert "| fog | – | – | – |" in as_markdown(drop_table([line]))  # noqa: RUF001
    robustness_figure([line])


def test_figure() -> None:
    figure = robustness_figure(lines([DDPM, MAE]))
    scores, drops = figure.axes
    curves = [line for line in scores.lines if not str(line.get_label()).startswith("_")]
    assert {line.get_label(): list(line.get_ydata()) for line in curves} == {  # pyright: ignore
        "DDPM": pytest.approx([50, 45, 35, 15]),
        "MAE": pytest.approx([40, 37, 20, 5]),
    }
    assert [tick.get_text() for tick in scores.get_xticklabels()] == [
        "clean", "weak", "medium", "strong",
    ]  # fmt: skip
    assert scores.get_ylim()[0] == 0
    assert [tick.get_text() for tick in drops.get_yticklabels()] == ["fog", "contrast"]
    # A thread with its three markers for every line and type; types down, lines side by side.
    threads = [line for line in drops.lines if len(line.get_xdata()) == 3]  # pyright: ignore
    found = {round(float(t.get_ydata()[0]), 1): list(t.get_xdata()) for t in threads}  # pyright: ignore
    assert len(found) == 4
    assert list(found.values()) == [
        pytest.approx(values)
        for values in ([0, 20, 60], [20, 40, 80], [25, 50, 75], [-10, 50, 100])
    ]
    left, right = drops.get_xlim()
    assert left < -10
    assert right > 100


def test_examples_show_every_pixel(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    clean = draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pictures = {one: draw.integers(0, 256, clean.shape, dtype=np.uint8) for one in FOGS + CONTRASTS}
    figure = examples_figure(clean, pictures)
    figure.savefig(tmp_path / "examples.png", dpi=150)
    sheet = np.asarray(Image.open(tmp_path / "examples.png").convert("RGB"))
    for picture in (clean, *pictures.values()):
        doubled = picture.repeat(2, axis=0).repeat(2, axis=1)
        rows = np.flatnonzero((sheet == doubled[0, 0]).all(axis=2).any(axis=1))
        assert any(
            (sheet[row : row + 128, column : column + 128] == doubled).all()
            for row in rows
            for column in np.flatnonzero((sheet[row] == doubled[0, 0]).all(axis=1))
            if sheet[row : row + 128, column : column + 128].shape == doubled.shape
        )
