"""Settings as a person names them: by the last words of a key, a value as an override has it."""

import json
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches

import numpy as np
import pandas as pd

from ddpmseg.errors import ConfigError, DataError
from ddpmseg.records.run_table import settings_of
from ddpmseg.records.runs import REPEATS


def find_key(name: str, runs: pd.DataFrame) -> str:
    """The setting that `name` means: the key itself, or the only one that ends with these words.

    Raises ConfigError for none and for several; the message names those that are close.
    """
    known = settings_of(runs)
    ends = [key for key in known if key.endswith(f".{name}")]
    if name in known or len(ends) == 1:
        return name if name in known else ends[0]
    if ends:
        raise ConfigError(f"'{name}' may mean {' or '.join(ends)}. Name one of them.")
    close = get_close_matches(name, known, n=3) or _close_ends(name, known)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ConfigError(
        f"no run has the setting '{name}' among those that decide a result.{hint} Settings are "
        "the dotted keys of a run's config.yaml, as in head.members."
    )


def find_conditions(texts: Sequence[str], runs: pd.DataFrame) -> list[pd.Series]:
    """Of 'key=value', where a key named again has either value, and of 'key!=value'.

    Each is a column of bool, whether a run fulfils it, and has the condition as its name. Raises
    ConfigError for another form and for an unknown key, DataError for a value no run has.
    """
    found: dict[tuple[str, str], pd.Series] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        sign, name = "!=" if name.endswith("!") else "=", name.removesuffix("!")
        if not equals or not name:
            raise ConfigError(f"'{text}' names no value. Write key=value, as head.members=10.")
        key = find_key(name, runs)
        has = runs[key].isin([text for text in set(runs[key]) if _same(text, value)])
        if not has.any():
            there = ", ".join(sorted(set(runs[key])))
            raise DataError(f"no run has {key}={value}; there are {there}.")
        condition = (has if sign == "=" else ~has).rename(f"{key}{sign}{value}")
        earlier = found.get((key, sign))
        if earlier is not None and sign == "=":
            condition = (earlier | condition).rename(f"{earlier.name} or {condition.name}")
        elif earlier is not None:
            condition = (earlier & condition).rename(f"{earlier.name} and {condition.name}")
        found[key, sign] = condition
    return list(found.values())


def filtered(runs: pd.DataFrame, conditions: Sequence[pd.Series]) -> pd.DataFrame:
    """The runs for which all conditions hold. Raises DataError where none is left."""
    found = runs[fulfil(conditions)] if conditions else runs
    if not len(found):
        both = " and ".join(str(condition.name) for condition in conditions)
        raise DataError(f"of {len(runs)} runs none has {both}. Leave out a condition.")
    return found


def fulfil(conditions: Sequence[pd.Series]) -> pd.Series:
    """Whether each run fulfils all of one or more conditions."""
    return pd.Series(np.logical_and.reduce(conditions), conditions[0].index)


def series(runs: pd.DataFrame, varied: Sequence[str], over: Collection[str] = ()) -> pd.DataFrame:
    """The runs beside which there are others that differ in the settings `varied`, else in nothing.

    But for seeds, and what is averaged `over`. Raises DataError where there is no such series.
    """
    free = {*varied, *over, *REPEATS}
    rest = [runs[key] for key in settings_of(runs) if key not in free]
    values = runs.groupby(list(varied), observed=True).ngroup()
    found = runs[values.groupby(rest, observed=True).transform("nunique") > 1]
    if not len(found):
        raise DataError(
            f"no two of {len(runs)} runs differ in {' and '.join(varied)} alone. Average over what "
            "else differs with --over, or choose runs by --where."
        )
    return found


def short_keys(known: Collection[str]) -> dict[str, str]:
    """For each key the fewest of its last words that no other ends with, as `find_key` reads."""
    short = {}
    for key in known:
        words = key.split(".")
        tails = [".".join(words[start:]) for start in range(len(words) - 1, -1, -1)]
        short[key] = next(tail for tail in tails if tail == key or _only(tail, known))
    return short


def _same(text: str, value: str) -> bool:
    """Whether two texts give the same value: '[5, 6]' is '[5,6]', '10.0' is '10', 'true' not 1."""
    if text == value:
        return True
    try:
        one, other = json.loads(text), json.loads(value)
    except ValueError:
        return False
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _close_ends(name: str, known: Iterable[str]) -> list[str]:
    """Keys whose last word is like the last of `name`."""
    ends: dict[str, list[str]] = {}
    for key in known:
        ends.setdefault(key.rpartition(".")[2], []).append(key)
    close = get_close_matches(name.rpartition(".")[2], ends, n=2)
    return [key for end in close for key in ends[end]]


def _only(tail: str, known: Collection[str]) -> bool:
    return tail not in known and sum(key.endswith(f".{tail}") for key in known) == 1
