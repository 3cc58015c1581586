"""Which settings are best: runs over seeds, ranked within groups, and paired differences."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from ddpmseg.compare.settings import fulfil
from ddpmseg.errors import ConfigError
from ddpmseg.records.run_table import describe, variants
from ddpmseg.records.runs import REPEATS, Summary
from ddpmseg.tables.table import Row, Table

RANK = "rank"


@dataclass(frozen=True, eq=False)
class Ranking:
    """Settings, each of which is all runs that differ in nothing but seeds.

    runs: a table, with the number of each run's setting in the column `setting`.
    labels: of every setting by its number, in the order that was asked for: the values of
        `group_by`, the rank within the group, and all that tells settings apart within groups, ''
        where it does not.
    pairs: what two runs must share to be a pair: seeds, and what is averaged besides. None where
        every run stands by itself.
    """

    metric: str
    group_by: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: Mapping[int, Mapping[str, str]]
    runs: pd.DataFrame

    @property
    def keys(self) -> list[str]:
        """All that tells settings apart within groups."""
        return list(next(iter(self.labels.values())))[len(self.group_by) + 1 :]

    @property
    def counted(self) -> bool:
        """Whether any setting has several runs; else numbers stand without counts."""
        return bool(self.runs["setting"].duplicated().any())

    def describe(
        self, setting: int, keys: Iterable[str], names: Mapping[str, str] | None = None
    ) -> str:
        """Those of the `keys` that tell it from others, as overrides."""
        texts = self.labels[setting]
        return describe(tuple((key, texts[key]) for key in keys if texts[key]), names)

    def summaries(self, scores: pd.Series) -> dict[int, Summary]:
        """By setting, of fractions by run; a setting of which no run has a score is left out."""
        return self._summed(scores.dropna(), self.runs["setting"])

    def differences(self, scores: pd.Series, references: Mapping[int, int]) -> dict[int, Summary]:
        """Of pairs of a setting's runs and its reference's; left out where there is no pair."""
        # A key that no run has, such as the split of a set that has none, tells none apart.
        pairs = [key for key in self.pairs or () if key in self.runs]
        theirs = self.runs[[*pairs, "setting"]].assign(score=scores)
        ours = theirs.assign(reference=theirs["setting"].map(references))
        both = ours.merge(theirs, left_on=["reference", *pairs], right_on=["setting", *pairs])
        found = self._summed(both["score_x"] - both["score_y"], both["setting_x"])
        return {setting: replace(summary, signed=True) for setting, summary in found.items()}

    def references(self, against: Sequence[pd.Series] = ()) -> dict[int, int]:
        """What each setting is held against in its group: the best, or the one `against` tells.

        Settings are left out where none of their group fits. Raises ConfigError where several do.
        """
        fits = {setting: texts[RANK] == "1" for setting, texts in self.labels.items()}
        if against:
            fits = dict(fulfil(against).groupby(self.runs["setting"]).all())
        groups = {n: tuple(texts[key] for key in self.group_by) for n, texts in self.labels.items()}
        fitting: dict[tuple[str, ...], list[int]] = {}
        for setting, group in groups.items():
            if fits[setting]:
                fitting.setdefault(group, []).append(setting)
        for several in fitting.values():
            if len(several) > 1:
                shown = " | ".join(self.describe(one, self.keys) for one in several[:3])
                more = f" and {len(several) - 3} more" if len(several) > 3 else ""
                raise ConfigError(
                    f"--against {' '.join(str(one.name) for one in against)} fits {len(several)} "
                    f"settings: {shown}{more}. Add a condition, or group by what differs with "
                    "--group-by."
                )
        return {one: fitting[group][0] for one, group in groups.items() if group in fitting}

    def _summed(self, scores: pd.Series, by: pd.Series) -> dict[int, Summary]:
        found = {one: Summary.of(list(some)) for one, some in scores.groupby(by)}
        return found if self.counted else {n: replace(s, runs=None) for n, s in found.items()}


def rank(
    runs: pd.DataFrame,
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
    by, texts, parts = list(group_by), [], []
    for variant, some in variants(runs, (*by, *over), () if singly else REPEATS).items():
        for _, part in some.groupby(by, observed=True) if by else [((), some)]:
            parts.append(part.assign(setting=len(parts)))
            texts.append(dict(variant))
    members = pd.concat(parts)
    # A row for each setting: its first run stands for all of them.
    settings = members.drop_duplicates("setting").set_index("setting")
    settings["mean"] = members.groupby("setting")[metric].agg(lambda of: Summary.of(list(of)).mean)
    best_first = [True] * len(by) + [False]
    settings = settings.sort_values([*by, "mean"], ascending=best_first, kind="stable")
    groups = settings.groupby(by, observed=True) if by else settings.groupby(lambda _: 0)
    settings[RANK] = groups.cumcount() + 1
    if sort is not None:
        settings = settings.sort_values([*dict.fromkeys([*by, sort, RANK])])
    keys = sorted({key for labels in texts for key in labels})
    labels = {
        number: {
            **{key: row[key] for key in by},
            RANK: str(row[RANK]),
            **{key: texts[number].get(key, "") for key in keys},
        }
        for number, row in settings.iterrows()
    }
    pairs = None if singly else (*REPEATS, *over)
    return Ranking(metric, tuple(by), pairs, labels, members)


def ranking_table(
    ranking: Ranking,
    metrics: Sequence[str],
    against: Sequence[pd.Series] = (),
    more: Mapping[str, pd.Series] | None = None,
    folders: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
) -> Table:
    """A row for every setting: group, rank, what tells it apart, its scores and the difference.

    The difference is to `Ranking.references`, by `metric` of the ranking. more: further scores by
    run, a column each. folders: shown names of single runs' folders, in a last column of labels.
    names: shown keys. A cell is empty where no run has such a score.
    """
    runs = ranking.runs
    scores = {name: runs[name] for name in (ranking.metric, *metrics)} | dict(more or {})
    references = {a: b for a, b in ranking.references(against).items() if a != b}
    difference = ranking.differences(scores[ranking.metric], references)
    (metric, first), *others = [(name, ranking.summaries(some)) for name, some in scores.items()]
    columns = {metric: first, "difference": difference, **dict(others)}
    stub = [(names or {}).get(key, key) for key in next(iter(ranking.labels.values()))]
    labels = {setting: [*texts.values()] for setting, texts in ranking.labels.items()}
    if folders is not None:
        stub.append("run")
        for run, setting in runs["setting"].items():
            labels[setting].append(folders[str(run)])
    rows = [
        Row(tuple(texts), tuple(column.get(setting) for column in columns.values()))
        for setting, texts in labels.items()
    ]
    return Table(tuple(stub), tuple(columns), tuple(rows))
