"""Means as dots in rows, one deviation as a bar, single runs behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from ddpmseg.compare.ablation import TITLES, describe_runs
from ddpmseg.compare.ranking import Ranking
from ddpmseg.records.runs import Summary
from ddpmseg.report.canvas import (
    DARK,
    GREY,
    HEAD,
    MARGIN,
    SMALL,
    axes_at,
    fitted,
    headline,
    hexadecimal,
    house_style,
    paper,
    widest,
)
from ddpmseg.report.charts import BELOW, MARKERS, legend_room, put_legend
from ddpmseg.report.colours import cluster_colours
from ddpmseg.tables.table import Table

_ROW, _WIDTH, _LABEL, _LEGEND = 0.2, 4.2, 3.2, 2.6
"""Inches: height of a row, width of the axes, of a label and of a line of the legend at most."""


@dataclass(frozen=True, eq=False)
class DotRow:
    """A row: the mean of each series by name, single scores in percent, a heading above or none."""

    label: str
    means: Mapping[str, Summary]
    singles: Sequence[float] = ()
    heading: str = ""


@dataclass(frozen=True, eq=False)
class DotPlot:
    title: str
    note: str
    axis: str
    rows: Sequence[DotRow]
    series: Sequence[str] = ("",)
    """Named in a legend where there are several."""


def of_ranking(ranking: Ranking, names: Mapping[str, str]) -> DotPlot:
    """A row for every setting, under the values of its group."""
    rows, above = [], ""
    scores = ranking.runs.groupby("setting")[ranking.metric].agg(list)
    for setting in ranking.labels:
        group = ", ".join(ranking.describe(setting, [key], names) for key in ranking.group_by)
        label = ranking.describe(setting, ranking.keys, names) or "all settings"
        found = scores[setting]
        singles = [100 * score for score in found] if len(found) > 1 else []
        heading = group if group != above else ""
        rows.append(DotRow(label, {"": Summary.of(found)}, singles, heading))
        above = group
    axis = TITLES[ranking.metric]
    most = max(len(scores[setting]) for setting in ranking.labels)
    note = "one run each" if most == 1 else "mean ± standard deviation over runs, and single runs"
    keys = " and ".join(names.get(key, key) for key in (*ranking.group_by, *ranking.keys))
    title = axis.removesuffix(" (%)") + (f" by {keys}" if keys else "")
    return DotPlot(title, note, axis, rows)


def of_classes(table: Table, metric: str) -> DotPlot:
    """A row for every class of `class_table`, a series for every setting; its last row below."""
    titles = table.columns[1:-1]
    rows = []
    for row in table.rows:
        cells = zip(titles, row.cells[1:-1], strict=True)
        means = {title: cell for title, cell in cells if cell is not None}
        rows.append(DotRow(row.labels[0], means))
    title = f"IoU of every class, and {TITLES[metric].removesuffix(' (%)')}"
    note = describe_runs([cell for row in rows for cell in row.means.values()])
    order = f"by the difference of {titles[0]} to {titles[-1]}" if len(titles) > 1 else ""
    return DotPlot(title, f"{note}; {order}".rstrip("; "), "IoU (%)", rows, titles)


@house_style()
def dots(plot: DotPlot) -> Figure:
    """Rows from the top down; series are a little apart, so that no bar hides another."""
    labels = [fitted(row.label, SMALL, _LABEL) for row in plot.rows]
    headings = [fitted(row.heading, SMALL, _LABEL) for row in plot.rows]
    left = MARGIN + widest([*labels, *headings], SMALL) + 0.15
    several = len(plot.series) > 1
    names = {name: fitted(name, SMALL, _LEGEND) for name in plot.series}
    row_height = _ROW + 0.06 * (len(plot.series) - 1)
    height = row_height * (len(labels) + sum(map(bool, headings)) + 0.5)
    room = legend_room(list(names.values())) + 0.15 if several else 0.0
    figure = paper(left + _WIDTH + 0.15 + room + MARGIN, HEAD + height + BELOW)
    headline(figure, MARGIN, plot.title, plot.note)
    axes = axes_at(figure, left, HEAD, _WIDTH, height)
    places, titles = _places(headings)
    ticks = [*titles, *zip(places, labels, strict=True)]
    colours = [hexadecimal(colour) for colour in cluster_colours(len(plot.series))]
    for index, name in enumerate(plot.series):
        aside = (index - (len(plot.series) - 1) / 2) * 0.06 / row_height
        rows = zip(places, plot.rows, strict=True)
        points = [(place + aside, row.means[name]) for place, row in rows if name in row.means]
        y = [at for at, _ in points]
        x = [summary.mean for _, summary in points]
        spreads = [summary.deviation or 0 for _, summary in points]
        look = {"color": colours[index], "marker": MARKERS[index % len(MARKERS)], "markersize": 4}
        axes.plot(x, y, linestyle="none", label=names[name], zorder=3, **look)
        axes.errorbar(x, y, xerr=spreads, fmt="none", ecolor=colours[index], elinewidth=1)
    for place, row in zip(places, plot.rows, strict=True):
        axes.plot(
            row.singles, [place] * len(row.singles), "o", markersize=3.2, markerfacecolor="none",
            markeredgecolor=GREY, markeredgewidth=0.6, zorder=4,
        )  # fmt: skip
    axes.set(xlabel=plot.axis, ylim=(max(places) + 0.75, -0.75))
    axes.set_yticks([at for at, _ in ticks], [text for _, text in ticks])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    for tick in axes.get_yticklabels()[: len(titles)]:
        tick.set(color=DARK, weight="bold")
    if several:
        put_legend(figure, axes, left + _WIDTH + 0.15, HEAD)
    return figure


def _places(headings: Sequence[str]) -> tuple[list[float], list[tuple[float, str]]]:
    """Where each row lies, and what to write where a heading does; one takes a row of its own."""
    places, ticks, at = [], [], 0.0
    for heading in headings:
        if heading:
            ticks.append((at, heading))
            at += 1
        places.append(at)
        at += 1
    return places, ticks
