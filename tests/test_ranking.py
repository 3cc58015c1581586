"""Runs side by side: which are kept, ranks, paired differences, classes, text and figures."""

import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from made_runs import some_run

from ddpmseg.compare.dots import dots, of_classes, of_ranking
from ddpmseg.compare.per_class import class_table
from ddpmseg.compare.ranking import Ranking, rank, ranking_table
from ddpmseg.compare.settings import filtered, find_conditions, find_key, series, short_keys
from ddpmseg.errors import ConfigError, DataError, UserError
from ddpmseg.records.run_table import run_table
from ddpmseg.records.runs import Run, Summary
from ddpmseg.tables.table import Row, Table, as_latex
from ddpmseg.tables.terminal import as_text, shortened

SCORES = {(1, "hard"): 0.3, (1, "soft"): 0.31, (2, "hard"): 0.42, (2, "soft"): 0.4}


def table_of(*runs: Run) -> pd.DataFrame:
    return run_table(runs)


def votes(seeds: tuple[int, ...] = (0, 1)) -> pd.DataFrame:
    """Two numbers of members by two votes; the second seed is a point better, two by soft vote."""
    return table_of(*(
        some_run(
            score + seed * (0.02 if vote == "soft" else 0.01),
            head__members=members, head__vote=vote, seed=seed,
        )
        for (members, vote), score in SCORES.items()
        for seed in seeds
    ))  # fmt: skip


def texts(table: Table) -> list[list[str]]:
    return [[*row.labels, *(str(cell or "") for cell in row.cells)] for row in table.rows]


# ---- settings by name


WORDS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join)


@given(st.sets(WORDS, min_size=1))
def test_short_keys_are_read_as_the_keys_they_stand_for(keys: set[str]) -> None:
    runs = table_of(Run("folder", dict.fromkeys(keys, 0), {}))
    for key, short in short_keys(keys).items():
        assert find_key(short, runs) == key
        assert len(short) <= len(key)


def test_short_keys_are_short() -> None:
    keys = ["seed", "dataset.seed", "dataset.name", "backbone.name", "head.vote"]
    assert short_keys(keys) == {**{key: key for key in keys}, "head.vote": "vote"}


@given(st.lists(st.text("ab/", max_size=30), max_size=6), st.integers(6, 20))
def test_shortened_texts_stay_different(some: list[str], room: int) -> None:
    short = shortened(some, room)
    assert list(short) == list(dict.fromkeys(some))
    assert len(set(short.values())) == len(short)
    for text, shown in short.items():
        assert len(shown) <= max(room, len(text))
        if "…" in shown:
            start, end = shown.split("…")
            assert text.startswith(start)
            assert text.endswith(end)
        else:
            assert shown == text


