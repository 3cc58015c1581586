"""The W&B workspace as code: built and checked without a network."""

import json
import sys
from typing import Any

import pytest

from ddpmseg.__main__ import main
from ddpmseg.errors import ConfigError, TrackingError
from ddpmseg.sweeps import dashboard

# wandb-workspaces is written for an older pydantic.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def view() -> dict[str, Any]:
    return json.loads(dashboard.as_json(dashboard.build("team", "project", "grid")))


def panels(view: dict[str, Any]) -> list[dict[str, Any]]:
    sections = view["section"]["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"]]


def test_every_kind_of_panel_is_there(view: dict[str, Any]) -> None:
    kinds = {panel["viewType"] for panel in panels(view)}
    assert kinds >= {
        "Run History Line Plot",
        "Scatter Plot",
        "Parallel Coordinates Plot",
        "Media Browser",
        "Run Comparer",
        "Weave",
    }


def test_panels_name_the_keys_of_runs(view: dict[str, Any]) -> None:
    text = json.dumps(view)
    for key in (
        "config:features.value.block",
        "config:features.value.timestep",
        "config:seed.value",
        "summary:test/miou",
        "curve/block_.*",
        "figures/miou_heatmap",
        "examples/masks",
        "examples/uncertainty",
        "test/per_class",
        "sweep/report",
        "trainer/global_step",
    ):
        assert key in text, key


def test_dry_run_needs_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "--project", "mine", "--dry-run"]) == 0
    assert panels(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("name", ["${grid}", "ponies \U0001f40e"])
def test_a_name_with_symbols_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "--name", name, "--dry-run"]) == 2
    assert f"error: `--name {name}`: W&B takes no symbols" in capsys.readouterr().err


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    workspace = dashboard.build("team", "project", "grid")

    def refuse(*_: object) -> None:
        raise OSError("connection refused")

    monkeypatch.setattr(type(workspace), "save", refuse)
    with pytest.raises(TrackingError, match=r"project 'project' could not be saved \(OSError"):
        dashboard.save(workspace)


def test_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[dashboards\]'"):
        dashboard.build("team", "project", "grid")
