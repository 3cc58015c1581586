"""A W&B workspace as code: the same panels for every project of sweeps and runs.

The keys it shows are those that `wandb_run`, `wandb_media` and `wandb_sweep` write. Everything but
`save` works without a network.
"""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ddpmseg.errors import ConfigError, MissingLibraryError, TrackingError
from ddpmseg.sweeps.wandb_sweep import AXIS
from ddpmseg.tracking.wandb_run import STEP

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

SCORE = "test/miou"


def build(entity: str, project: str, name: str) -> "Workspace":
    """The workspace, not yet saved.

    Raises ConfigError where wandb-workspaces is not installed, or refuses the name.
    """
    try:
        from wandb_workspaces import workspaces
    except ImportError as error:
        raise MissingLibraryError("a dashboard", "wandb-workspaces", "dashboards") from error
    sections = _sections()
    try:
        return workspaces.Workspace(entity=entity, project=project, name=name, sections=sections)
    except ValueError as error:
        raise ConfigError(
            f"`--name {name}`: W&B takes no symbols such as $, +, < or emoji in the name of a "
            "workspace. Name it in letters, digits, spaces and punctuation."
        ) from error


def as_json(workspace: "Workspace") -> str:
    """The view as W&B's server is given it, indented."""
    view = workspace._to_model()
    return json.dumps(view.spec.model_dump(by_alias=True, exclude_none=True), indent=1, default=str)


def save(workspace: "Workspace") -> str:
    """Save it as a view of the project; returns its address. TrackingError where that fails."""
    import wandb

    try:
        if not workspace.entity:
            workspace = replace(workspace, entity=wandb.Api().default_entity or "")
        return workspace.save().url
    except Exception as error:
        # Whatever the client library raises of the network, the key or the project.
        raise TrackingError(
            f"the workspace of project '{workspace.project}' could not be saved "
            f"({type(error).__name__}: {error}). `wandb login` first; the project must have a run. "
            "`--dry-run` shows the view without a server."
        ) from error


def _sections() -> "list[Section]":
    from wandb_workspaces.reports import v2 as wr
    from wandb_workspaces.reports.v2.interface import ParallelCoordinatesPlotColumn
    from wandb_workspaces.workspaces import Section

    block, timestep = wr.Config("features.block"), wr.Config("features.timestep")
    score = wr.SummaryMetric(SCORE)
    axes: list[tuple[Any, str]] = [
        (block, "block"),
        (timestep, "t"),
        (wr.Config("seed"), "seed"),
        (score, "mIoU"),
    ]
    columns = [ParallelCoordinatesPlotColumn(metric, display_name=n) for metric, n in axes]

    def pictures(title: str, *keys: str) -> wr.MediaBrowser:
        return wr.MediaBrowser(title=title, media_keys=list(keys), num_columns=4)

    return [
        Section(
            name="Blocks and timesteps",
            is_open=True,
            panels=[
                wr.LinePlot(
                    title="mIoU by t, a line per block (sweeps)",
                    x=AXIS,
                    metric_regex="curve/block_.*",
                ),
                wr.ScatterPlot(title="mIoU by t (runs, cells)", x=timestep, y=score),
                wr.ScatterPlot(title="block by t, mIoU in depth", x=timestep, y=block, z=score),
                pictures("Heatmap of cells", "figures/miou_heatmap"),
                wr.ParallelCoordinatesPlot(title="block, t, seed, mIoU", columns=columns),
            ],
        ),
        Section(
            name="Classes",
            is_open=True,
            panels=[
                wr.WeavePanelSummaryTable(table_name="test/per_class"),
                pictures("IoU per class over cells", "figures/per_class", "figures/class_size"),
            ],
        ),
        Section(
            name="Images",
            is_open=True,
            panels=[
                pictures("Masks", "examples/masks", "examples/uncertainty"),
                pictures("Clusters", "figures/clusters", "figures/masks"),
                pictures("Reports", "sweep/report"),
            ],
        ),
        Section(
            name="Runs",
            is_open=True,
            panels=[
                wr.RunComparer(diff_only="split"),
                wr.LinePlot(title="Training", x=STEP, y=["train/loss"]),
                wr.BarPlot(title="mIoU by head", metrics=[SCORE], groupby=wr.Config("head.name")),
            ],
        ),
    ]
