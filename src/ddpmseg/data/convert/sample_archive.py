"""Synthetic images with labels in one .npz, the format that the paper's authors publish."""

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8

from ddpmseg.errors import DataError

IMAGES, MASKS = "arr_0", "arr_1"
LAST = {3: "arr_2", 4: "arr_3"}
"""Number of arrays -> the last, of uncertainties; a GAN's archive also holds latents."""
READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class SampleArchive:
    """Images uint8 (n, s, s, 3), masks uint8 (n, s, s) and uncertainties (n,) in file `path`.

    One image at a time is in memory: 50,000 take 13 GB. Nothing in the file is executed. Raises
    DataError for a file that is damaged or holds other arrays.

    Source: the original's DatasetDDPM, `samples_256x256x3.npz`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._read() as archive:
            names = archive.namelist()
            if len(names) not in LAST:
                raise self._wrong(f"holds {len(names)} arrays")
            self._last = LAST[len(names)]
            images, masks, uncertainties = (
                self._header(archive, name)[0] for name in (IMAGES, MASKS, self._last)
            )
        self.num, self.image_size = (*masks, 0, 0)[:2]
        square = (self.num, self.image_size, self.image_size)
        if (images, masks, uncertainties) != ((*square, 3), square, (self.num,)):
            raise self._wrong(f"holds arrays of shapes {images}, {masks} and {uncertainties}")

    def uncertainties(self) -> Float64[np.ndarray, " n"]:
        with self._read() as archive, self._array(archive, self._last) as (file, _, dtype):
            return np.frombuffer(file.read(), dtype).astype(np.float64)

    def __iter__(self) -> Iterator[tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s"]]]:
        """Yield image and mask of every sample, in order."""
        with (
            self._read() as archive,
            self._array(archive, IMAGES) as images,
            self._array(archive, MASKS) as masks,
        ):
            for _ in range(self.num):
                yield self._row(*images), self._row(*masks)

    def _row(self, file: zipfile.ZipExtFile, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        content = file.read(math.prod(shape[1:]) * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(shape[1:])

    def _header(self, archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
        with self._array(archive, name) as (_, shape, dtype):
            return shape, dtype

    @contextmanager
    def _array(
        self, archive: zipfile.ZipFile, name: str
    ) -> Iterator[tuple[zipfile.ZipExtFile, tuple[int, ...], np.dtype]]:
        """An array's file at its first value, its shape and its type."""
        with archive.open(f"{name}.npy") as file:
            assert isinstance(file, zipfile.ZipExtFile)
            shape, by_column, dtype = READERS[np.lib.format.read_magic(file)](file)
            expected = "f" if name == self._last else "u"
            if by_column or dtype.kind != expected or (expected == "u" and dtype.itemsize != 1):
                raise self._wrong(f"holds {name} as {dtype}")
            yield file, shape, dtype

    @contextmanager
    def _read(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(
                f"'{self.path}' is damaged, or no .npz of synthetic images ({error}). Fetch it "
                "again."
            ) from error

    def _wrong(self, problem: str) -> DataError:
        return DataError(
            f"'{self.path}' {problem}; expected are images uint8 (n, s, s, 3), masks uint8 "
            "(n, s, s) and, last, uncertainties (n,), as in samples_256x256x3.npz of the paper's "
            "authors."
        )
