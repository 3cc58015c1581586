"""What a run or a sweep depends on, from its settings and the files they name."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from ddpmseg.backbones.settings import BackboneConfig
from ddpmseg.composition.resolve import ResolvedRun
from ddpmseg.config import RESULTS_VERSION, TrainConfig, run_request
from ddpmseg.data.class_table import ClassTable
from ddpmseg.data.images import IMAGE_SUFFIXES
from ddpmseg.data.survey import known_survey
from ddpmseg.heads.base import TrainedHead
from ddpmseg.heads.settings import HeadConfig
from ddpmseg.io.digests import known_sha256
from ddpmseg.records.identity import Identity
from ddpmseg.records.labelled_samples import images_folder
from ddpmseg.segmenters.deeplab import find_weights


def settings_identity(config: TrainConfig) -> Identity:
    """As far as it is known before any file is read."""
    return Identity(run_request(OmegaConf.structured(config)))


def run_identity(run: ResolvedRun, images_sha256: str | None = None) -> Identity:
    """Of a run of any task, whose files must be there.

    images_sha256: digest of the labelled images, if they are read already. Raises DataError for a
    damaged image, CheckpointError for missing weights.
    """
    config = run.config
    settings = settings_identity(config).settings
    machine = {"results_version": RESULTS_VERSION, "device": run.device.type}
    if config.task == "pretrain":
        digests = {"listing of the images": _listing(config.pretrain.images)}
        return Identity(settings, machine | {"training_precision": run.precision}, digests)
    if images_sha256 is None:
        images_sha256 = known_survey(run.dataset).sha256
    classes = config.dataset.class_table()
    digests = {"images": images_sha256, "classes": classes_sha256(classes)}
    if config.task == "distill":
        arithmetic = machine | {"training_precision": run.precision}
        arithmetic["num_classes"] = classes.num_classes
        weights = find_weights(config.segmenter.architecture, config.segmenter.checkpoint)
        digests["weights"] = "" if weights is None else known_sha256(weights)
        digests["segmenter_images"] = _content(images_folder(config.segmenter))
        return Identity(settings, arithmetic, digests)
    digests["weights"] = weights_sha256(config.backbone)
    arithmetic = readout_arithmetic(
        config.backbone, config.head, run.device, run.precision, classes.num_classes
    )
    return Identity(settings, arithmetic, digests)


def readout_arithmetic(
    backbone: BackboneConfig,
    head: HeadConfig,
    device: torch.device,
    precision: str,
    num_classes: int,
) -> dict[str, Any]:
    """`Identity.arithmetic` of a head on the maps of a network, in a run or in a cell.

    precision: of the training of the head.
    """
    protocol: Mapping[str, Any] = {}
    if issubclass(head.head_type(), TrainedHead) and not head.comes_fitted:
        protocol = {f"protocol {key}": n for key, n in asdict(head.build_protocol()).items()}
    return {
        "results_version": RESULTS_VERSION,
        "device": device.type,
        "backbone_precision": backbone.precision_on(device),
        "training_precision": precision,
        "num_classes": num_classes,
        **protocol,
    }


def weights_sha256(backbone: BackboneConfig) -> str:
    """SHA-256 of the network's weight file; empty for a network without."""
    path = backbone.weight_file()
    return "" if path is None else known_sha256(path)


def classes_sha256(classes: ClassTable) -> str:
    """SHA-256 of what a class table says of its classes."""
    text = json.dumps(classes.record(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _content(folder: Path) -> str:
    """SHA-256 of the names and contents of all files directly in a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if not path.name.startswith("."):
            digest.update(f"{path.name} {known_sha256(path)}\n".encode())
    return digest.hexdigest()


def _listing(images: str | None) -> str:
    """SHA-256 of the names and sizes of unlabelled images: there may be millions of them."""
    if images is None:
        return ""
    path = Path(images).expanduser()
    if path.is_file():
        return known_sha256(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in IMAGE_SUFFIXES:
            digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
    return digest.hexdigest()
