"""Runs over seeds as a table: means and spreads, what is kept apart, what is told and drawn."""

import csv
import io
import math
import shutil
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import some_run
from PIL import Image
from tiny_run import PRETRAIN, checked, composed, contents

from ddpmseg.__main__ import main
from ddpmseg.compare.ablation import ablation
from ddpmseg.compare.table import cross_table, paper_table
from ddpmseg.records.cell_grid import METRICS
from ddpmseg.records.identity import Identity
from ddpmseg.records.published import load_published
from ddpmseg.records.run_folder import claim_run
from ddpmseg.records.run_table import run_table, values_of, variants
from ddpmseg.records.runs import DASH, Run, Summary
from ddpmseg.tables.table import Row, Table, as_csv, as_latex, as_markdown

PUBLISHED = load_published()
FRACTIONS = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(FRACTIONS)
def test_mean_and_deviation_equal_the_textbook(scores: list[float]) -> None:
    found = Summary.of(scores)
    percents = [100 * score for score in scores]
    mean = sum(percents) / len(percents)
    assert found.runs == len(scores)
    assert found.mean == pytest.approx(mean, abs=1e-9)
    if len(scores) == 1:
        assert found.deviation is None
        return
    squares = sum((value - mean) ** 2 for value in percents)
    assert found.deviation == pytest.approx(math.sqrt(squares / (len(scores) - 1)), abs=1e-6)


@given(FRACTIONS, st.floats(0, 1), st.randoms())
def test_mean_and_deviation_do_not_depend_on_order_nor_deviation_on_place(
    scores: list[float], shift: float, random: Any
) -> None:
    found = Summary.of(scores)
    mixed = random.sample(scores, len(scores))
    moved = Summary.of([score + shift for score in mixed])
    assert moved.mean == pytest.approx(found.mean + 100 * shift, abs=1e-9)
    assert moved.deviation == pytest.approx(found.deviation, abs=1e-6)


def test_a_summary_of_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Summary.of([])


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        (Summary.of([0.64, 0.66]), "65.0 ± 1.4 (2)"),
        (Summary.of([0.64]), "64.0 ± – (1)"),  # noqa: RUF001
        (Summary.of([0.5, 0.5]), "50.0 ± 0.0 (2)"),
        (Summary.quoted("49.4 ± 1.9"), "49.4 ± 1.9"),
        (Summary.quoted("50.05"), "50.05"),
        (Summary.quoted("52.00"), "52.00"),
    ],
)
def test_summaries_as_text(summary: Summary, text: str) -> None:
    assert str(summary) == text


def quoted(method: str, dataset: str) -> str:
    (found,) = [m.published for m in PUBLISHED.methods if m.name == method]
    return str(found[dataset])


def test_published_numbers() -> None:
    assert list(PUBLISHED.datasets) == [
        "bedroom_28", "ffhq_34", "cat_15", "horse_21", "celeba_19", "ade_bedroom_30",
    ]  # fmt: skip
    assert quoted("DDPM", "horse_21") == "65.0 ± 0.8"
    assert quoted("DDPM (December 2021)", "cat_15") == "52.3 ± 3.0"
    assert quoted("MAE", "ade_bedroom_30") == "31.7 ± 1.8"
    assert quoted("ALAE", "celeba_19") == "49.7 ± 0.7"
    counts = {method.name: len(method.published) for method in PUBLISHED.methods}
    assert (counts["VDVAE"], counts["ALAE"], counts["DatasetGAN"], counts["DDPM"]) == (2, 4, 4, 6)
    (ddpm,) = [method for method in PUBLISHED.methods if method.name == "DDPM"]
    others = dict(ddpm.reproduced)
    assert str(others["suniverse77/DDPM-segmentation"]["celeba_19"]) == "56.70"
    assert str(others["MDM"]["ffhq_34"]) == "59.36 ± 0.17"


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({}, "DDPM"),
        ({"backbone.name": "guided_diffusion_64"}, "DDPM"),
        ({"features.blocks": [6]}, "DDPM"),
        (
            {"features.blocks": [6, 7, 8, 9], "features.timesteps": [50, 150, 250, 350]},
            "DDPM (December 2021)",
        ),
        ({"backbone.name": "swav_ffhq"}, "SwAV"),
        ({"backbone.name": "swav_w2_ffhq"}, "SwAVw2"),
        ({"backbone.name": "mae"}, "MAE"),
        ({"backbone.checkpoint": "random"}, "ddpm_lsun_horse"),
        ({"backbone.name": "pixels"}, "pixels"),
    ],
)
def test_the_method_of_a_run(settings: Mapping[str, Any], method: str) -> None:
    assert PUBLISHED.method_of({**some_run().settings, **settings}) == method


