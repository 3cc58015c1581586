"""The schema under every config group, so that a typo or a wrong type fails at composition."""

import hashlib
import json
import sys
from dataclasses import dataclass, field, fields
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict

from ddpmseg.backbones.unet import UNetFlags
from ddpmseg.errors import ConfigError
from ddpmseg.heads.official import ensemble_sha256


@dataclass
class DownloadConfig:
    """How files come to be where a part looks for them: settings of a group, not of the part."""

    download: bool = False
    """Fetch what is not there yet at the first use."""
    url: str | None = None
    """Of a .tar archive (dataset) or of the weight file (backbone); null: none is known."""
    sha256: str | None = None
    """64 hex digits of that file; null: those of the first download count from then on."""
    terms: str | None = None
    """Under which it may be used; told before the first byte is fetched."""


@dataclass
class DatasetConfig:
    """Labelled images: which, how many, at what size."""

    _target_: str = MISSING
    name: str = MISSING
    classes: str = MISSING
    """A class table shipped with the package, or the path of a YAML file like those."""
    image_size: int = 64
    """Side in pixels at which images are seen and masks are predicted."""
    num_labelled: int | None = None
    """Labelled training images to use; null: the number the paper used, or all there are."""
    subset_seed: int | None = None
    """Seed that orders the training images; null: file order. Smaller subsets lie inside larger."""
    num_test: int | None = None
    """Test images to use, the first in file order; null: all."""
    tiny_annotations: str = "scaled"
    """What becomes of a class that covers under 20 pixels (at 256x256) of a training image:
    'scaled' ignores it there, the 20 scaled to the image's area; 'reference' ignores it under 20
    pixels at any size, as the original code; 'keep' trains on it."""


@dataclass
class FolderDatasetConfig(DownloadConfig, DatasetConfig):
    """Photographs and masks in folders."""

    _target_: str = "ddpmseg.data.labelled.LabelledFolder"
    root: str = MISSING
    train_images: str = "real/train"
    """Folders below `root`. Masks lie beside the images, or in the two `*_masks` folders."""
    train_masks: str | None = None
    test_images: str = "real/test"
    test_masks: str | None = None
    center_crop: bool = False
    split: str = "official"
    """'official': the folders as they are; 'random': their images dealt anew, in the same numbers,
    as behind the paper's standard deviations."""
    split_seed: int = 0
    """Draws the random split."""


@dataclass
class PoniesConfig(DatasetConfig):
    """The procedural set; nothing is read from disk."""

    _target_: str = "ddpmseg.data.labelled.Ponies"
    seed: int = 0


@dataclass
class BackboneConfig:
    """The frozen network."""

    _target_: str = MISSING
    name: str = MISSING


@dataclass
class GuidedDiffusionConfig(DownloadConfig, BackboneConfig):
    """Any UNet of guided_diffusion."""

    _target_: str = "ddpmseg.backbones.guided_diffusion.GuidedDiffusionBackbone"
    checkpoint: str = MISSING
    """A .pt or .safetensors file with a bare state dict, 'bundled:NAME', or 'random'."""
    precision: str = "auto"
    """'32', 'bf16', '16' (float16), or 'auto': the fastest the device computes natively."""
    compile: bool = False
    """Run the network through torch.compile: faster passes for a minute or more of compiling, once
    per network and machine. Pays from about a thousand passes on a CPU."""
    seed: int = 0
    """Draws the weights of checkpoint=random."""
    unet: UNetFlags = field(default_factory=UNetFlags)


@dataclass
class PixelsConfig(BackboneConfig):
    """The image itself as the only feature: a control."""

    _target_: str = "ddpmseg.backbones.pixels.PixelsBackbone"
    image_size: int = 64


@dataclass
class FeaturesConfig:
    """Which maps make a pixel's vector."""

    blocks: list[int] = field(default_factory=list)
    timesteps: list[int] = field(default_factory=list)
    hook: str = "output"
    """Read a block's 'output' (the paper) or its 'input' (previous block and skip connection)."""
    noise: str = "shared"
    """'shared': one tensor for all images and timesteps (the paper); 'timestep': one for each
    timestep; 'image': one for each image; 'fresh': one for each image and timestep."""
    batch_size: int = 24
    """(image, timestep) pairs per forward pass."""
    cache_gb: float = 0.0
    """Keep native maps below `paths.cache_dir`, so that a later run of `train.py` over the same
    images, network and timesteps needs no forward passes; at most this many GB (10^9 bytes), the
    least recently used go first. 0: keep nothing. Results are the same, and so is the run's key."""


