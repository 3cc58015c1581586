"""Names and shapes of parameters: what tells one network's weights from another's."""

from collections.abc import Mapping, Sequence

from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of every parameter, by its name in the state dict."""


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items()}


def listed(problems: Sequence[str], most: int = 8) -> str:
    """A line for each of `differences`, the first `most` of them; begins with the line's end."""
    more = [f"... and {len(problems) - most} more"] if len(problems) > most else []
    return "".join(f"\n  {problem}" for problem in [*problems[:most], *more])


def differences(given: Shapes, wanted: Shapes) -> list[str]:
    """A clause for every parameter that a file lacks, has besides, or has in another shape."""
    problems = [f"missing {key} {list(wanted[key])}" for key in wanted if key not in given]
    problems += [f"unknown {key} {list(given[key])}" for key in given if key not in wanted]
    problems += [
        f"{key} is {list(given[key])} in the file, {list(wanted[key])} in the network"
        for key in wanted
        if key in given and given[key] != wanted[key]
    ]
    return problems
