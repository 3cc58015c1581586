"""Which settings are best: runs over seeds, ranked within groups, and paired differences."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ddpmseg.errors import ConfigError
from ddpmseg.records.keys import Condition
from ddpmseg.records.runs import REPEATS, Run, Summary, Variant, in_order, place, variants
from ddpmseg.tables.table import Row, Table, describe

Scores = Mapping[str, float]
"""A score by the folder of its run, as a fraction."""


@dataclass(frozen=True, eq=False)
class Setting:
    """Runs that differ in nothing but seeds.

    group: values of the keys that runs are grouped by. variant: what tells the runs from others,
    beyond the group. rank: 1 for the best of its group.
    """

    group: tuple[str, ...]
    variant: Variant
    runs: tuple[Run, ...]
    rank: int = 0

    def mean(self, metric: str) -> float:
        """In percent."""
        return Summary.of([run.scores[metric] for run in self.runs]).mean

    def text(self, key: str) -> str:
        """A setting that tells it from others; empty where it does not."""
        return dict(self.variant).get(key, "")

    def describe(self, group_by: Sequence[str], names: Mapping[str, str]) -> str:
        """What tells it from all others, as overrides."""
        group = tuple(zip(group_by, self.group, strict=True))
        return describe((*group, *self.variant), names)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Settings by group, and within each in the order that was asked for.

    keys: all that tells settings apart within groups. pairs: what two runs must share to be a pair:
    seeds, and what is averaged besides. None where every run stands by itself.
    """

    metric: str
    group_by: tuple[str, ...]
    keys: tuple[str, ...]
    pairs: tuple[str, ...] | None
    settings: tuple[Setting, ...]

    def group_of(self, setting: Setting) -> list[Setting]:
        """All settings of its group, itself too."""
        return [other for other in self.settings if other.group == setting.group]

    @property
    def counted(self) -> bool:
        """Whether any setting has several runs; else numbers stand without counts."""
        return any(len(setting.runs) > 1 for setting in self.settings)

    def summary(self, scores: Sequence[float]) -> Summary:
        """Of fractions."""
        found = Summary.of(scores)
        return found if self.counted else replace(found, runs=None)

    def difference(self, setting: Setting, reference: Setting, metric: str) -> Summary | None:
        """Of pairs of runs; None where there is no pair."""
        found = paired(setting.runs, reference.runs, metric, self.pairs or ())
        return found if found is None or self.counted else replace(found, runs=None)


def rank(
    runs: Sequence[Run],
    metric: str,
    group_by: Sequence[str] = (),
    over: Sequence[str] = (),
    sort: str | None = None,
    singly: bool = False,
) -> Ranking:
    """Rank by the mean of `metric`, which all runs have.

    Groups are in the order of their values, settings the best first, or by the values of the
    setting `sort`. singly: every run by itself, seeds being settings like others.
    """
    repeats = () if singly else REPEATS
    split: list[Setting] = []
    for variant, some in variants(runs, (*group_by, *over), repeats).items():
        groups: dict[tuple[str, ...], list[Run]] = {}
        for run in some:
            groups.setdefault(tuple(run.text(key) for key in group_by), []).append(run)
        split += [Setting(group, variant, tuple(found)) for group, found in groups.items()]
    orders = [{text: n for n, text in enumerate(in_order(runs, key))} for key in group_by]

    def order(setting: Setting) -> tuple[int, ...]:
        return tuple(values[text] for values, text in zip(orders, setting.group, strict=True))

    split.sort(key=lambda setting: (order(setting), -setting.mean(metric)))
    ranked: list[Setting] = []
    for setting in split:
        new = not ranked or ranked[-1].group != setting.group
        ranked.append(replace(setting, rank=1 if new else ranked[-1].rank + 1))
    if sort is not None:
        ranked.sort(key=lambda one: (order(one), place(one.runs[0].settings.get(sort)), one.rank))
    keys = sorted({key for setting in split for key, _ in setting.variant})
    pairs = None if singly else (*REPEATS, *over)
    return Ranking(metric, tuple(group_by), tuple(keys), pairs, tuple(ranked))


def reference_of(
    setting: Setting, ranking: Ranking, against: Sequence[Condition] = ()
) -> Setting | None:
    """What a setting is held against in its group: the best, or the one `against` tells.

    None where no setting of the group fits. Raises ConfigError where several do.
    """
    group = ranking.group_of(setting)
    if not against:
        return next(one for one in group if one.rank == 1)
    fitting = [one for one in group if all(c.holds(run) for c in against for run in one.runs)]
    if len(fitting) > 1:
        shown = " | ".join(describe(one.variant) for one in fitting[:3])
        more = f" and {len(fitting) - 3} more" if len(fitting) > 3 else ""
        raise ConfigError(
            f"--against {' '.join(map(str, against))} fits {len(fitting)} settings: {shown}{more}. "
            "Add a condition, or group by what differs with --group-by."
        )
    return fitting[0] if fitting else None


def paired(
    runs: Iterable[Run], reference: Iterable[Run], metric: str, keys: Collection[str] = REPEATS
) -> Summary | None:
    """Mean and sample standard deviation of the differences between runs that share the `keys`.

    Runs that only one side has are left out; None where there is no pair.
    """
    # A key that a run lacks, such as the split of a set that has none, is null.
    theirs = {tuple(map(run.text, keys)): run.scores[metric] for run in reference}
    ours = {tuple(map(run.text, keys)): run.scores[metric] for run in runs}
    differences = [score - theirs[key] for key, score in ours.items() if key in theirs]
    return replace(Summary.of(differences), signed=True) if differences else None


def ranking_table(
    ranking: Ranking,
    metrics: Sequence[str],
    against: Sequence[Condition] = (),
    more: Mapping[str, Scores] | None = None,
    folders: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
) -> Table:
    """A row for every setting: group, rank, what tells it apart, its scores and the difference.

    The difference is to `reference_of` the setting, by `metric` of the ranking. more: further
    scores, a column each. folders: shown names of single runs' folders, in a last column of labels.
    names: shown keys. A cell is empty where no run has such a score.
    """
    first, *others = dict.fromkeys([ranking.metric, *metrics])
    rows = []
    for setting in ranking.settings:
        labels = [*setting.group, str(setting.rank), *(setting.text(key) for key in ranking.keys)]
        if folders is not None:
            labels.append(folders[setting.runs[0].folder])
        reference = reference_of(setting, ranking, against)
        difference = None
        if reference is not None and reference is not setting:
            difference = ranking.difference(setting, reference, first)
        means = [
            ranking.summary([run.scores[name] for run in setting.runs]) for name in (first, *others)
        ]
        cells: list[Summary | None] = [means[0], difference, *means[1:]]
        for scores in (more or {}).values():
            there = [scores[run.folder] for run in setting.runs if run.folder in scores]
            cells.append(ranking.summary(there) if there else None)
        rows.append(Row(tuple(labels), tuple(cells)))
    shown = [(names or {}).get(key, key) for key in (*ranking.group_by, *ranking.keys)]
    shown.insert(len(ranking.group_by), "rank")
    stub = (*shown, "run") if folders is not None else tuple(shown)
    return Table(stub, (first, "difference", *others, *(more or {})), tuple(rows))
