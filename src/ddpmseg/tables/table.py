"""Tables of means over runs: beside the published numbers, and by the values of settings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ddpmseg.records.published import Published
from ddpmseg.records.runs import DATASET, METHOD, Run, Summary, Variant, in_order, variants

Cells = tuple[Summary | None, ...]


@dataclass(frozen=True)
class Row:
    """labels: one for each of the table's `stub`. cells: one for each of its `columns`."""

    labels: tuple[str, ...]
    cells: Cells


@dataclass(frozen=True)
class Table:
    """stub: what the labels of a row are. columns: what the cells of a row are."""

    stub: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def paper_table(
    runs: Sequence[Run], metric: str, published: Published, over: Sequence[str] = ()
) -> Table:
    """Our runs in the paper's main table: methods down, datasets across.

    A method has a row of published numbers, one for each who reproduced them, and one of ours for
    every set of settings under which there are runs. Quoted numbers are `miou`; with another metric
    only ours are there. Methods and datasets that are not the paper's come last, sorted by name.
    """
    own = {run.text(DATASET) for run in runs} - set(published.datasets)
    datasets = [*published.datasets, *sorted(own)]
    named = {method.name: method for method in published.methods}
    groups = variants(runs, (METHOD, DATASET, *over))
    rows = []
    for name in [*named, *sorted({run.text(METHOD) for run in runs} - set(named))]:
        if name in named and metric == "miou":
            quoted = [("published", named[name].published), *named[name].reproduced]
            rows += [
                Row((name, source), tuple(numbers.get(dataset) for dataset in datasets))
                for source, numbers in quoted
            ]
        for variant, group in groups.items():
            ours = [run for run in group if run.text(METHOD) == name]
            if ours:
                count = f"ours ({len(ours)} run{'s' * (len(ours) > 1)})"
                label = ": ".join([count, describe(variant)] if variant else [count])
                rows.append(Row((name, label), summaries(ours, DATASET, datasets, metric)))
    titles = tuple(published.datasets.get(dataset, dataset) for dataset in datasets)
    return Table((METHOD, "result"), titles, tuple(rows))


def cross_table(
    runs: Sequence[Run], metric: str, rows: str, columns: str, over: Sequence[str] = ()
) -> Table:
    """Means by the values of two settings: those of `rows` down, those of `columns` across.

    Runs that differ in anything else, but for seeds and what is averaged `over`, are kept apart: a
    further column then names what tells them from each other.
    """
    groups = variants(runs, (rows, columns, *over))
    across = in_order(runs, columns)
    found = []
    for variant, group in groups.items():
        for value in in_order(group, rows):
            some = [run for run in group if run.text(rows) == value]
            labels = (describe(variant), value) if len(groups) > 1 else (value,)
            found.append(Row(labels, summaries(some, columns, across, metric)))
    stub = ("settings", rows) if len(groups) > 1 else (rows,)
    titles = across if columns == DATASET else [f"{columns}={value}" for value in across]
    return Table(stub, tuple(titles), tuple(found))


def summaries(runs: Iterable[Run], key: str, values: Iterable[str], metric: str) -> Cells:
    """Mean and spread for each value of a setting; None for one that no run has."""
    scores: dict[str, list[float]] = {}
    for run in runs:
        scores.setdefault(run.text(key), []).append(run.scores[metric])
    return tuple(Summary.of(scores[value]) if value in scores else None for value in values)


def describe(variant: Variant, names: Mapping[str, str] | None = None) -> str:
    """Settings as overrides, with each key as `names` has it."""
    return " ".join(f"{(names or {}).get(key, key)}={text}" for key, text in variant)