def test_a_long_text_is_cut_in_its_middle() -> None:
    (shown,) = shortened(["a" * 50 + "b" * 50], 20).values()
    assert len(shown) == 20
    assert shown.startswith("aa")
    assert shown.endswith("b" * 13)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("head.member", r"Did you mean head.members"),
        ("vite", r"Did you mean head.vote"),
        ("name", r"'name' may mean backbone.name or dataset.name. Name one"),
        ("zzzzzz", r"no run has the setting 'zzzzzz' .* result. Settings are"),
    ],
)
def test_unknown_keys_are_told_with_those_close(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        find_key(name, votes())


def test_the_whole_key_is_meant_before_an_end() -> None:
    assert find_key("seed", table_of(Run("", {"seed": 1, "dataset.seed": 2}, {}))) == "seed"


def kept(*conditions: str) -> list[tuple[Any, ...]]:
    runs = votes((0,))
    some = filtered(runs, find_conditions(conditions, runs))
    return [(int(n), vote) for n, vote in zip(some["head.members"], some["head.vote"], strict=True)]


def test_conditions() -> None:
    assert kept() == list(SCORES)
    assert kept("vote=hard") == [(1, "hard"), (2, "hard")]
    assert kept("head.members=1", "vote=soft") == [(1, "soft")]
    assert kept("head.members=1", "vote!=soft") == [(1, "hard")]
    assert kept("members!=1.0") == [(2, "hard"), (2, "soft")]
    assert kept("members=1", "members=2.0", "vote=soft") == [(1, "soft"), (2, "soft")]
    assert len(kept("blocks=[5, 6,7,8,12]", "head.checkpoint=null")) == 4


def test_true_is_no_number() -> None:
    runs = table_of(some_run(head__flag=True))
    (condition,) = find_conditions(["flag=true"], runs)
    assert condition.all()
    with pytest.raises(DataError, match=r"no run has head.flag=1; there are true"):
        find_conditions(["flag=1"], runs)


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("vote", r"'vote' names no value. Write key=value"),
        ("=hard", r"names no value"),
        ("vote=loud", r"no run has head.vote=loud; there are hard, soft"),
        ("head.vite=hard", r"Did you mean head.vote"),
    ],
)
def test_conditions_that_cannot_be(condition: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        kept(condition)


def test_conditions_that_no_run_fulfils_together() -> None:
    runs = table_of(some_run(head__members=1, head__vote="hard"), some_run(head__members=2))
    with pytest.raises(DataError, match=r"of 2 runs none has head.members=2 and head.vote=hard"):
        filtered(runs, find_conditions(["members=2", "vote=hard"], runs))


def test_a_series_varies_in_nothing_else() -> None:
    line = [some_run(head__members=m, seed=seed) for m in (1, 2) for seed in (0, 1)]
    other = [some_run(head__members=1, features__blocks=[5]), some_run(features__blocks=[6])]
    found = series(table_of(*line, *other), ["head.members"])
    assert list(found.index) == [run.folder for run in line]
    lone = table_of(*other)
    with pytest.raises(DataError, match=r"no two of 2 runs differ in head.members alone"):
        series(lone, ["head.members"])
    assert len(series(lone, ["head.members"], ["features.blocks"])) == 2
    assert len(series(lone, ["head.members", "features.blocks"])) == 2


# ---- ranks and differences


def test_the_best_setting_comes_first_and_others_are_held_against_it() -> None:
    table = ranking_table(rank(votes(), "miou"), ["miou", "miou_present"])
    assert table.stub == ("rank", "head.members", "head.vote")
    assert table.columns == ("miou", "difference", "miou_present")
    assert texts(table) == [
        ["1", "2", "hard", "42.5 ± 0.7 (2)", "", "21.2 ± 0.4 (2)"],
        ["2", "2", "soft", "41.0 ± 1.4 (2)", "-1.5 ± 0.7 (2)", "20.5 ± 0.7 (2)"],
        ["3", "1", "soft", "32.0 ± 1.4 (2)", "-10.5 ± 0.7 (2)", "16.0 ± 0.7 (2)"],
        ["4", "1", "hard", "30.5 ± 0.7 (2)", "-12.0 ± 0.0 (2)", "15.2 ± 0.4 (2)"],
    ]


def test_groups_have_ranks_of_their_own() -> None:
    table = ranking_table(rank(votes(), "miou", ["head.members"]), [], names={"head.vote": "vote"})
    assert table.stub == ("head.members", "rank", "vote")
    assert [row[:3] for row in texts(table)] == [
        ["1", "1", "soft"], ["1", "2", "hard"], ["2", "1", "hard"], ["2", "2", "soft"],
    ]  # fmt: skip
    assert [row[4] for row in texts(table)] == ["", "-1.5 ± 0.7 (2)", "", "-1.5 ± 0.7 (2)"]


def test_differences_to_a_chosen_setting() -> None:
    runs = votes()
    ranking = rank(runs, "miou", ["head.members"], sort="head.vote")
    table = ranking_table(ranking, [], find_conditions(["vote=hard"], runs))
    assert [row[:3] + row[4:] for row in texts(table)] == [
        ["1", "2", "hard", ""], ["1", "1", "soft", "+1.5 ± 0.7 (2)"],
        ["2", "1", "hard", ""], ["2", "2", "soft", "-1.5 ± 0.7 (2)"],
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"head.vote=hard fits 2 settings: head.members=2 .*\|"):
        ranking_table(rank(runs, "miou"), [], find_conditions(["vote=hard"], runs))
    hard = runs["head.vote"] == "hard"
    lone = runs[~hard | (runs["seed"] == "1") & (runs["head.members"] == "1")]
    some = rank(lone, "miou", ["head.members"])
    cells = [row[4] for row in texts(ranking_table(some, [], find_conditions(["vote=hard"], lone)))]
    assert cells == ["+2.0 ± – (1)", "", ""]  # noqa: RUF001


def test_rows_by_the_values_of_a_setting() -> None:
    runs = table_of(*(some_run(0.5 - m / 100, head__members=m) for m in (10, 2, 1)))
    ranking = rank(runs, "miou", sort="head.members")
    assert [(*one.values(),) for one in ranking.labels.values()] == [
        ("1", "1"), ("2", "2"), ("3", "10"),
    ]  # fmt: skip


def test_single_runs_stand_without_a_count_and_are_held_against_any_seed() -> None:
    runs = votes().iloc[[0, 2, 5]]
    ranking = rank(runs, "miou", singly=True)
    shown = {str(folder): f"run{index}" for index, folder in enumerate(runs.index)}
    table = ranking_table(ranking, [], folders=shown)
    assert table.stub == ("rank", "head.members", "head.vote", "seed", "run")
    assert texts(table) == [
        ["1", "2", "hard", "1", "run2", "43.0", ""],
        ["2", "1", "soft", "0", "run1", "31.0", "-12.0"],
        ["3", "1", "hard", "0", "run0", "30.0", "-13.0"],
    ]
    # As settings they have no seed in common.
    apart = texts(ranking_table(rank(runs, "miou"), []))
    assert [row[-1] for row in apart] == ["", "", ""]


def test_further_scores_have_columns() -> None:
    runs = votes((0,))[:2]
    more = {"severity 1": pd.Series({runs.index[1]: 0.25})}
    table = ranking_table(rank(runs, "miou"), [], more=more)
    assert table.columns[-1] == "severity 1"
    assert [row[-1] for row in texts(table)] == ["25.0", ""]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), unique_by=lambda pair: pair[0]),
    st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), unique_by=lambda pair: pair[0]),
)
def test_paired_differences_equal_the_textbook(
    ours: list[tuple[int, float]], theirs: list[tuple[int, float]]
) -> None:
    assume(ours and theirs)
    runs = [some_run(score, seed=seed, head__members=1) for seed, score in ours]
    runs += [some_run(score, seed=seed, head__members=2) for seed, score in theirs]
    ranking = rank(run_table(runs), "miou")
    numbers = {texts["head.members"]: number for number, texts in ranking.labels.items()}
    references = {numbers["1"]: numbers["2"]}
    found = ranking.differences(ranking.runs["miou"], references).get(numbers["1"])
    shared = [100 * (a - b) for s, a in ours for t, b in theirs if s == t]
    if not shared:
        assert found is None
        return
    assert found is not None
    mean = sum(shared) / len(shared)
    counted = len(shared) if ranking.counted else None
    assert (found.runs, found.signed) == (counted, True)
    assert found.mean == pytest.approx(mean, abs=1e-9)
    if len(shared) > 1:
        variance = sum((value - mean) ** 2 for value in shared) / (len(shared) - 1)
        assert found.deviation == pytest.approx(math.sqrt(variance), abs=1e-6)


