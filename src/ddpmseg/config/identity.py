"""What decides the results of a run, and the short names made of it."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from ddpmseg.backbones.settings import DEFAULT_FEATURES, MOVED
from ddpmseg.command_line import program_arguments
from ddpmseg.download.settings import TRANSFER

CACHE = ("cache_gb", "cache_dir", "cache_blocks")
"""Of `features`: where native maps are kept."""
HOW = (
    *((group, key) for group in ("dataset", "backbone") for key in TRANSFER),
    ("backbone", "compile"),
    ("backbone", "layers"),
    ("backbone", DEFAULT_FEATURES),
    *(("features", key) for key in CACHE),
    ("paths", "cache_dir"),
    *(("segmenter", key) for key in ("num_workers", "checkpoint_every", "keep_epochs")),
)
"""Keys that decide how something is computed, not what; a run does not record them."""
PASS_SIZE = "features.batch_size"
"""Decides no number either, but is recorded: whoever opens the run needs as much memory."""

RESULTS_VERSION = 1
"""Raised by hand when the arithmetic of a run or a cell changes, so that old and new numbers never
share a folder. The goldens in tests/ say when."""

FIRST_HEAD = "mlp"
"""Runs made before there were other heads do not name theirs."""

LAUNCHING = re.compile(r"(-m|--multirun)$|\+{0,2}(multirun|hydra/launcher|hydra\.launcher)\b")
"""Arguments of a command line that say how jobs are run, not which."""


def run_request(cfg: DictConfig) -> dict[str, Any]:
    """All that decides what a run computes, by dotted key."""
    groups = {
        "segment": ["dataset", "backbone", "features", "head"],
        "distill": ["dataset", "segmenter"],
        "pretrain": ["dataset", "backbone", "pretrain"],
    }.get(cfg.task, [])
    request = OmegaConf.masked_copy(cfg, ["task", "seed", *groups])
    request.trainer = {"precision": cfg.trainer.precision}
    leave_out_how(request)
    return _numbers_only(_flat(OmegaConf.to_container(request, resolve=True)))


def run_key(_root_: DictConfig) -> str:
    """Eight hex digits that identify what a run computes, whatever its paths and loggers."""
    return request_key(run_request(_root_))


def network_name(_root_: DictConfig) -> str:
    """Of the network that a run trains or reads."""
    return _root_.segmenter.name if _root_.task == "distill" else _root_.backbone.name


def leave_out_how(cfg: DictConfig) -> None:
    """Resolve `cfg`, delete the keys that decide no result, and name classes as at first."""
    OmegaConf.resolve(cfg)  # others may be given by these
    with open_dict(cfg):
        cfg.pop("multirun", None)
    for group, key in HOW:
        if group in cfg:
            with open_dict(cfg[group]):
                cfg[group].pop(key, None)
    for key in ("head", "sweep.head"):
        head = OmegaConf.select(cfg, key)
        if head is not None and head.get("name") == FIRST_HEAD:
            with open_dict(head):
                head.pop("name")
    first_names = {target: first for first, target in MOVED.items()}
    if "backbone" in cfg:
        cfg.backbone._target_ = first_names.get(cfg.backbone._target_, cfg.backbone._target_)


def sweep_request(cfg: DictConfig) -> dict[str, Any]:
    """All that decides what is in a cell, by dotted key: not which cells, nor what is shown."""
    request = OmegaConf.masked_copy(cfg, ["seed", "dataset", "backbone"])
    request.sweep = OmegaConf.masked_copy(cfg.sweep, ["head", "hook", "noise", "num_examples"])
    request.trainer = {"precision": cfg.trainer.precision}
    leave_out_how(request)
    return _numbers_only(_flat(OmegaConf.to_container(request, resolve=True)))


def sweep_key(_root_: DictConfig) -> str:
    """Eight hex digits that identify what the cells of a sweep hold, whichever cells it has."""
    return request_key(sweep_request(_root_))


def multirun_key() -> str:
    """Eight hex digits of the command line: a repeated multirun finds its folder again.

    How its jobs are run and launched is left out. The order counts, for it numbers the jobs.
    """
    return request_key({"overrides": which_job(program_arguments())})


def which_job(arguments: Iterable[str]) -> list[str]:
    """The arguments without those that say how jobs are run."""
    return [given for given in arguments if not LAUNCHING.match(given)]


def multirun_name() -> str | None:
    """The folder's name of the multirun this process runs a job of; None outside one."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().sweep.dir).name


def _numbers_only(request: dict[str, Any]) -> dict[str, Any]:
    """The request without settings that change no number of it."""
    request.pop(PASS_SIZE, None)
    for head in ("head", "sweep.head"):
        if request.get(f"{head}.members") == 1:
            request.pop(f"{head}.vote", None)  # a single member has nobody to vote with
    return request


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for key in tree for k, v in _flat(tree[key], f"{prefix}.{key}".strip(".")).items()}


def request_key(request: Mapping[str, Any]) -> str:
    """Eight hex digits of a request, and of the version of the arithmetic that answers it."""
    versioned = {"results_version": RESULTS_VERSION, **request}
    return hashlib.sha256(json.dumps(versioned, sort_keys=True).encode()).hexdigest()[:8]
