"""torch.compile with a fallback to the plain function."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

log = logging.getLogger(__name__)


class Compiled:
    """Calls `function` through torch.compile, or directly if the first compilation fails.

    A machine without a C++ compiler (CPU) or without Triton (GPU) cannot compile. That costs speed
    but changes no result, so it is only logged.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._plain = function
        self._call = torch.compile(function)
        self._works = False

    def __call__(self, *arguments: Any) -> Any:
        if self._works:
            return self._call(*arguments)
        try:
            result = self._call(*arguments)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            log.warning("`backbone.compile=true`: not compiled, going on without (%s)", reason)
            result, self._call = self._plain(*arguments), self._plain
        self._works = True
        return result