@dataclass
class HeadConfig:
    """The ensemble that reads classes out of pixel vectors."""

    members: int = 10
    hidden: list[int] | None = None
    """Hidden widths; null: [128, 32] under 30 outputs, else [256, 128]; []: a linear head."""
    protocol: str = "fast"
    """Training recipe: 'paper' (the original's) or 'fast'."""
    vote: str = "hard"
    """'hard': majority of the members' labels (the paper); 'soft': of their mean probability."""
    max_steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    """These three, where given, replace the protocol's own."""
    checkpoint: str | None = None
    """Folder of an ensemble in the original code's files (model_0.pth, ...): its first `members`
    are tested, and nothing is trained. null: train."""
    checkpoint_sha256: str | None = None
    """Computed, not given: a digest of these files. So other files in the same folder make another
    run, and the results of the two are never taken for each other's."""


@dataclass
class ClustersConfig:
    """The k-means maps of a sweep's report (paper, figure 4)."""

    k: int = 5
    images: int = 3
    """Test images shown, the first in file order; 0 leaves the maps out."""
    blocks: list[int] | None = None
    """null: those at the relative depth of the paper's blocks 6, 8, 10, 12 of 18."""
    timesteps: list[int] | None = None
    """null: those of the grid nearest to the paper's 50, 200, 400, 600, 800."""


@dataclass
class SweepSettings:
    """The grid of cells, the probe of a cell, and what is shown of them."""

    blocks: list[int] | None = None
    """Decoder blocks, 0 = deepest; null: all the backbone has."""
    timesteps: list[int] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    """One probe each: its first weights and the pixels it sees. Several give error bars."""
    head: HeadConfig = MISSING
    """The probe of a cell; a single member, its seed taken from `sweep.seeds`."""
    hook: str = "output"
    noise: str = "shared"
    batch_size: int = 24
    """These three as in `features`."""
    controls: list[str] = field(default_factory=lambda: ["pixels", "random"])
    """'pixels': a probe on the colours; 'random': the same network untrained, all blocks at the
    smallest timestep."""
    clusters: ClustersConfig = field(default_factory=ClustersConfig)
    num_examples: int = 4
    """Test images whose predicted masks every cell keeps, the first in file order."""
    dry_run: bool = False
    """List the cells and whether they are done; compute nothing."""


@dataclass
class PretrainConfig:
    """Training of a diffusion model on unlabelled images (`task=pretrain`)."""

    images: str | None = None
    """Folder or .zip of images; null: scenes of the ponies' 'pretrain' split."""
    num_images: int = 12000
    """Scenes to draw where `images` is null."""
    center_crop: bool = False
    cache_images: bool = True
    """Keep decoded images in memory: N * 3 * size * size bytes."""
    num_steps: int = 100_000
    batch_size: int = 16
    learning_rate: float = 4e-4
    weight_decay: float = 0.0
    warmup_steps: int = 200
    decay_share: float = 0.3
    """Share of all steps, at the end, over which the learning rate falls to zero."""
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    horizontal_flips: bool = True
    compile: bool = False
    num_workers: int = 0
    checkpoint_every: int = 500
    sample_every: int = 2000
    num_samples: int = 16
    sample_steps: int = 50


@dataclass
class TrainerConfig:
    """Where and how precisely to compute (Lightning's Trainer)."""

    accelerator: str = "auto"
    devices: int = 1
    """How many, of one machine. More than one: a process for each, which extracts, tests or
    pretrains on its share; the results are those of one device. In a multirun only one."""
    precision: str = "auto"
    """Lightning's precision of the head or the pretraining ('32-true', 'bf16-mixed', ...). 'auto':
    'bf16-mixed' where the device computes it natively, but '32-true' for head.protocol=paper.
    The frozen backbone has its own `backbone.precision`."""
    log_every_n_steps: int = 50
    resume: bool = True
    """Go on from the checkpoint of an interrupted run in the same output folder."""


@dataclass
class LoggerConfig:
    """Where Lightning's metrics go besides `metrics.jsonl`."""

    kind: str = "none"
    """'none', 'csv' (csv/metrics.csv in the output folder) or 'wandb'."""
    project: str = "ddpmseg"
    """W&B project."""
    mode: str = "online"
    """Of W&B: 'online', 'offline' (upload later with `wandb sync`) or 'disabled'."""


@dataclass
class PathsConfig:
    output_dir: str = MISSING
    overwrite: bool = False
    """Replace the results of an earlier run in `output_dir`."""
    cache_dir: str = "~/.cache/ddpmseg"
    """What later runs can use again and nobody misses: native maps, in `maps/`, where
    `features.cache_gb` allows for them, what `backbone.compile` compiled, in `kernels/`, and
    fetched archives of datasets, in `downloads/`.
    $DDPMSEG_CACHE, where it is set, is the default."""


