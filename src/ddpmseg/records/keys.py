"""Settings as a person names them: by the last words of a key, a value as an override has it."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from ddpmseg.errors import ConfigError, DataError
from ddpmseg.records.runs import REPEATS, Run


@dataclass(frozen=True)
class Condition:
    """`key` has one of the `values`, each as an override would give it; or none, if `negated`."""

    key: str
    values: tuple[str, ...]
    negated: bool = False

    def holds(self, run: Run) -> bool:
        return any(_is(run, self.key, value) for value in self.values) != self.negated

    def __str__(self) -> str:
        if self.negated:
            return " and ".join(f"{self.key}!={value}" for value in self.values)
        return " or ".join(f"{self.key}={value}" for value in self.values)


def find_key(name: str, runs: Iterable[Run]) -> str:
    """The key that `name` means: itself, or the only one that ends with these words.

    Raises ConfigError for none and for several; the message names those that are close.
    """
    known = known_keys(runs)
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


def find_conditions(texts: Sequence[str], runs: Sequence[Run]) -> tuple[Condition, ...]:
    """Of 'key=value', where a key named again has either value, and of 'key!=value'.

    Raises ConfigError for another form and for an unknown key, DataError for a value no run has.
    """
    values: dict[tuple[str, bool], list[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        negated, name = name.endswith("!"), name.removesuffix("!")
        if not equals or not name:
            raise ConfigError(f"'{text}' names no value. Write key=value, as head.members=10.")
        key = find_key(name, runs)
        values.setdefault((key, negated), []).append(value)
        if not any(_is(run, key, value) for run in runs):
            there = ", ".join(sorted({run.text(key) for run in runs}))
            raise DataError(f"no run has {key}={value}; there are {there}.")
    return tuple(Condition(key, tuple(some), not_) for (key, not_), some in values.items())


def filtered(runs: Sequence[Run], conditions: Sequence[Condition]) -> list[Run]:
    """The runs for which all conditions hold. Raises DataError where none is left."""
    found = [run for run in runs if all(condition.holds(run) for condition in conditions)]
    if not found:
        both = " and ".join(map(str, conditions))
        raise DataError(f"of {len(runs)} runs none has {both}. Leave out a condition.")
    return found


def series(runs: Sequence[Run], varied: Collection[str], over: Collection[str] = ()) -> list[Run]:
    """The runs beside which there are others that differ in the settings `varied`, else in nothing.

    But for seeds, and what is averaged `over`. Raises DataError where there is no such series.
    """
    families: dict[str, list[Run]] = {}
    for run in runs:
        free = {*varied, *over, *REPEATS}
        rest = {key: value for key, value in run.settings.items() if key not in free}
        families.setdefault(json.dumps(rest, sort_keys=True), []).append(run)
    kept = {
        run.folder
        for family in families.values()
        if len({tuple(run.text(key) for key in varied) for run in family}) > 1
        for run in family
    }
    if not kept:
        raise DataError(
            f"no two of {len(runs)} runs differ in {' and '.join(varied)} alone. Average over what "
            "else differs with --over, or choose runs by --where."
        )
    return [run for run in runs if run.folder in kept]


def known_keys(runs: Iterable[Run]) -> list[str]:
    return sorted({key for run in runs for key in run.settings})


def short_keys(known: Collection[str]) -> dict[str, str]:
    """For each key the fewest of its last words that no other ends with, as `find_key` reads."""
    short = {}
    for key in known:
        words = key.split(".")
        tails = [".".join(words[start:]) for start in range(len(words) - 1, -1, -1)]
        short[key] = next(tail for tail in tails if tail == key or _only(tail, known))
    return short


def shortened(texts: Iterable[str], room: int) -> dict[str, str]:
    """Each text cut in its middle to `room` characters, or to more where two would look alike."""
    texts = list(dict.fromkeys(texts))
    for width in range(room, max(map(len, texts), default=0)):
        cut = {text: _cut(text, width) for text in texts}
        if len(set(cut.values())) == len(texts):
            return cut
    return {text: text for text in texts}


def _is(run: Run, key: str, value: str) -> bool:
    if run.text(key) == value:
        return True
    try:
        given = json.loads(value)  # '[5, 6]' for '[5,6]', '10.0' for '10'
    except ValueError:
        return False
    has = run.settings.get(key)
    return given == has and isinstance(given, bool) == isinstance(has, bool)


def _close_ends(name: str, known: Iterable[str]) -> list[str]:
    """Keys whose last word is like the last of `name`."""
    ends: dict[str, list[str]] = {}
    for key in known:
        ends.setdefault(key.rpartition(".")[2], []).append(key)
    close = get_close_matches(name.rpartition(".")[2], ends, n=2)
    return [key for end in close for key in ends[end]]


def _only(tail: str, known: Collection[str]) -> bool:
    return tail not in known and sum(key.endswith(f".{tail}") for key in known) == 1


def _cut(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    end = width * 2 // 3  # names differ at their ends more often than at their beginnings
    return text[: width - 1 - end] + "…" + text[len(text) - end :]
