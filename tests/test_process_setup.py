"""What an entry point sets for its whole process."""

import logging
import os
import warnings
from pathlib import Path

import pytest

from ddpmseg.runtime.process_setup import process_setup


def test_kernels_are_kept_where_the_user_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "put back afterwards")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    for name in ("first", "second"):
        process_setup(str(tmp_path / name), "cpu", share_gpus=True)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "first" / "kernels")


def test_hints_of_libraries_are_silent_and_their_errors_are_not(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        process_setup(str(tmp_path), "cpu", share_gpus=False)
        warnings.warn(
            "The `srun` command is available on your system but is not used", stacklevel=1
        )
        with pytest.raises(UserWarning):
            warnings.warn("another", stacklevel=1)
    assert not logging.getLogger("pytorch_lightning").isEnabledFor(logging.INFO)
    assert logging.getLogger("pytorch_lightning").isEnabledFor(logging.ERROR)