@pytest.mark.parametrize(
    ("name", "checkpoint", "method"),
    [
        ("dataset_ddpm", None, "DatasetDDPM"),
        ("dataset_gan_50k", "resnet101.pth", "DatasetGAN"),
        ("dataset_ddpm", "random", "dataset_ddpm"),
        ("ddpm_lsun_horse", None, "ddpm_lsun_horse"),
    ],
)
def test_the_method_of_a_network_trained_on_synthetic_images(
    name: str, checkpoint: str | None, method: str
) -> None:
    settings = {"segmenter.name": name, "segmenter.checkpoint": checkpoint}
    assert PUBLISHED.method_of({"dataset.name": "cat_15", **settings}) == method


def test_networks_trained_on_the_images_of_each_dataset_share_a_row() -> None:
    runs = []
    for index, dataset in enumerate(("cat_15", "horse_21")):
        settings = {
            "dataset.name": dataset,
            "segmenter.name": "dataset_ddpm",
            "segmenter.checkpoint": None,
            "segmenter.images": f"data/{dataset}/samples",
            "seed": 0,
            "method": "DatasetDDPM",
        }
        runs.append(Run(f"runs/{dataset}", settings, {"miou": 0.4 + index / 10}))
    found = rows_of(paper_table(run_table(runs), "miou", PUBLISHED))
    ours = found["DatasetDDPM", "ours (2 runs)"]
    assert [cell for cell in ours if cell] == [f"{score} ± {DASH} (1)" for score in (40.0, 50.0)]


def rows_of(table: Table) -> dict[tuple[str, ...], list[str]]:
    return {row.labels: [str(cell or "") for cell in row.cells] for row in table.rows}


def test_methods_by_datasets() -> None:
    horse = [some_run(0.6 + 0.02 * seed, seed=seed) for seed in (0, 1)]
    cat = {
        "dataset__name": "cat_15",
        "backbone__name": "ddpm_lsun_cat",
        "backbone__checkpoint": "c",
    }
    own = {"dataset__name": "ponies", "backbone__name": "pixels"}
    table = paper_table(
        run_table([*horse, some_run(0.5, **cat), some_run(0.1, **own)]), "miou", PUBLISHED
    )
    assert table.columns[:4] == ("Bedroom-28", "FFHQ-34", "Cat-15", "Horse-21")
    assert table.columns[6:] == ("ponies",)
    rows = rows_of(table)
    labels = list(rows)
    assert labels.index(("DDPM", "published")) + 8 == labels.index(("DDPM", "ours (3 runs)"))
    # Datasets have folders and backbones of their own: no difference to name.
    ours = rows["DDPM", "ours (3 runs)"]
    assert ours == ["", "", "50.0 ± – (1)", "61.0 ± 1.4 (2)", "", "", ""]  # noqa: RUF001
    assert rows["ALAE", "published"][2:5] == ["", "", "49.7 ± 0.7"]
    assert labels[-1] == ("pixels", "ours (1 run)")
    assert sum(label[1].startswith("ours") for label in labels) == 2


def test_another_metric_stands_without_published_numbers() -> None:
    table = paper_table(run_table([some_run(0.5)]), "pixel_accuracy", PUBLISHED)
    assert list(rows_of(table)) == [("DDPM", "ours (1 run)")]
    assert rows_of(table)["DDPM", "ours (1 run)"][3].startswith("12.5")


def test_runs_that_differ_are_not_averaged() -> None:
    runs = [
        some_run(0.60),
        some_run(0.62, seed=1),
        some_run(0.70, seed=1, dataset__split_seed=4),
        some_run(0.50, seed=1, head__members=2),
        some_run(0.10, dataset__root="elsewhere"),
    ]
    rows = rows_of(paper_table(run_table(runs), "miou", PUBLISHED))
    ours = {labels[1]: cells[3] for labels, cells in rows.items() if labels[1].startswith("ours")}
    same = "dataset.root=data/horse_21 head.members"
    assert ours == {
        f"ours (1 run): {same}=2": "50.0 ± – (1)",  # noqa: RUF001
        f"ours (3 runs): {same}=10": "64.0 ± 5.3 (3)",
        "ours (1 run): dataset.root=elsewhere head.members=10": "10.0 ± – (1)",  # noqa: RUF001
    }


