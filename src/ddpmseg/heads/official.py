"""Ensembles in the files of the original code, yandex-research/ddpm-segmentation.

A folder holds model_0.pth, model_1.pth, ..., one member each: {'model_state_dict': ...} with the
keys `module.layers.{0,2,3,5,6}.*` of D -> h1 -> h2 -> K. Layers 0, 3, 6 are linear, 2 and 5 batch
normalisations, `module.` is left by DataParallel. Features are not standardised.
Source: reference `train_interpreter.py`, `src/pixel_classifier.py`.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.heads.base import Head
from ddpmseg.heads.mlp import StackedMLP
from ddpmseg.io.files import atomic_folder, file_sha256
from ddpmseg.io.tensor_file import save_pickled
from ddpmseg.weights.read import read_state_dict

ENTRY = "model_state_dict"
LINEARS = (0, 3, 6)
"""Places of the linear layers."""
_MEMBER = re.compile(r"model_(0|[1-9]\d*)\.pth")


def member_files(folder: Path) -> list[Path]:
    """The files of all members in their order.

    Raises CheckpointError when the folder does not exist, holds none, or one before the last is
    missing.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"`head.checkpoint={folder}`: no such folder. Name one with model_0.pth, model_1.pth, "
            "... as the original code writes them."
        )
    numbered = {int(m[1]): path for path in folder.iterdir() if (m := _MEMBER.fullmatch(path.name))}
    if not numbered:
        raise CheckpointError(
            f"`head.checkpoint={folder}`: the folder holds no classifier. Expected are "
            "model_0.pth, model_1.pth, ... as the original code writes them."
        )
    last = max(numbered)
    if missing := [f"model_{number}.pth" for number in range(last) if number not in numbered]:
        raise CheckpointError(
            f"`head.checkpoint={folder}`: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing ({len(numbered)} of the {last + 1} "
            f"files up to model_{last}.pth are there). Fetch the whole folder again."
        )
    return [numbered[number] for number in sorted(numbered)]


def ensemble_sha256(folder: str | None) -> str | None:
    """Digest of the members' names and contents; None where there are none to read."""
    if folder is None:
        return None
    try:
        paths = member_files(Path(folder).expanduser())
    except CheckpointError:
        return None  # reported by whoever reads them
    lines = [f"{path.name} {file_sha256(path)}\n" for path in paths]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_ensemble(folder: Path, members: int) -> StackedMLP:
    """The first `members` classifiers of a folder as one head in eval mode, fp32.

    Raises CheckpointError when there are fewer, when one is damaged, would execute code, has
    unknown or missing keys or shapes that do not fit together, or is of another shape than the
    first.
    """
    paths = member_files(folder)
    if members > len(paths):
        raise CheckpointError(
            f"`head.checkpoint={folder}` holds {len(paths)} classifiers, `head.members={members}` "
            f"asks for more. Set `head.members` to 1..{len(paths)}, the number to use."
        )
    states = [_read_member(path) for path in paths[:members]]
    shapes = [_widths(state) for state in states]
    for path, widths in zip(paths, shapes, strict=False):
        if widths != shapes[0]:
            raise CheckpointError(
                f"'{path}' is {_arrows(widths)}, but '{paths[0].name}' beside it is "
                f"{_arrows(shapes[0])}: they are no ensemble. Keep each ensemble in a folder of "
                "its own."
            )
    dim, *hidden, num_classes = shapes[0]
    head = StackedMLP(dim, num_classes, members, hidden)
    for member, state in enumerate(states):
        head.load_member(member, {_name_here(key): value for key, value in state.items()})
    return head.eval()


def write_ensemble(head: Head, folder: Path) -> None:
    """Write a head as the original code would have; it computes the same scores from the files.

    Scaling of the features is folded into the first layers. The folder appears whole or not at all.
    Raises ConfigError for a head that is no MLP with two hidden layers, and when the folder holds
    something already or cannot be written to.
    """
    if not isinstance(head, StackedMLP):
        raise ConfigError(
            f"the head is of the kind '{head.kind}'; the original code builds MLPs. Train one with "
            "`head=mlp`."
        )
    if len(head.hidden) != 2:
        raise ConfigError(
            f"the head has {len(head.hidden)} hidden layers {list(head.hidden)}; the original code "
            "builds classifiers with two. Train one with `head=mlp` and `head.hidden=null`."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"'{folder}' exists and is not an empty folder. Name another.")
    with atomic_folder(folder) as unfinished:
        for member in range(head.members):
            state = {f"module.{k}": value for k, value in _state_to_write(head, member).items()}
            save_pickled({ENTRY: state}, unfinished / f"model_{member}.pth")


def _read_member(path: Path) -> dict[str, Tensor]:
    """State of one member under its own names, its shapes fitting together."""
    given = read_state_dict(path, ENTRY)
    names = _layers([1, 1, 1, 1])
    missing = [f"missing {key}" for key in names if key not in given and not _counts(key)]
    unknown = [f"unknown {key}" for key in given if key not in names]
    if problems := missing + unknown:
        more = ", ..." if len(problems) > 6 else ""
        raise CheckpointError(
            f"'{path}' is no pixel classifier of the original code: {', '.join(problems[:6])}"
            f"{more}. Its layers are the linear 0, 3, 6 and the normalisations 2, 5."
        )
    for key, expected in _layers(_widths(given)).items():
        if key in given and given[key].shape != expected.shape:
            raise CheckpointError(
                f"'{path}' is no pixel classifier of the original code: {key} is "
                f"{list(given[key].shape)} where its other layers ask for {list(expected.shape)}."
            )
    return {key: value for key, value in given.items() if not _counts(key)}


def _state_to_write(head: StackedMLP, member: int) -> dict[str, Tensor]:
    """State of one member under the original names, in their order, for unscaled features."""
    state = head.member_state(member)
    weight, bias = head.first_layer()
    own = slice(member * head.hidden[0], (member + 1) * head.hidden[0])
    state |= {"linears.0.weight": weight[own], "linears.0.bias": bias[own]}
    return {
        # Copies: a view would be saved with all it is a view of.
        key: torch.tensor(0) if _counts(key) else state[_name_here(key)].detach().cpu().clone()
        for key in _layers([head.dim, *head.hidden, head.num_classes])
    }


def _layers(widths: Sequence[int]) -> dict[str, Tensor]:
    """The original classifier's state, without memory behind it."""
    parts: list[nn.Module] = []
    with torch.device("meta"):
        for into, out in pairwise(widths[:-1]):
            parts += [nn.Linear(into, out), nn.ReLU(), nn.BatchNorm1d(out)]
        parts.append(nn.Linear(widths[-2], widths[-1]))
    return nn.ModuleDict({"layers": nn.Sequential(*parts)}).state_dict()


def _name_here(key: str) -> str:
    """What `StackedMLP` calls a parameter of the original classifier."""
    _, place, name = key.split(".")
    kind = "linears" if int(place) in LINEARS else "norms"
    return f"{kind}.{int(place) // 3}.{name}"


def _counts(key: str) -> bool:
    """Whether it is the count of batches that BatchNorm1d keeps and does not need."""
    return key.endswith("num_batches_tracked")


def _widths(state: Mapping[str, Tensor]) -> list[int]:
    """D, the hidden widths and K, by the sides of the weights; a missing side counts as 1."""
    sides = [(*state[f"layers.{place}.weight"].shape, 1, 1) for place in LINEARS]
    return [sides[0][1], *(side[0] for side in sides)]


def _arrows(widths: Sequence[int]) -> str:
    return " -> ".join(map(str, widths))
