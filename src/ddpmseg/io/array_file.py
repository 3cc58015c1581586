"""NumPy arrays read from files that may be damaged or hostile."""

import zipfile
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

LARGEST = 2**31
"""Bytes that the arrays of a file may take together."""
_HEADERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}


def read_npy(path: Path) -> NDArray[Any]:
    """The array of an .npy file. Unpickles nothing and allocates no more than the file holds.

    Raises one of `ddpmseg.io.damage.DAMAGE`.
    """
    with path.open("rb") as file:
        _check_header(file, path.stat().st_size)
    return np.load(path, allow_pickle=False)


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file, as `read_npy`."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > LARGEST:
            raise ValueError(f"its arrays take more than {LARGEST} bytes")
        for member in members:
            with archive.open(member) as file:
                _check_header(file, member.file_size)
    with np.load(path, allow_pickle=False) as arrays:
        return {name: np.asarray(arrays[name]) for name in arrays.files}


def _check_header(file: IO[bytes], size: int) -> None:
    """Raise ValueError if an array in .npy format says that it has more than `size` bytes."""
    version = npy_format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the format .npy")
    shape, _, dtype = _HEADERS[version](file)
    if prod(shape) * dtype.itemsize > size:
        raise ValueError(f"it says that it has the shape {shape}, for which it is too short")