SETTINGS = st.fixed_dictionaries(
    {
        "dataset.name": st.sampled_from(["a", "b"]),
        "dataset.size": st.integers(0, 1),
        "backbone.name": st.sampled_from(["x", "y"]),
        "backbone.precision": st.sampled_from(["16", "32"]),
        "head.members": st.integers(1, 2),
        "head.checkpoint": st.sampled_from([None, "d"]),
        "seed": st.integers(0, 3),
        "dataset.split_seed": st.integers(0, 1),
    }
)


@given(
    st.lists(SETTINGS, min_size=1, max_size=12),
    st.sets(st.sampled_from(["dataset.name", "method"])),
)
def test_a_mean_is_of_runs_that_differ_in_nothing_but_seeds(
    chosen: list[dict[str, Any]], apart: set[str]
) -> None:
    runs = [
        Run(str(i), {**s, "method": s["backbone.name"]}, dict.fromkeys(METRICS, 0.5))
        for i, s in enumerate(chosen)
    ]
    repeats = {"seed", "dataset.split_seed"}
    groups = {
        variant: [runs[int(str(folder))] for folder in group.index]
        for variant, group in variants(run_table(runs), apart).items()
    }
    found = [run.folder for group in groups.values() for run in group]
    assert sorted(found) == sorted(run.folder for run in runs)
    for variant, group in groups.items():
        assert not {key for key, _ in variant} & (repeats | apart)
        cells: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
        for run in group:
            assert all(run.text(key) == text for key, text in variant)
            cell = tuple(run.text(key) for key in sorted(apart))
            rest = tuple(run.text(k) for k in sorted(run.settings) if k not in repeats)
            cells.setdefault(cell, set()).add(rest)
        assert all(len(rest) == 1 for rest in cells.values())


def test_values_are_sorted_as_what_they_are() -> None:
    values = [10, 9, 0.5, None, [5, 10], [5, 9], [50], "b", "a"]
    runs = [some_run(head__x=value) for value in values]
    expected = ["null", "0.5", "9", "10", "[5,9]", "[5,10]", "[50]", "a", "b"]
    assert values_of(run_table(runs), "head.x") == expected


def test_rows_and_columns_of_a_cross_table() -> None:
    runs = [
        some_run(0.1 * members + 0.01 * seed, head__members=members, head__vote=vote, seed=seed)
        for members, vote, seed in product((2, 1), ("soft", "hard"), (0, 1))
    ]
    table = cross_table(run_table(runs[:-2]), "miou", "head.members", "head.vote")
    assert table.stub == ("head.members",)
    assert table.columns == ("head.vote=hard", "head.vote=soft")
    assert rows_of(table) == {
        ("1",): ["", "10.5 ± 0.7 (2)"],
        ("2",): ["20.5 ± 0.7 (2)", "20.5 ± 0.7 (2)"],
    }
    split = cross_table(run_table(runs), "miou", "head.members", "dataset.name")
    assert split.stub == ("settings", "head.members")
    assert split.columns == ("horse_21",)
    assert [row.labels for row in split.rows] == [
        ("head.vote=hard", "1"), ("head.vote=hard", "2"),
        ("head.vote=soft", "1"), ("head.vote=soft", "2"),
    ]  # fmt: skip
    together = cross_table(run_table(runs), "miou", "head.members", "dataset.name", ["head.vote"])
    assert rows_of(together)["1",] == ["10.5 ± 0.6 (4)"]


TABLE = Table(
    ("method", "result"),
    ("a_b", "c|d"),
    (
        Row(("m", "published"), (Summary.quoted("49.4 ± 1.9"), None)),
        Row(("m", "ours"), (None, Summary.of([0.5, 0.52]))),
    ),
)


def test_markdown() -> None:
    assert as_markdown(TABLE).splitlines() == [
        "| method | result | a_b | c\\|d |",
        "| --- | --- | ---: | ---: |",
        "| m | published | 49.4 ± 1.9 | – |",  # noqa: RUF001
        "|  | ours | – | 51.0 ± 1.4 (2) |",  # noqa: RUF001
    ]


