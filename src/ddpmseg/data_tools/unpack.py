"""`data unpack`: unpacks labelled synthetic images to the folder that `task=distill` reads."""

import logging
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from ddpmseg.data.class_table import load_class_table
from ddpmseg.data.convert.sample_archive import SampleArchive
from ddpmseg.errors import ConfigError
from ddpmseg.io.files import explain_unwritable, file_sha256
from ddpmseg.records.samples import SampleFolder, name_of

log = logging.getLogger(__name__)


def unpack_samples(archive: Path, output: Path, classes: str, num: int | None = None) -> list[str]:
    """Write the first `num` images (None: all) in the format of `sample`; returns lines to print.

    The same command resumes an interrupted one. Raises ConfigError for a folder with other content
    and a `num` out of range, DataError for a damaged archive and labels that are no classes.
    """
    if not archive.is_file():
        raise ConfigError(f"there is no archive '{archive}'.")
    table, samples = load_class_table(classes), SampleArchive(archive)
    num = samples.num if num is None else num
    if not 1 <= num <= samples.num:
        raise ConfigError(f"`--num {num}`: must lie in 1..{samples.num}, as many as there are.")
    source = {"archive_sha256": file_sha256(archive)}
    folder = SampleFolder(output)
    with explain_unwritable(output, "another `--output`"):
        folder.claim(source, source)
    missing = set(folder.missing(num))  # an image is written after its mask
    uncertainties = samples.uncertainties()
    with tqdm(total=num, desc="unpacked", disable=not sys.stderr.isatty()) as bar:
        for index, (image, mask) in zip(range(num), samples, strict=False):
            if index in missing:
                table.check_mask(mask, f"{archive}, image {index}")
                folder.write_mask(index, mask, table)
                folder.write_image(index, torch.from_numpy(image.copy()).permute(2, 0, 1))
            bar.update()
    folder.write_uncertainties({name_of(i): float(uncertainties[i]) for i in range(num)})
    return [f"{num} images of {samples.image_size} pixels with their labels in '{output}'"]