@dataclass
class TrainConfig:
    """Root of `conf/train.yaml`."""

    task: str = "segment"
    """'segment': train a head and test it; 'pretrain': train a diffusion model."""
    seed: int = 0
    dataset: DatasetConfig = MISSING
    backbone: BackboneConfig = MISSING
    features: FeaturesConfig = MISSING
    head: HeadConfig = MISSING
    pretrain: PretrainConfig = MISSING
    trainer: TrainerConfig = MISSING
    logger: LoggerConfig = MISSING
    paths: PathsConfig = MISSING


@dataclass
class SweepConfig:
    """Root of `conf/sweep.yaml`."""

    seed: int = 0
    """Draws the noise of x_t, the same for all probes."""
    dataset: DatasetConfig = MISSING
    backbone: BackboneConfig = MISSING
    sweep: SweepSettings = MISSING
    trainer: TrainerConfig = MISSING
    paths: PathsConfig = MISSING


def schema_of(target: str) -> type[DatasetConfig] | type[BackboneConfig]:
    """The dataclass under the group that builds `target`; ConfigError where there is none."""
    schemas = (FolderDatasetConfig, PoniesConfig, GuidedDiffusionConfig, PixelsConfig)
    for schema in schemas:
        if schema._target_ == target:
            return schema
    raise ConfigError(
        f"`_target_: {target}` is unknown; allowed are {', '.join(s._target_ for s in schemas)}."
    )


TRANSFER = tuple(field.name for field in fields(DownloadConfig))
HOW = (
    *((group, key) for group in ("dataset", "backbone") for key in TRANSFER),
    ("backbone", "compile"),
    ("features", "cache_gb"),
    ("paths", "cache_dir"),
)
"""Keys that decide how something is computed, not what."""


def run_request(cfg: DictConfig) -> dict[str, Any]:
    """All that decides what a run computes, by dotted key."""
    groups = ["dataset", "backbone", "features", "head"]
    if cfg.task == "pretrain":
        groups = ["dataset", "backbone", "pretrain"]
    request = OmegaConf.masked_copy(cfg, ["task", "seed", *groups])
    request.trainer = {"precision": cfg.trainer.precision}
    leave_out_how(request)
    return _flat(OmegaConf.to_container(request, resolve=True))


def run_key(_root_: DictConfig) -> str:
    """Eight hex digits that identify what a run computes, whatever its paths and loggers."""
    return _digest(run_request(_root_))


def leave_out_how(cfg: DictConfig) -> None:
    """Delete the keys that decide no result."""
    for group, key in HOW:
        if group in cfg:
            with open_dict(cfg[group]):
                cfg[group].pop(key, None)


def sweep_request(cfg: DictConfig) -> dict[str, Any]:
    """All that decides what is in a cell, by dotted key: not which cells, nor what is shown."""
    request = OmegaConf.masked_copy(cfg, ["seed", "dataset", "backbone"])
    request.sweep = OmegaConf.masked_copy(cfg.sweep, ["head", "hook", "noise", "num_examples"])
    request.trainer = {"precision": cfg.trainer.precision}
    leave_out_how(request)
    return _flat(OmegaConf.to_container(request, resolve=True))


def sweep_key(_root_: DictConfig) -> str:
    """Eight hex digits that identify what the cells of a sweep hold, whichever cells it has."""
    return _digest(sweep_request(_root_))


def multirun_key() -> str:
    """Eight hex digits of the command line: a repeated multirun finds its folder again."""
    return _digest({"overrides": sorted(sys.argv[1:])})


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for key in tree for k, v in _flat(tree[key], f"{prefix}.{key}".strip(".")).items()}


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def register() -> None:
    """Make the schemas available to the defaults lists in `conf/`."""
    OmegaConf.register_new_resolver("run_key", run_key, replace=True)
    OmegaConf.register_new_resolver("sweep_key", sweep_key, replace=True)
    # Cached, so that jobs composed in another process inherit the folder of their multirun.
    OmegaConf.register_new_resolver("multirun_key", multirun_key, replace=True, use_cache=True)
    # Cached, so that a run keeps its name whatever happens to the files while it lasts.
    OmegaConf.register_new_resolver(
        "ensemble_sha256", ensemble_sha256, replace=True, use_cache=True
    )
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="sweep_schema", node=SweepConfig)
    store.store(group="dataset", name="folder_schema", node=FolderDatasetConfig)
    store.store(group="dataset", name="ponies_schema", node=PoniesConfig)
    store.store(group="backbone", name="guided_diffusion_schema", node=GuidedDiffusionConfig)
    store.store(group="backbone", name="pixels_schema", node=PixelsConfig)
    for group, node in (
        ("features", FeaturesConfig),
        ("head", HeadConfig(checkpoint_sha256="${ensemble_sha256:${.checkpoint}}")),
        ("pretrain", PretrainConfig),
        ("trainer", TrainerConfig),
        ("logger", LoggerConfig),
        ("paths", PathsConfig),
    ):
        store.store(group=group, name="schema", node=node)
