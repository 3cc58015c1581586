"""torch.compile, or the plain function where compiling is impossible."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

log = logging.getLogger(__name__)


class Compiled:
    """Calls `function` through torch.compile; as it is, once the first compilation has failed.

    A machine without a C++ compiler (CPU) or without Triton (GPU) cannot compile: that costs speed,
    not results, so it is told in the log and nowhere else.
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


def keep_kernels(folder: Path) -> None:
    """Store compiled kernels in `folder`, for later processes, unless the user named another.

    Without it they lie in the system's temporary folder. Source: torch's environment variable
    TORCHINDUCTOR_CACHE_DIR.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
