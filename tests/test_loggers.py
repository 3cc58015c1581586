"""Loggers beside `metrics.jsonl`, in real runs without a network."""

import csv
from pathlib import Path

import pytest
from tiny_run import SEGMENT, composed

from ddpmseg.apps.train import train
from ddpmseg.errors import ConfigError


def test_csv(tmp_path: Path) -> None:
    train(composed(tmp_path, *SEGMENT, "logger=csv"))
    rows = list(csv.DictReader((tmp_path / "csv" / "metrics.csv").read_text().splitlines()))
    assert any(row.get("test/miou") for row in rows)


def test_wandb_offline_keeps_one_run_per_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    for job in ("a", "b"):
        train(composed(tmp_path / job, *SEGMENT, "logger=wandb", "logger.mode=offline"))
        assert len(list((tmp_path / job / "wandb").glob("offline-run-*/*.wandb"))) == 1


def test_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`logger\.kind=tape`: must be one of none, csv, wandb"):
        train(composed(tmp_path, *SEGMENT, "logger.kind=tape"))
