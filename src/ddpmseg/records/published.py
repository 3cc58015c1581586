"""What the paper and others published, beside which our runs are shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ddpmseg.records.runs import BACKBONE, DASH, DATASET, SEGMENTER, Summary

SOURCE = "Baranchuk et al. 2022, arXiv 2112.03126"
Quoted = Mapping[str, Summary]
"""Numbers by dataset; datasets without one are left out."""


@dataclass(frozen=True)
class Method:
    """A row of the paper's table.

    experiment: the choice of `conf/experiment/` that repeats it; None where there is none.
    backbones: patterns of the names of backbones whose runs belong to it. segmenters: of networks
    trained on images that an ensemble labelled. features: what a run must read besides. reproduced:
    what others got, by who they are.
    """

    name: str
    published: Quoted
    experiment: str | None = None
    backbones: tuple[str, ...] = ()
    segmenters: tuple[str, ...] = ()
    features: tuple[tuple[str, tuple[int, ...]], ...] = ()
    reproduced: tuple[tuple[str, Quoted], ...] = ()

    def fit(self, settings: Mapping[str, Any]) -> tuple[bool, int]:
        """How specifically a run with these settings is meant; (False, 0) where it is not."""
        patterns = self.segmenters if SEGMENTER in settings else self.backbones
        name = _network_of(settings)
        fitting = [len(pattern) for pattern in patterns if fnmatchcase(name, pattern)]
        read = all(settings.get(f"features.{key}") == list(value) for key, value in self.features)
        return (bool(self.features), max(fitting)) if fitting and read else (False, 0)


@dataclass(frozen=True)
class Published:
    """datasets: titles by name, in the paper's order. methods: in the paper's order."""

    datasets: Mapping[str, str]
    methods: tuple[Method, ...]

    def method_of(self, settings: Mapping[str, Any]) -> str:
        """The method a run belongs to; the network's name where the paper has none like it.

        An untrained network belongs to none.
        """
        method = self._fitting(settings)
        return _network_of(settings) if method is None else method.name

    def score_of(self, settings: Mapping[str, Any]) -> tuple[str, Summary] | None:
        """The method a run belongs to and what was published for it; None where nothing was."""
        method = self._fitting(settings)
        score = method and method.published.get(settings[DATASET])
        return (method.name, score) if method and score else None

    def _fitting(self, settings: Mapping[str, Any]) -> Method | None:
        best = max(self.methods, key=lambda method: method.fit(settings))
        given = (settings.get(f"{part}.checkpoint") for part in ("backbone", "segmenter"))
        return None if "random" in given or not best.fit(settings)[1] else best


def published_lines() -> list[str]:
    """The experiments that repeat the paper, and the published mIoU on each dataset in percent."""
    published = load_published()
    rows = [["", *published.datasets]]
    for method in published.methods:
        if method.experiment:
            scores = map(method.published.get, published.datasets)
            means = (DASH if score is None else f"{score.mean:.1f}" for score in scores)
            rows.append([method.experiment, *means])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])
        for name, *cells in rows
    ]


def _network_of(settings: Mapping[str, Any]) -> str:
    return settings[SEGMENTER if SEGMENTER in settings else BACKBONE]


@cache
def load_published() -> Published:
    """The numbers of `published.yaml`, which says where each is from."""
    path = files("ddpmseg") / "records" / "published.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    datasets = content["datasets"]

    def quoted(row: Sequence[str | float | None]) -> Quoted:
        pairs = zip(datasets, row, strict=True)
        return {name: Summary.quoted(str(text)) for name, text in pairs if text is not None}

    methods = [
        Method(
            entry["name"],
            quoted(entry["published"]),
            entry.get("experiment"),
            tuple(entry.get("backbones", ())),
            tuple(entry.get("segmenters", ())),
            tuple((key, tuple(value)) for key, value in entry.get("features", {}).items()),
            tuple((one["by"], quoted(one["scores"])) for one in entry.get("reproduced", ())),
        )
        for entry in content["methods"]
    ]
    return Published(datasets, tuple(methods))
