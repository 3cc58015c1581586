"""A W&B run from its first line to its last: who it is, how it opens, how it ends."""

import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpmseg.config import (
    TRANSFER,
    LoggerConfig,
    PretrainConfig,
    SweepConfig,
    TrainConfig,
)
from ddpmseg.runtime.surroundings import environment
from ddpmseg.tracking.upload import Upload

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger(__name__)
MODES = ("online", "offline", "disabled")
STEP = "trainer/global_step"
"""The axis Lightning's logger writes beside every value."""
STAGING = "WANDB_DATA_DIR"
FLUSH_SECONDS = 5.0
"""How far a page that is uploaded while the run goes on lies behind."""
ADDRESS = re.compile(r"(?<=url=).*|(?<=://)\S*@")
"""What of an argument may hold a password or a token."""


@dataclass(frozen=True)
class Identity:
    """What a run is called and found by.

    id: by content, so that a resumed job goes on with its run. job_type: segment, distill,
    pretrain, sweep or cell. config: plain, nested values; W&B shows them as dotted columns.
    """

    id: str
    name: str
    job_type: str
    config: Mapping[str, Any]
    tags: tuple[str, ...] = ()
    group: str | None = None


def run_identity(config: TrainConfig, key: str) -> Identity:
    """Of a run of ddpmseg train; `key` is its `run_key`."""
    return Identity(
        id=f"{config.task}-{key}",
        name=Path(config.paths.output_dir).name,
        job_type=config.task,
        config=plain_config(config),
        tags=_tags(config),
        group=config.logger.group,
    )


def sweep_identity(config: SweepConfig, key: str) -> Identity:
    """Of the run that shows a whole sweep; `key` is its `sweep_key`."""
    name = Path(config.paths.output_dir).name
    return Identity(
        id=f"sweep-{key}",
        name=name,
        job_type="sweep",
        config=plain_config(config),
        tags=(config.dataset.name, config.backbone.name),
        group=config.logger.group or name,
    )


def multirun_identity(config: TrainConfig, name: str) -> Identity:
    """Of the run that shows what the jobs of a multirun found; `config` is that of one of them."""
    plain = plain_config(config)
    for axis in ("maps", "block", "timestep", "blocks", "timesteps"):
        plain["features"].pop(axis, None)
    del plain["seed"]
    return Identity(
        id=f"multirun-{name}",
        name=name,
        job_type="sweep",
        config=plain,
        tags=(config.dataset.name, config.backbone.name),
        group=config.logger.group or name,
    )


def cell_identity(config: SweepConfig, sweep: Identity, key: tuple[int, int, int]) -> Identity:
    """Of a cell (block, timestep, seed): its columns are those of a run of ddpmseg train."""
    block, timestep, seed = key
    place = f"b{block:02d}_t{timestep:04d}_s{seed}"
    own = config.sweep
    run = TrainConfig(
        seed=seed,
        dataset=config.dataset,
        backbone=config.backbone,
        features=own.features([block], [timestep]),
        head=own.head,
        pretrain=PretrainConfig(),
        trainer=config.trainer,
        logger=config.logger,
        paths=config.paths,
    )
    return Identity(
        id=f"{sweep.id.replace('sweep', 'cell')}-{place}",
        name=place,
        job_type="cell",
        config=plain_config(run),
        tags=_tags(run),
        group=sweep.group,
    )


def plain_config(config: TrainConfig | SweepConfig) -> dict[str, Any]:
    """The configuration as W&B can filter and group by it.

    Lists make no column there, so a single block and timestep also stand as `features.block` and
    `features.timestep`, and any choice of them in a word as `features.maps`. Addresses to download
    from are left out: they may hold a password. So is what only says where things are kept.
    """
    plain = asdict(config)
    for part in ("dataset", "backbone"):
        for key in TRANSFER:
            plain[part].pop(key, None)
    for group in ("logger", "paths"):
        del plain[group]
    if isinstance(config, SweepConfig):
        plain["head"] = {"name": config.sweep.head.label}
        return plain
    if config.task == "distill":
        for group in ("backbone", "features", "head", "pretrain"):
            del plain[group]
        return plain
    del plain["segmenter"]
    if config.task == "pretrain":
        return plain | {"features": {}, "head": {}}
    features, head = config.features, config.head
    del plain["pretrain"]
    plain["head"]["name"] = head.label
    plain["features"]["maps"] = f"b{_joined(features.blocks)}_t{_joined(features.timesteps)}"
    for axis, values in (("block", features.blocks), ("timestep", features.timesteps)):
        if len(values) == 1:
            plain["features"][axis] = values[0]
    return plain