def test_latex() -> None:
    lines = as_latex(TABLE).splitlines()
    assert lines[0] == "\\begin{tabular}{llrr}"
    assert lines[2] == "method & result & a\\_b & c|d \\\\"
    assert lines[4:6] == [
        "m & published & 49.4 $\\pm$ 1.9 & -- \\\\",
        " & ours & -- & 51.0 $\\pm$ 1.4 (2) \\\\",
    ]
    assert lines[-1] == "\\end{tabular}"


def test_csv_holds_numbers() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(TABLE))))
    assert [list(row.values()) for row in rows] == [
        ["m", "published", "a_b", "49.4000", "1.9000", ""],
        ["m", "ours", "c|d", "51.0000", "1.4142", "2"],
    ]


def ablation_table(values: list[Any], runs: int) -> Table:
    chosen = [
        some_run(0.5 + 0.01 * seed, head__members=value, seed=seed, dataset__name=name)
        for value, seed, name in product(values, range(runs), ("horse_21", "cat_15"))
    ]
    return cross_table(run_table(chosen), "miou", "head.members", "dataset.name")


@pytest.mark.parametrize(
    ("values", "places"), [([1, 2, 10], [1, 2, 10]), (["a", "b"], [0, 1]), ([3], [3])]
)
def test_figure_has_a_line_per_column(values: list[Any], places: list[float]) -> None:
    figure = ablation(ablation_table(values, 3), "miou")
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [str(v) for v in values]
    curves = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    assert [line.get_label() for line in curves] == ["cat_15", "horse_21"]
    left, right = axes.get_xlim()
    for line in curves:
        assert list(line.get_xdata()) == pytest.approx(places, abs=0.03 * (right - left))  # pyright: ignore
        assert list(line.get_ydata()) == pytest.approx([51.0] * len(values))  # pyright: ignore
    bars = [bar for container in axes.containers for bar in container[2]]  # pyright: ignore
    segment = bars[0].get_segments()[0]
    assert segment[:, 1].tolist() == pytest.approx([50, 52])
    assert axes.get_ylabel() == "mIoU (%)"
    assert "over 3 runs" in " ".join(text.get_text() for text in figure.texts)


def test_figure_of_single_runs() -> None:
    texts = ablation(ablation_table([1, 2], 1), "miou").texts
    assert "one run each" in [text.get_text() for text in texts]


def test_lines_whose_names_are_cut_stay_two() -> None:
    name = "n" * 90
    row = Row(("1",), (Summary.of([0.5]), Summary.of([0.6])))
    figure = ablation(Table(("k",), (f"{name}1", f"{name}2"), (row,)), "pixel_accuracy")
    named = [line for line in figure.axes[0].lines if str(line.get_label()).startswith("n")]
    assert [line.get_ydata()[0] for line in named] == [50, 60]  # pyright: ignore


@pytest.fixture
def runs(members_by_seeds: Path) -> Path:
    return members_by_seeds


