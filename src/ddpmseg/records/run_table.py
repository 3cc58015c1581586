"""Finished runs as a table with a row for each, and what tells them apart."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from ddpmseg.records.runs import BACKBONE, DATASET, METHOD, REPEATS, Run

Variant = tuple[tuple[str, str], ...]
"""Settings, by key and as text, that tell runs from others; empty where nothing does."""
OF_A_NAME = ("dataset.", "backbone.", "head.checkpoint", "segmenter.images")
"""How keys begin that differ wherever datasets or backbones do."""


def run_table(runs: Sequence[Run]) -> pd.DataFrame:
    """A row for each run, by its folder: a column for every setting and for every score.

    Settings are texts, as `Run.text` gives them, and ordered categories: null first, numbers and
    lists by size, then words. Scores are fractions.
    """
    columns: dict[str, Any] = {}
    for key in sorted({key for run in runs for key in run.settings}):
        texts = [run.text(key) for run in runs]
        values = dict(zip(texts, [run.settings.get(key) for run in runs], strict=True))
        order = [text for text, _ in sorted(values.items(), key=lambda pair: _order(pair[1]))]
        columns[key] = pd.Categorical(texts, order, ordered=True)
    for name in runs[0].scores:
        columns[name] = [run.scores[name] for run in runs]
    return pd.DataFrame(columns, index=[run.folder for run in runs])


def settings_of(runs: pd.DataFrame) -> list[str]:
    """The columns of a table of runs that are settings, sorted."""
    return [str(key) for key in runs.select_dtypes("category")]


def values_of(runs: pd.DataFrame, key: str) -> list[str]:
    """The values of a setting that runs have, in order."""
    return list(runs[key].cat.remove_unused_categories().cat.categories)


def variants(
    runs: pd.DataFrame, apart: Collection[str], repeats: Collection[str] = REPEATS
) -> dict[Variant, pd.DataFrame]:
    """Runs by all that differs between them, beyond the settings `apart` and `repeats`.

    A dataset's or a backbone's own settings, the ensemble of `head.checkpoint` and the folder of
    `segmenter.images` tell runs apart only where the name of dataset (and backbone) is the same,
    since the name does so already. Where methods are `apart`, or datasets, only runs of the same
    are compared. Ordered by their settings.
    """
    keys = [key for key in settings_of(runs) if key not in {*apart, *repeats, METHOD}]
    differing = pd.DataFrame({key: _differs(runs, key, apart) for key in keys}, runs.index)
    labels = [
        tuple((key, text) for key, text, shown in zip(keys, texts, differs, strict=True) if shown)
        for texts, differs in zip(runs[keys].to_numpy(), differing.to_numpy(), strict=True)
    ]

    def order(variant: Variant) -> list[tuple[str, int]]:
        return [(key, list(runs[key].cat.categories).index(text)) for key, text in variant]

    return {
        variant: runs[[label == variant for label in labels]]
        for variant in sorted(set(labels), key=order)
    }


def describe(variant: Variant, names: Mapping[str, str] | None = None) -> str:
    """Settings as overrides, with each key as `names` has it."""
    return " ".join(f"{(names or {}).get(key, key)}={text}" for key, text in variant)


def _differs(runs: pd.DataFrame, key: str, apart: Collection[str]) -> "pd.Series[bool] | bool":
    """Of each run, whether those with which it is compared have several values of a setting."""
    same = [METHOD] if METHOD in apart else []
    if key == BACKBONE:
        same += [DATASET] if DATASET in apart else []
    elif key.startswith(OF_A_NAME) and key != DATASET:
        same += [DATASET] if key.startswith("dataset.") else [DATASET, BACKBONE]
    codes = runs[key].cat.codes
    circles = [runs[name] for name in same if name in runs]
    if codes.nunique() == 1 or not circles:
        return codes.nunique() > 1
    return codes.groupby(circles, observed=True).transform("nunique") > 1


def _order(value: Any) -> tuple[int, Any]:
    """Where a value comes in order: null first, numbers and lists by size, then words."""
    if value is None:
        return 0, 0
    if isinstance(value, bool | int | float):
        return 1, value
    if isinstance(value, list):
        return 2, [_order(item) for item in value]
    return 3, str(value)