@contextmanager
def open_run(
    settings: LoggerConfig,
    folder: Path,
    identity: Identity,
    upload: bool = True,
    quick: bool = False,
) -> "Iterator[Run]":
    """A run recorded below `folder`/wandb, closed when the block ends: as failed when it fails.

    With `logger.mode=online` and `upload` another process sends it while it grows, and what an
    interrupted run of this id has left before. That and nothing else waits for the network. `quick`
    leaves out what W&B finds out about the machine, for many runs of a moment each.
    """
    import wandb  # takes a second that no other run should pay

    # What it says of itself is said here, in a line; what goes wrong is raised.
    wandb.setup(wandb.Settings(silent=True))
    earlier = recorded_runs(folder, identity.id)
    with _arguments_without_secrets(), environment(STAGING, str(folder.absolute() / "wandb")):
        run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            # W&B's process, the same for all runs, stays in the folder where it was started.
            dir=folder.absolute(),
            id=identity.id,
            # Asked for when it is uploaded: whatever the server has of this id is gone on with.
            resume="allow",
            name=identity.name,
            group=identity.group and identity.group[:128],
            job_type=identity.job_type,
            tags=_allowed([*identity.tags, *settings.tags]),
            config=dict(identity.config),
            mode="disabled" if settings.mode == "disabled" else "offline",
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                x_transaction_log_flush_interval=FLUSH_SECONDS,
                x_disable_machine_info=quick,
                x_disable_stats=quick,
                x_disable_meta=quick,
                x_save_requirements=not quick,
                disable_git=quick,
                console="off" if quick else "auto",
            ),
        )
    run.define_metric(STEP, hidden=True)
    for part in ("train/*", "val/*", "test/*"):
        run.define_metric(part, step_metric=STEP)
    sender = None
    if settings.mode != "disabled":
        place = Path(run.settings.sync_dir)
        if not quick:
            log.info("W&B: %s (%s) in %s", run.id, settings.mode, place)
        if settings.mode == "online" and upload:
            sender = Upload(folder / "wandb", place, earlier, settings.timeout)
    try:
        # What is logged as a table or an artifact is staged until it is uploaded. The home, W&B's
        # own choice, may take nothing.
        with environment(STAGING, str(folder.absolute() / "wandb")), run:
            yield run
    finally:
        if sender is not None and sender.finish():
            log.info("W&B: %s uploaded", run.id)


def recorded_runs(folder: Path, run_id: str) -> list[Path]:
    """Folders of what is recorded of this id and not uploaded yet, the oldest first."""
    found = sorted((folder / "wandb").glob(f"offline-run-*-{run_id}"))
    return [path for path in found if not (path / f"run-{run_id}.wandb.synced").exists()]


@contextmanager
def _arguments_without_secrets() -> Iterator[None]:
    """Let W&B, which records the command line, see no address with a password or a token in it."""
    given = sys.argv
    sys.argv = [ADDRESS.sub("...", argument) for argument in given]
    try:
        yield
    finally:
        sys.argv = given


def _tags(config: TrainConfig) -> tuple[str, ...]:
    if config.task == "distill":
        segmenter = config.segmenter
        return (config.dataset.name, segmenter.name, segmenter.architecture)
    named = (config.dataset.name, config.backbone.name)
    if config.task == "pretrain":
        return named
    features = config.features
    return (
        *named,
        config.head.label,
        *(f"b{block}" for block in features.blocks),
        *(f"t{timestep}" for timestep in features.timesteps),
    )


def _allowed(tags: Sequence[str]) -> list[str]:
    """Tags as W&B takes them: none twice, 1 to 64 characters."""
    return list(dict.fromkeys(tag[:64] for tag in tags if tag))


def _joined(values: Sequence[int]) -> str:
    return "-".join(map(str, values))