def test_pairs_share_what_is_averaged_over() -> None:
    runs = [
        some_run(0.1 * m + 0.01 * s, head__members=m, dataset__subset_seed=s)
        for m in (1, 2) for s in (0, 1)
    ]  # fmt: skip
    # Subset 1 of two members pairs with none: the difference is of subset 0 alone.
    runs[1] = some_run(0.4, head__members=1, dataset__subset_seed=5)
    ranking = rank(run_table(runs), "miou", over=["dataset.subset_seed"])
    assert [row[3] for row in texts(ranking_table(ranking, []))] == ["", "+10.0 ± – (1)"]  # noqa: RUF001


# ---- classes


def iou(miou: float) -> pd.DataFrame:
    """Hair gains by members, skin loses, the ignored class has none."""
    scores = {"iou": [math.nan, 0.9 - miou, miou, 0.5], "pixels": [10, 60, 25, 5]}
    return pd.DataFrame(scores, ["void", "skin", "hair", "hat"])


def class_rows(ranking: Ranking, *against: str) -> Table:
    runs = ranking.runs
    scores = {str(folder): iou(miou) for folder, miou in runs["miou"].items()}
    return class_table(ranking, scores, find_conditions(against, runs))


def test_classes_by_the_difference_of_two_settings() -> None:
    runs = votes()
    table = class_rows(rank(runs[runs["head.vote"] == "soft"], "miou"))
    assert table.columns == ("area", "head.members=2", "head.members=1", "difference")
    assert texts(table) == [
        ["hair", "25.00", "41.0 ± 1.4 (2)", "32.0 ± 1.4 (2)", "+9.0 ± 0.0 (2)"],
        ["hat", "5.00", "50.0 ± 0.0 (2)", "50.0 ± 0.0 (2)", "+0.0 ± 0.0 (2)"],
        ["skin", "60.00", "49.0 ± 1.4 (2)", "58.0 ± 1.4 (2)", "-9.0 ± 0.0 (2)"],
        ["miou", "", "41.0 ± 1.4 (2)", "32.0 ± 1.4 (2)", "+9.0 ± 0.0 (2)"],
    ]


def test_the_setting_that_others_are_held_against_is_the_last() -> None:
    ranking = rank(votes(), "miou")
    table = class_rows(ranking, "members=2", "vote=hard")
    assert table.columns[1:] == (
        "head.members=2 head.vote=soft", "head.members=1 head.vote=soft",
        "head.members=1 head.vote=hard", "head.members=2 head.vote=hard", "difference",
    )  # fmt: skip
    assert texts(table)[-1][-1] == "-1.5 ± 0.7 (2)"
    with pytest.raises(ConfigError, match=r"head.vote=hard fits 2 settings, one in each group"):
        class_rows(rank(votes(), "miou", ["head.members"]), "vote=hard")