def scores(folder: Path) -> dict[str, float]:
    with (folder / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    return {name: float(row[name]) for name in METRICS}


@pytest.mark.parametrize("metric", METRICS)
def test_table_of_real_runs(metric: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", str(runs), "--by", "head.members", "--metric", metric]) == 0
    captured = capsys.readouterr()
    header, _, *rows = captured.out.splitlines()
    assert header == "| head.members | ponies |"
    for members, row in zip((1, 2), rows, strict=True):
        values = [scores(runs / f"members{members}" / f"seed{seed}")[metric] for seed in (0, 1)]
        assert row == f"| {members} | {Summary.of(values)} |"
    assert captured.err == ""


def test_table_of_chosen_runs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by = ["table", str(runs), "--by", "members", "--format", "text"]
    assert main([*by, "--where", "seed=0", "--vary", "members"]) == 0
    captured = capsys.readouterr()
    header, _, *rows = captured.out.splitlines()
    assert header.split() == ["head.members", "ponies"]
    for members, row in zip((1, 2), rows, strict=True):
        value = scores(runs / f"members{members}" / "seed0")["miou"]
        assert row.split(maxsplit=1) == [str(members), str(Summary.of([value]))]
    assert main([*by, "--where", "seed=0", "--vary", "vote"]) == 2
    assert "no two of 2 runs differ in head.vote alone" in capsys.readouterr().err


def test_paper_table_of_real_runs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Named twice, a run counts once.
    assert main(["table", str(runs), str(runs / "members1" / "seed0")]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert "| DDPM | published | 49.4 ± 1.9 | 59.1 ± 1.4 |" in captured.out
    assert lines[-2].startswith("| random | ours (2 runs): head.members=1 |")
    assert lines[-1].startswith("|  | ours (2 runs): head.members=2 |")
    assert captured.err == ""


def test_what_is_left_out_is_told(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(runs / "members1", tmp_path / "some"))
    for name in ("unfinished", "short", "words", "nan", "no_config", "repeat"):
        shutil.copytree(runs / "members1" / "seed0", folder / name)
    (folder / "unfinished" / "results.csv").unlink()
    (folder / "short" / "results.csv").write_text("dataset,miou\n")
    for name, number in (("words", "many"), ("nan", "nan")):
        (folder / name / "results.csv").write_text(
            f"miou,miou_present,pixel_accuracy\n0.5,0.5,{number}\n"
        )
    (folder / "no_config" / "config.yaml").unlink()
    (folder / "sweep").mkdir()
    (folder / "sweep" / "config.yaml").write_text("sweep: {blocks: [1]}\n")
    claim_run(checked(composed(folder / "pretrained", *PRETRAIN)), Identity({}))
    (folder / "empty").mkdir()
    # Nothing below a run is one: W&B keeps such a file there.
    (folder / "seed1" / "wandb").mkdir()
    (folder / "seed1" / "wandb" / "config.yaml").write_text("wandb_version: 1\n")
    assert main(["table", str(folder), "--by", "seed"]) == 0
    captured = capsys.readouterr()
    assert [line[:5] for line in captured.out.splitlines()[2:]] == ["| 0 |", "| 1 |"]
    told = captured.err.splitlines()
    says = {
        "unfinished": "unfinished: there is no results.csv",
        "short": "is damaged: it lacks a row with a number for miou",
        "words": "is damaged: it lacks a row with a number for miou, miou_present, pixel_accuracy",
        "nan": "it has no scores yet",
        "no_config": "there is no '",
        "sweep": "is not the configuration of a ddpmseg run",
        "pretrained": "a run of task=pretrain",
        # The first in the order of names is counted.
        "seed0": f"repeats the run in '{folder / 'repeat'}'",
    }
    assert len(told) == len(says)
    for name, reason in says.items():
        (line,) = [line for line in told if line.startswith(f"left out: '{folder / name}': ")]
        assert reason in line


def test_files_are_written_whole(runs: Path, tmp_path: Path) -> None:
    by = ["table", str(runs), "--by", "head.members"]
    for style, start in (("csv", "head.members,column"), ("latex", "\\begin"), ("md", "| head.")):
        output = tmp_path / "new" / f"table.{style}"
        figure = tmp_path / "new" / "figure.png"
        given = ["--format", style, "--output", str(output), "--figure", str(figure)]
        assert main([*by, *given]) == 0
        assert output.read_text().startswith(start)
    with Image.open(tmp_path / "new" / "figure.png") as picture:
        assert picture.width > 500
    assert main([*by, "--figure", str(tmp_path / "figure.svg")]) == 0
    assert (tmp_path / "figure.svg").read_text().startswith("<?xml")
    assert len(contents(tmp_path)) == 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--by", "a", "--by", "b", "--by", "c"], "two different settings at most; got a, b, c"),
        (["--by", "a", "--line", "a"], "two different settings at most"),
        (["--line", "seed", "--figure", "x.pdf"], "must end in .png or .svg"),
        (["--figure", "x.png"], "name it with --by"),
        (["--by", "head.memberz"], "Did you mean head.members"),
        (["--by", "vite"], "Did you mean head.vote"),
        (["--by", "name"], "may mean backbone.name or dataset.name"),
        (["--by", "seed", "--by", "seed"], "two different settings at most"),
        (["--by", "vote", "--line", "head.vote"], "two different settings at most"),
        (["--over", "paths.output_dir"], "no run has the setting 'paths.output_dir'"),
    ],
)
def test_mistaken_arguments(
    arguments: list[str], says: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table", str(runs), *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--output", "--figure"])
def test_a_file_that_cannot_be_written(
    option: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("precious")
    place = tmp_path / "taken" / "table.png"
    assert main(["table", str(runs), "--by", "head.members", option, str(place)]) == 2
    assert f"'{place}' cannot be written to (" in capsys.readouterr().err


def test_folders_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", str(tmp_path)]) == 2
    assert "there is no finished run of ddpmseg train in" in capsys.readouterr().err
    assert main(["table", str(tmp_path / "none")]) == 2
    assert "none' is no folder" in capsys.readouterr().err
