"""What a W&B run of ddpmseg train shows: scores, tables, pictures, and what they were made of."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback

from ddpmseg.data.class_table import ClassTable
from ddpmseg.heads.segment import Segmentation
from ddpmseg.io.csv_cells import unguarded
from ddpmseg.records.pictures import heat
from ddpmseg.records.results import CONFUSION, PER_CLASS

if TYPE_CHECKING:
    from wandb import Run

SUMMARY = {
    "miou": "test/miou",
    "miou_present": "test/miou_present",
    "pixel_accuracy": "test/pixel_accuracy",
    "uncertainty": "test/uncertainty",
    "num_labelled": "data/num_labelled",
    "num_test": "data/num_test",
    "seconds_extract": "seconds/extract",
    "seconds_train": "seconds/train",
    "seconds_test": "seconds/test",
    "peak_rss_mb": "memory/peak_rss_mb",
}
"""Numbers of `results.csv` and their names in the summary."""
MODEL, DATASET = "model", "dataset"
"""Types of artifacts."""


class ExampleImages(Callback):
    """Show the first test images with true and predicted masks to switch on and off.

    Beside them the members' disagreement as a picture of its own, for masks have no shades. On
    several devices these are images of the first one's share.
    """

    def __init__(self, run: "Run", classes: ClassTable, count: int) -> None:
        self.run, self.classes, self.count = run, classes, count
        self.labels = dict(enumerate(classes.names))
        self.labels.setdefault(classes.ignore_label, "(ignored)")
        self.masks: list[Any] = []
        self.uncertainty: list[Any] = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: tuple[torch.Tensor, torch.Tensor, list[str]],
        *_: object,
    ) -> None:
        import wandb

        assert isinstance(outputs, Segmentation)
        images, truths, names = batch
        for index in range(min(len(names), self.count - len(self.masks))):
            photo = images[index].permute(1, 2, 0).cpu().numpy()
            masks = {"prediction": outputs.masks[index], "ground_truth": truths[index]}
            self.masks.append(
                wandb.Image(
                    photo,
                    masks={
                        layer: {"mask_data": _labels(mask), "class_labels": self.labels}
                        for layer, mask in masks.items()
                    },
                    caption=f"{names[index]}, uncertainty {float(outputs.uncertainty[index]):.3f}",
                )
            )
            shades = heat(outputs.disagreement[index].float().cpu().numpy())
            self.uncertainty.append(wandb.Image(shades, caption=names[index]))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.masks:
            self.run.log({"examples/masks": self.masks, "examples/uncertainty": self.uncertainty})


def log_results(run: "Run", folder: Path, row: Mapping[str, object]) -> None:
    """The scores, the table of classes and the confusion matrix of a finished run.

    They are those of the files in `folder`: `row` is that of `results.csv`.
    """
    run.summary.update(
        {shown: float(str(row[name])) for name, shown in SUMMARY.items() if row[name] != ""}
    )
    run.summary.update({"checkpoint_sha256": row["checkpoint_sha256"]})
    run.log(
        {
            "test/per_class": table_of(folder / PER_CLASS),
            "test/confusion": confusion_chart(folder / CONFUSION),
        }
    )


def log_artifacts(run: "Run", path: Path, data: str, data_sha256: str, row: Mapping) -> None:
    """What was trained, as a model called like its file, and by their digests the images and the
    weights it was made of."""
    names = ("miou", "miou_present", "pixel_accuracy", "blocks", "timesteps")
    log_model(run, path.stem, path, {name: row[name] for name in names if row[name] != ""})
    log_reference(run, DATASET, f"dataset-{data}", data_sha256)
    if row["checkpoint_sha256"]:
        name = f"weights-{row['backbone']}"
        log_reference(run, MODEL, name, str(row["checkpoint_sha256"]))


def log_model(run: "Run", kind: str, path: Path, facts: Mapping[str, object]) -> None:
    """A weight file, which stays where it is: W&B reads it there when the run is uploaded."""
    import wandb

    artifact = wandb.Artifact(f"{kind}-{run.id}", MODEL, metadata=dict(facts))
    artifact.add_file(str(path.resolve()), policy="immutable")
    run.log_artifact(artifact)


def log_reference(run: "Run", type: str, name: str, sha256: str) -> None:
    """Something too large, or not ours, to be uploaded: known by its digest alone.

    Recorded as an output, for W&B can link inputs only while it is connected.
    """
    import wandb

    artifact = wandb.Artifact(_artifact_name(name), type, metadata={"sha256": sha256})
    artifact.add_reference(f"sha256://{sha256}", name="sha256", checksum=False)
    run.log_artifact(artifact)


def log_picture(run: "Run", key: str, path: Path) -> None:
    """A picture file under `key`."""
    import wandb

    run.log({key: wandb.Image(str(path), caption=path.stem)})


def table_of(path: Path) -> Any:
    """A CSV file as a table; numbers become numbers, an empty cell is empty."""
    import wandb

    with path.open(encoding="utf-8", newline="") as file:
        columns, *rows = ([unguarded(cell) for cell in row] for row in csv.reader(file))
    return wandb.Table(columns=[*columns], data=[[_value(cell) for cell in row] for row in rows])


def confusion_chart(path: Path) -> Any:
    """The counts of `confusion.csv` as W&B's own chart of a confusion matrix."""
    import wandb

    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = ([unguarded(cell) for cell in row] for row in csv.reader(file))
    columns = ["Actual", "Predicted", "nPredictions"]
    data: list[Iterable[Any]] = [
        [row[0], name, int(count)]
        for row in rows
        for name, count in zip(header[1:], row[1:], strict=True)
    ]
    return wandb.plot_table(
        vega_spec_name="wandb/confusion_matrix/v1",
        data_table=wandb.Table(columns=[*columns], data=data),
        fields={name: name for name in columns},
        string_fields={"title": "Pixels by true and predicted class"},
    )


def _labels(mask: torch.Tensor) -> NDArray[np.uint8]:
    return mask.cpu().numpy().astype(np.uint8)


def _value(cell: str) -> float | int | str | None:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell or None


def _artifact_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:128]