def test_classes_without_a_shared_seed_are_sorted_by_their_means() -> None:
    runs = table_of(some_run(0.4, head__members=2), some_run(0.3, head__members=1, seed=1))
    table = class_rows(rank(runs, "miou"))
    assert [row[0] for row in texts(table)] == ["hair", "hat", "skin", "miou"]
    assert {row[-1] for row in texts(table)} == {""}


def test_classes_that_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="there is one"):
        class_rows(rank(table_of(some_run()), "miou"))
    others = table_of(some_run(), some_run(dataset__name="cat_15"))
    with pytest.raises(DataError, match=r"cat_15 and horse_21 .* --where dataset.name=cat_15"):
        class_rows(rank(others, "miou", ["dataset.name"]))


# ---- text


TABLE = Table(
    ("rank", "vote"),
    ("miou", "head.members=1 head.vote=soft"),
    (
        Row(("1", "hard"), (Summary.of([0.5, 0.52]), None)),
        Row(("2", "soft"), (Summary.of([0.1]), Summary(-1.25, 0.5, 3, signed=True))),
    ),
)


def test_text_is_aligned() -> None:
    assert as_text(TABLE).splitlines() == [
        "                            head.members=1",
        "rank  vote            miou  head.vote=soft",
        "----  ----  --------------  --------------",
        "1     hard  51.0 ± 1.4 (2)               –",  # noqa: RUF001
        "2     soft    10.0 ± – (1)  -1.2 ± 0.5 (3)",  # noqa: RUF001
    ]


@pytest.mark.parametrize(
    ("columns", "width", "starts"), [(3, 100, ["k"]), (9, 60, ["k"] * 3), (9, 27, ["k"] * 9)]
)
def test_a_wide_table_is_broken_into_parts(columns: int, width: int, starts: list[str]) -> None:
    cells = tuple(Summary.of([0.1, 0.2]) for _ in range(columns))
    table = Table(("k",), tuple(f"c{i}" for i in range(columns)), (Row(("v",), cells),))
    parts = as_text(table, width).split("\n\n")
    assert [part.split()[0] for part in parts] == starts
    shown = [word for part in parts for word in part.splitlines()[0].split()[1:]]
    assert shown == [f"c{i}" for i in range(columns)]
    assert max(len(line) for part in parts for line in part.splitlines()) <= width


def test_labels_that_leave_no_room_are_numbered() -> None:
    stub = tuple(f"key{i}" for i in range(9))
    rows = tuple(Row((f"{n}", *["value" * 4] * 8), (Summary.of([0.5]),)) for n in (1, 2))
    parts = as_text(Table(stub, ("miou",), rows)).split("\n\n")
    assert [part.split()[0] for part in parts] == ["#", "#", "#"]
    for part in parts:
        lines = part.splitlines()
        assert max(map(len, lines)) <= 100
        assert [line.split()[0] for line in lines[2:]] == ["1", "2"]


def test_a_minus_of_latex() -> None:
    assert "& $-$1.2 $\\pm$ 0.5 (3) \\\\" in as_latex(TABLE)


# ---- figures


def test_a_figure_of_ranks() -> None:
    ranking = rank(votes(), "miou", ["head.members"])
    figure = dots(of_ranking(ranking, {"head.members": "members"}))
    (axes,) = figure.axes
    labels = {text.get_text(): text.get_position()[1] for text in axes.get_yticklabels()}
    assert list(labels)[:2] == ["members=1", "members=2"]
    assert [label.get_text() for label in axes.get_yticklabels()][2:] == [
        "head.vote=soft", "head.vote=hard", "head.vote=hard", "head.vote=soft",
    ]  # fmt: skip
    means, *singles = axes.lines
    assert list(means.get_xdata()) == pytest.approx([32, 30.5, 42.5, 41])  # pyright: ignore
    assert list(means.get_ydata()) == [1, 2, 4, 5]  # pyright: ignore
    assert [sorted(line.get_xdata()) for line in singles[-4:]] == [  # pyright: ignore
        pytest.approx(two) for two in ([31, 33], [30, 31], [42, 43], [40, 42])
    ]
    low, high = axes.get_ylim()
    assert low > 5 > 0 > high  # from the top down


def test_a_figure_of_classes() -> None:
    table = class_rows(rank(votes(), "miou", sort="head.vote"))
    figure = dots(of_classes(table, "miou"))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["hair", "hat", "skin", "miou"]
    named = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    assert [line.get_label() for line in named] == list(table.columns[1:-1])
    assert [line.get_xdata()[0] for line in named] == pytest.approx([42.5, 41, 32, 30.5])  # pyright: ignore
    assert "over 2 runs;" in figure.texts[1].get_text()
    lone = class_rows(rank(votes((0,)), "miou"))
    assert dots(of_classes(lone, "miou")).texts[1].get_text().startswith("one run each;")
