"""`ddpmseg compare`: real runs at tiny size, and what may be wrong with them."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_run import contents

from ddpmseg.__main__ import main
from ddpmseg.records.cell_grid import METRICS
from ddpmseg.records.runs import DASH, Summary


@pytest.fixture
def runs(members_by_seeds: Path) -> Path:
    return members_by_seeds


Captured = pytest.CaptureFixture[str]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def score(runs: Path, members: int, seed: int, metric: str = "miou") -> float:
    (row,) = rows_of(runs / f"members{members}" / f"seed{seed}" / "results.csv")
    return float(row[metric])


def printed(capsys: Captured, *arguments: Any) -> str:
    assert main(["compare", *map(str, arguments)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("metric", METRICS)
def test_settings_are_ranked(metric: str, runs: Path, capsys: Captured) -> None:
    out = printed(capsys, runs, "--metric", metric, "--format", "md")
    header, _, *rows = out.splitlines()
    columns = list(dict.fromkeys([metric, "difference", "miou", "miou_present"]))
    assert cells(header) == ["rank", "head.members", *columns]
    scores = {m: [score(runs, m, seed, metric) for seed in (0, 1)] for m in (1, 2)}
    best, other = sorted(scores, key=lambda m: -sum(scores[m]))
    differences = [a - b for a, b in zip(scores[other], scores[best], strict=True)]
    expected = Summary.of(differences)
    assert cells(rows[0])[:4] == ["1", str(best), str(Summary.of(scores[best])), DASH]
    assert cells(rows[1])[:3] == ["2", str(other), str(Summary.of(scores[other]))]
    assert cells(rows[1])[3] in (f"{expected}", f"+{expected}")


def test_text_of_a_terminal(runs: Path, capsys: Captured) -> None:
    out = printed(capsys, runs, "--sort", "members")
    table, legend = out.split("\n\n")
    header, _, *rows = table.splitlines()
    assert header.split() == ["rank", "members", "miou", "difference", "miou_present"]
    assert [row.split()[1] for row in rows] == ["1", "2"]
    assert len({len(row) for row in rows}) == 1
    assert legend.splitlines() == [
        "miou in percent, mean ± standard deviation (runs).",
        "difference: to the best, of runs with the same seeds.",
    ]


def test_groups_and_the_best_of_each(runs: Path, capsys: Captured) -> None:
    out = printed(capsys, runs, "--group-by", "seed", "--format", "csv", "--best")
    rows = [row for row in csv.DictReader(io.StringIO(out)) if row["column"] == "miou"]
    for seed, row in zip((0, 1), rows, strict=True):
        best = max((1, 2), key=lambda members: score(runs, members, seed))
        assert (row["seed"], row["rank"], row["head.members"]) == (str(seed), "1", str(best))
        assert float(row["mean"]) == pytest.approx(100 * score(runs, best, seed), abs=1e-4)


def test_single_runs_have_folders(runs: Path, capsys: Captured) -> None:
    out = printed(capsys, runs, "--per-run", "--where", "members=2", "--format", "csv")
    rows = [row for row in csv.DictReader(io.StringIO(out)) if row["column"] == "miou"]
    assert {row["run"] for row in rows} == {str(runs / "members2" / f"seed{s}") for s in (0, 1)}
    for row in rows:
        assert float(row["mean"]) == pytest.approx(100 * score(runs, 2, int(row["seed"])), abs=1e-4)
        assert row["runs"] == ""
    # On a terminal without what they have in common.
    lines = printed(capsys, runs, "--per-run").splitlines()[2:6]
    shown = {line.split()[3] for line in lines}
    assert shown == {f"members{m}/seed{s}" for m in (1, 2) for s in (0, 1)}


@pytest.mark.parametrize(("metric", "column"), [("miou", "iou"), ("miou_present", "iou_present")])
def test_classes_of_real_runs(metric: str, column: str, runs: Path, capsys: Captured) -> None:
    arguments = ["--per-class", "--against", "members=1", "--metric", metric, "--format", "csv"]
    found = list(csv.DictReader(io.StringIO(printed(capsys, runs, *arguments))))
    tables = {
        (m, s): rows_of(runs / f"members{m}" / f"seed{s}" / "per_class.csv")
        for m in (1, 2) for s in (0, 1)
    }  # fmt: skip
    differences = {}
    for label, row in enumerate(tables[1, 0]):
        if not row[column]:
            continue
        by = {key: float(table[label][column]) for key, table in tables.items()}
        differences[row["class"]] = 50 * (by[2, 0] - by[1, 0] + by[2, 1] - by[1, 1])
    shown = {row["class"]: row for row in found if row["column"] == "difference"}
    assert list(shown)[-1] == metric
    del shown[metric]
    assert set(shown) == set(differences)
    values = [float(row["mean"]) for row in shown.values()]
    assert values == sorted(values, reverse=True)
    for name, row in shown.items():
        assert float(row["mean"]) == pytest.approx(differences[name], abs=1e-3)
    pixels = [int(row["true_pixels"]) for row in tables[1, 0]]
    areas = [float(row["mean"]) for row in found if row["column"] == "area"]
    assert sum(areas) == pytest.approx(100, abs=0.01)
    assert max(areas) == pytest.approx(100 * max(pixels) / sum(pixels), abs=1e-3)


def robustness(runs: Path, kind: str) -> list[dict[str, str]]:
    """Two types at severity 1 for all runs, and a third one for a single run."""
    rows = []
    for m, s in ((1, 0), (1, 1), (2, 0), (2, 1)):
        kinds = {"fog": 0.10, "snow": 0.20 + 0.02 * s} | ({"frost": 0.9} if s + m == 1 else {})
        rows += [
            {"run": str(runs / f"members{m}" / f"seed{s}"), kind: name, "severity": "1",
             "miou": str(value * m), "miou_present": "0.3", "drop": "0.1"}
            for name, value in kinds.items()
        ]  # fmt: skip
    return rows


@pytest.mark.parametrize("kind", ["type", "corruption"])
def test_scores_on_corrupted_images_are_columns(
    kind: str, runs: Path, tmp_path: Path, capsys: Captured
) -> None:
    rows = robustness(runs, kind)
    (tmp_path / "robustness").mkdir()
    with (tmp_path / "robustness" / "robustness.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    out = printed(capsys, runs, tmp_path, "--sort", "members")
    table, legend = out.split("\n\n")
    assert "severity: mean over 2 types of corruption." in legend.splitlines()
    shown = [line.split("  ")[-1].strip() for line in table.splitlines()[-2:]]
    # (0.10 + 0.20) / 2 and (0.10 + 0.22) / 2; two members score twice as much.
    assert shown == [str(Summary.of([0.15, 0.16])), str(Summary.of([0.30, 0.32]))]
    assert "weak" in table
    # The file holds no pixel accuracy.
    assert "severity" not in printed(capsys, runs, tmp_path, "--metric", "pixel_accuracy")


def test_scores_on_corrupted_images_inside_a_run(
    runs: Path, tmp_path: Path, capsys: Captured
) -> None:
    folder = Path(shutil.copytree(runs / "members1", tmp_path / "some"))
    text = "run,type,severity,miou,miou_present,drop\n.,fog,5,0.25,0.5,0.1\n"
    (folder / "seed0" / "robustness.csv").write_text(text)
    out = printed(capsys, folder, "--per-run", "--format", "csv")
    (row,) = [r for r in csv.DictReader(io.StringIO(out)) if r["column"] == "severity 5 strong"]
    assert (row["seed"], float(row["mean"])) == ("0", 25)


def test_files_are_written_whole(runs: Path, tmp_path: Path) -> None:
    for style, start in (("text", "rank  members"), ("latex", "\\begin"), ("md", "| rank")):
        output = tmp_path / "new" / f"table.{style}"
        given = ["--format", style, "--output", str(output)]
        assert main(["compare", str(runs), *given, "--figure", str(tmp_path / "new/a.png")]) == 0
        assert output.read_text().startswith(start)
    assert main(["compare", str(runs), "--per-class", "--figure", str(tmp_path / "b.svg")]) == 0
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.width > 500
    assert (tmp_path / "b.svg").read_text().startswith("<?xml")
    assert len(contents(tmp_path)) == 5


def change_setting(folder: Path, key: str, value: object) -> None:
    """As if the runs below had been made with another value, which their records name."""
    for path in folder.rglob("record.json"):
        record = json.loads(path.read_text())
        record["identity"]["settings"][key] = value
        path.write_text(json.dumps(record))


def test_runs_of_different_datasets_are_not_ranked_together(
    runs: Path, tmp_path: Path, capsys: Captured
) -> None:
    folder = Path(shutil.copytree(runs / "members1", tmp_path / "other"))
    change_setting(folder, "dataset.name", "zebras")
    header, _, *rows = printed(capsys, runs, folder, "--format", "md").splitlines()
    assert cells(header)[:3] == ["dataset.name", "rank", "head.members"]
    assert [cells(row)[:2] for row in rows] == [["ponies", "1"], ["", "2"], ["zebras", "1"]]
    assert main(["compare", str(runs), str(folder), "--per-class"]) == 2
    assert "ponies and zebras do not have the same classes" in capsys.readouterr().err
    assert main(["compare", str(runs), str(folder), "--over", "dataset.name"]) == 2
    assert "scores of different datasets" in capsys.readouterr().err


def test_other_test_images_are_told(runs: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = Path(shutil.copytree(runs / "members1", tmp_path / "fewer"))
    change_setting(folder, "dataset.num_test", 1)
    assert main(["compare", str(runs / "members1"), str(folder)]) == 0
    captured = capsys.readouterr()
    assert "note: runs differ in dataset.num_test: their test images are not" in captured.err
    assert len(captured.out.split("\n\n")[0].splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--where", "head.memberz=1"], "Did you mean head.members"),
        (["--where", "members"], "'members' names no value. Write key=value"),
        (["--where", "members=7"], "no run has head.members=7; there are 1, 2."),
        (["--group-by", "head.vite"], "Did you mean head.vote"),
        (["--sort", "name"], "may mean backbone.name or dataset.name"),
        (["--against", "members=7"], "no run has head.members=7"),
        (["--against", "seed=0"], "no setting has seed=0 (--against)"),
        (["--against", "vote=hard"], "fits 2 settings: head.members="),
        (["--vary", "head.vote"], "no two of 4 runs differ in head.vote alone"),
        (["--per-class", "--metric", "pixel_accuracy"], "pixel_accuracy is no mean over classes"),
        (["--per-class", "--best"], "--best does not apply"),
        (["--per-class", "--where", "members=1"], "there is one. Name further runs"),
        (["--per-run", "--over", "vote"], "leave out --over"),
        (["--figure", "x.pdf"], "must end in .png or .svg"),
    ],
)
def test_mistaken_arguments(arguments: list[str], says: str, runs: Path, capsys: Captured) -> None:
    assert main(["compare", str(runs), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err


def test_unfinished_and_damaged_runs(runs: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = Path(shutil.copytree(runs, tmp_path / "some"))
    (folder / "members1" / "seed0" / "results.csv").unlink()
    (folder / "members2" / "seed0" / "results.csv").write_text("miou\n0.5\n")
    assert main(["compare", str(folder), "--format", "md"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 4
    assert "seed0' is unfinished: there is no results.csv" in captured.err
    assert "seed0/results.csv' is damaged" in captured.err
    assert "(it lacks 'miou_present')" in captured.err
    # What only some views need is looked at only then.
    (folder / "members1" / "seed1" / "per_class.csv").write_text("class,iou\nbody,0.5\n")
    assert main(["compare", str(folder)]) == 0
    assert main(["compare", str(folder), "--per-class"]) == 2
    assert "per_class.csv' is damaged: it lacks" in capsys.readouterr().err
    (folder / "members1" / "seed1" / "per_class.csv").unlink()
    assert main(["compare", str(folder), "--per-class"]) == 2
    assert "per_class.csv' is not there" in capsys.readouterr().err
    for row in (".,fog,one,0.5", ".,fog,1", ".,fog,1,", ".,fog,,0.5"):
        (folder / "robustness.csv").write_text(f"run,type,severity,miou\n{row}\n")
        assert main(["compare", str(folder)]) == 2, row
        assert "robustness.csv' is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--output", "--figure"])
def test_a_file_that_cannot_be_written(
    option: str, runs: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "taken").write_text("precious")
    place = tmp_path / "taken" / "table.png"
    assert main(["compare", str(runs), option, str(place)]) == 2
    assert f"'{place}' cannot be written to (" in capsys.readouterr().err
    assert (tmp_path / "taken").read_text() == "precious"


def test_folders_without_a_run(tmp_path: Path, capsys: Captured) -> None:
    assert main(["compare", str(tmp_path)]) == 2
    assert "there is no finished run of ddpmseg train in" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "none")]) == 2
    assert "none' is no folder" in capsys.readouterr().err
