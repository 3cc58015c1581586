"""Compares networks by the names and shapes of their parameters."""

from collections.abc import Mapping, Sequence

from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a parameter in the state dict -> its shape."""


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items()}


def listed(problems: Sequence[str], limit: int = 8) -> str:
    """A new line for each of `differences`, at most `limit`, to follow the line before."""
    more = [f"... and {len(problems) - limit} more"] if len(problems) > limit else []
    return "".join(f"\n  {problem}" for problem in [*problems[:limit], *more])


def differences(actual: Shapes, expected: Shapes) -> list[str]:
    """A clause for every parameter of a file that is missing, unknown or of another shape."""
    problems = [f"missing {key} {list(expected[key])}" for key in expected if key not in actual]
    problems += [f"unknown {key} {list(actual[key])}" for key in actual if key not in expected]
    problems += [
        f"{key} is {list(actual[key])} in the file, {list(expected[key])} in the network"
        for key in expected
        if key in actual and actual[key] != expected[key]
    ]
    return problems
