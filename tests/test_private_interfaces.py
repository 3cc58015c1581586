"""What this package uses of other libraries beyond their public interfaces is still there.

`pyproject.toml` bounds these libraries from above. A test that fails here after a bound was raised
names what has moved, and where it is used.
"""

import inspect

import pytest
import wandb
from hydra._internal.core_plugins import file_config_source
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import _run_hydra, get_args_parser
from pytorch_lightning.callbacks import WeightAveraging
from wandb.cli.cli import cli

from ddpmseg.config.checked_files import FileConfigSource
from ddpmseg.config.store import register


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # pyright: ignore[reportArgumentType]


def test_hydra_splits_a_multirun_into_jobs() -> None:
    assert parameters(BasicSweeper.split_arguments) == ["overrides", "max_batch_size"], (
        "hydra's BasicSweeper.split_arguments has moved: see ddpmseg.multiruns.multirun"
    )


def test_hydra_runs_a_program_with_a_given_command_line() -> None:
    given = ["args", "args_parser", "task_function", "config_path", "config_name"]
    assert parameters(_run_hydra)[:5] == given, (
        "hydra's _run_hydra has moved: see ddpmseg.cli.programs"
    )
    assert parameters(get_args_parser) == [], (
        "hydra's get_args_parser has moved: see ddpmseg.cli.programs"
    )


def test_hydra_reads_files_by_a_source_of_this_name() -> None:
    register()
    theirs = file_config_source.FileConfigSource
    assert parameters(theirs.load_config) == ["self", "config_path"]
    registry = SourcesRegistry.instance()
    registry.register(theirs)  # as a process does that a launcher starts
    assert registry.resolve("file") is FileConfigSource, (
        "hydra's sources of files have moved: see ddpmseg.config.checked_files"
    )


def test_lightning_swaps_averaged_weights_in() -> None:
    assert hasattr(WeightAveraging, "_swap_models"), (
        "Lightning's WeightAveraging._swap_models has moved: see ddpmseg.training.pretrain"
    )


def test_wandb_has_the_settings_of_a_run() -> None:
    used = {
        "x_transaction_log_flush_interval", "x_disable_machine_info", "x_disable_stats",
        "x_disable_meta", "x_save_requirements",
    }  # fmt: skip
    gone = used - set(wandb.Settings.model_fields)
    assert not gone, f"wandb.Settings has no {gone} any more: see ddpmseg.tracking.wandb_run"


def test_wandb_syncs_a_run_while_it_grows() -> None:
    sync = getattr(cli.commands.get("beta"), "commands", {}).get("sync")
    assert sync is not None, "`wandb beta sync` has moved: see ddpmseg.tracking.upload"
    options = {option for parameter in sync.params for option in parameter.opts}
    assert options >= {"--live", "--yes"}, (
        f"`wandb beta sync` has the options {sorted(options)}: see ddpmseg.tracking.upload"
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_workspace_gives_the_view_that_is_sent() -> None:
    from wandb_workspaces.workspaces import Workspace

    assert hasattr(Workspace, "_to_model"), (
        "wandb_workspaces' Workspace._to_model has moved: see ddpmseg.sweeps.dashboard"
    )
