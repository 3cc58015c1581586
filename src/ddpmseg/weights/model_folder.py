"""Finds the files of a diffusers model in a folder or in the cache of the Hugging Face hub."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpmseg.errors import CheckpointError, DownloadError

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
VARIANTS = "diffusion_pytorch_model.*.safetensors"
SHARD = re.compile(r"-\d+-of-\d+")
SUFFIXES = ("safetensors", "bin")
SCHEDULER = "scheduler_config.json"
INDEX = "model_index.json"
_AUTOENCODERS = ("vae", "vqvae", "movq")
_EXPECTED = (
    f"A model is a folder with {CONFIG}, {WEIGHTS} and {SCHEDULER}, or with these files in its "
    "subfolders unet/ and scheduler/, as `save_pretrained` writes it"
)


@dataclass(frozen=True)
class ModelFolder:
    """Paths of a model's files; `weights` need not exist."""

    config: Path
    weights: Path
    scheduler: Path | None


def find_model(checkpoint: str, download: bool = False, weights: bool = True) -> ModelFolder:
    """Find the files in a folder, or of a model of the hub, 'OWNER/NAME', in the hub's cache.

    With `download`, missing files of a hub model are fetched; without `weights`, only small ones.

    Raises CheckpointError when the model does not exist, is a pickle, incomplete or a latent
    diffusion model; DownloadError when fetching fails.
    """
    root = Path(checkpoint).expanduser()
    if root.is_file():
        raise CheckpointError(
            f"`backbone.checkpoint={checkpoint}` is a file. {_EXPECTED}. A checkpoint of "
            "guided_diffusion is for backbone=guided_diffusion_64 or _256, or becomes such a "
            "folder by `ddpmseg weights convert-diffusers`."
        )
    if not root.is_dir():
        root = _from_hub(checkpoint, download, weights)
    model = _files_of(root)
    if weights:
        _check_weights(model)
    return model


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises CheckpointError for any other file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' cannot be read: {error}. Fetch it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"'{path}' must hold a JSON object. Fetch it again.")
    return content


def _files_of(root: Path) -> ModelFolder:
    unet = root / "unet" if (root / "unet").is_dir() else root
    if not (unet / CONFIG).is_file():
        raise CheckpointError(f"'{unet / CONFIG}' does not exist. {_EXPECTED}.")
    # `root` is the pipeline's folder, or its unet/.
    pipeline = root.parent if root.name == "unet" else root
    _check_not_latent(pipeline)
    paths = (pipeline / "scheduler" / SCHEDULER, pipeline / SCHEDULER, root / SCHEDULER)
    scheduler = next((path for path in paths if path.is_file()), None)
    return ModelFolder(unet / CONFIG, _weights_in(unet), scheduler)


def _weights_in(folder: Path) -> Path:
    """The file of the weights; the only variant where there is no other, as that in 16 bits."""
    usual = folder / WEIGHTS
    variants = [path for path in folder.glob(VARIANTS) if not SHARD.search(path.name)]
    return variants[0] if len(variants) == 1 and not usual.is_file() else usual


def _check_not_latent(root: Path) -> None:
    """Raise CheckpointError for the pipeline of a latent diffusion model."""
    parts = read_json(root / INDEX) if (root / INDEX).is_file() else {}
    for part in _AUTOENCODERS:
        if part in parts or (root / part / CONFIG).is_file():
            raise CheckpointError(
                f"'{root}' is a latent diffusion model (it has a '{part}'): its UNet sees codes, "
                "not images. Give a UNet2DModel trained on RGB images."
            )


def _check_weights(model: ModelFolder) -> None:
    if model.weights.is_file():
        return
    folder = model.weights.parent
    others = sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix in (".bin", ".pt", ".pth", ".ckpt") or ".safetensors" in path.name
    )
    if not others:
        raise CheckpointError(f"'{model.weights}' does not exist. {_EXPECTED}.")
    names = [re.fullmatch(r"diffusion_pytorch_model\.(\w+)\..*", name) for name in others]
    found = next((name[1] for name in names if name and name[1] not in SUFFIXES), None)
    variant = "" if found is None else f", variant='{found}'"
    raise CheckpointError(
        f"'{folder}' holds {', '.join(others)}, but no {WEIGHTS}, the only weights that are read. "
        "A .bin file is a pickle, which can execute code when it is read; other names are shards "
        f"or variants. Where the model is trusted, `UNet2DModel.from_pretrained(FOLDER{variant})"
        ".save_pretrained(FOLDER, safe_serialization=True, max_shard_size='100GB')` writes it."
    )


def _from_hub(checkpoint: str, download: bool, weights: bool) -> Path:
    """The folder of a hub model in the hub's cache."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", checkpoint):
        raise CheckpointError(
            f"`backbone.checkpoint={checkpoint}`: no such folder, nor a model's name on the "
            f"Hugging Face hub (OWNER/NAME). {_EXPECTED}."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    patterns = [*_paths(CONFIG), *(_paths(WEIGHTS) if weights else ())]
    patterns += [INDEX, SCHEDULER, f"scheduler/{SCHEDULER}"]
    alternative = (
        f"Or fetch its files elsewhere and name their folder in `backbone.checkpoint`. {_EXPECTED}."
    )
    try:
        root = Path(snapshot_download(checkpoint, allow_patterns=patterns, local_files_only=True))
        if _has(root, CONFIG) and (not weights or _has(root, WEIGHTS) or not download):
            return root
    except LocalEntryNotFoundError:
        pass
    if not download:
        raise CheckpointError(
            f"`backbone.checkpoint={checkpoint}`: no such folder, and the cache of the Hugging "
            f"Face hub has no such model. `backbone.download=true` fetches it. {alternative}"
        )
    try:
        return Path(snapshot_download(checkpoint, allow_patterns=patterns))
    except (OSError, HfHubHTTPError, OfflineModeIsEnabled) as error:
        reason = str(error).strip().splitlines()[0]
        raise DownloadError(
            f"`backbone.checkpoint={checkpoint}` cannot be fetched from the Hugging Face hub "
            f"({reason}). {alternative}"
        ) from error


def _paths(name: str) -> Sequence[str]:
    """Paths that a file of the UNet may have in a model's folder."""
    return name, f"unet/{name}"


def _has(root: Path, name: str) -> bool:
    return any((root / path).is_file() for path in _paths(name))
