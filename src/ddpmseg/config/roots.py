"""The schemas of the other groups, and of the two roots `conf/train.yaml` and `conf/sweep.yaml`."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from omegaconf import MISSING

from ddpmseg.backbones.settings import BackboneConfig
from ddpmseg.config.multirun import MultirunConfig
from ddpmseg.config.segmenter import SegmenterConfig
from ddpmseg.data.settings import DatasetConfig
from ddpmseg.heads.settings import HeadConfig


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
    """Keep native maps below `paths.cache_dir`, so that a later run of `train` over the same
    images, network and timesteps needs no forward passes; at most this many GB (10^9 bytes), the
    least recently used go first. 0: keep nothing. Results are the same, and so is the run's key."""
    cache_dir: str | None = None
    """Where, other than `maps/` below `paths.cache_dir`. A multirun sets this, and `cache_blocks`,
    for its jobs."""
    cache_blocks: list[int] = field(default_factory=list)
    """Blocks to keep as well whenever a pass is computed, for other runs that will read them; those
    the network has not are left out. Up to the deepest block a pass costs the same."""


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
    """Decoder blocks, 0 = deepest; null: all the backbone has, or those of `backbone.layers`."""
    timesteps: list[int] | None = None
    """null: those of `grid`. A network that knows none takes no others: its grid has one column."""
    grid_timesteps: list[int] = field(default_factory=list)
    """What `grid` chooses."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """One probe each: its first weights and the pixels it sees. Several give error bars."""
    head: HeadConfig = MISSING
    """The probe of a cell; a single member, its seed taken from `sweep.seeds`."""
    hook: str = "output"
    noise: str = "shared"
    batch_size: int = 24
    """These three as in `features`."""
    controls: list[str] = field(default_factory=lambda: ["pixels", "random"])
    """'pixels': a probe on the colours; 'random': the same network untrained, all blocks at
    `control_timestep`."""
    control_timestep: int | None = None
    """Of the control 'random'. null: the smallest timestep of the grid, in a multirun that of all
    its jobs; a later command on the same folder keeps the timestep that is there."""
    clusters: ClustersConfig = field(default_factory=ClustersConfig)
    num_examples: int = 4
    """Test images whose predicted masks every cell keeps, the first in file order."""
    dry_run: bool = False
    """List the cells and whether they are done; compute nothing."""

    def features(self, blocks: Iterable[int], timesteps: Iterable[int]) -> FeaturesConfig:
        """These maps, read as the sweep reads its own."""
        return FeaturesConfig(list(blocks), list(timesteps), self.hook, self.noise, self.batch_size)


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
    """'auto' (CUDA where there is a GPU, else the CPU), 'cpu', 'gpu', 'cuda', or 'mps', on which
    nothing has been tested."""
    devices: int = 1
    """How many, of one machine. More than one: a process for each, which extracts, tests or
    pretrains on its share; the results are those of one device. In a multirun only one."""
    precision: str = "auto"
    """Lightning's precision of the head or the pretraining ('32-true', 'bf16-mixed', ...). 'auto':
    'bf16-mixed' where the device is faster in it, but '32-true' for head.protocol=paper.
    The frozen backbone has its own `backbone.precision`."""
    log_every_n_steps: int = 50
    resume: bool = True
    """Go on from the checkpoint of an interrupted run in the same output folder."""


@dataclass
class LoggerConfig:
    """Where metrics go besides `metrics.jsonl`: any of three loggers, several at once."""

    csv: bool = False
    """csv/metrics.csv in the output folder."""
    tensorboard: bool = False
    """tensorboard/ in the output folder; needs the package tensorboard or tensorboardX."""
    wandb: bool = False
    """A run of Weights & Biases, recorded in wandb/ in the output folder. See docs/wandb.md."""
    project: str = "ddpmseg"
    entity: str | None = None
    """User or team the project belongs to; null: the account's default."""
    group: str | None = None
    """What is compared together; null: jobs of a multirun share its name, others have none."""
    tags: list[str] = field(default_factory=list)
    """Beside those every run has: dataset, backbone, head, b6, t50."""
    mode: str = "online"
    """Of W&B: 'online' (uploaded while it runs), 'offline' (`wandb sync` later) or 'disabled'.
    Either way the run is recorded on disk first and never waits for the network."""
    timeout: float = 30.0
    """Seconds that a finished run waits for the rest of its upload; `wandb sync` does what is left
    over."""
    num_images: int = 8
    """Test images shown with their masks, the first in file order; at most 24."""
    artifacts: bool = True
    """Record the head as an artifact, and images and weights by their digests."""
    runs: str = "sweep"
    """Of sweep: 'sweep' (one run for the whole grid) or 'cell' (one more for every cell)."""


@dataclass
class PathsConfig:
    output_dir: str = MISSING
    overwrite: bool = False
    """Replace the results of an earlier run in `output_dir`."""
    cache_dir: str = "~/.cache/ddpmseg"
    """What later runs can use again and nobody misses: native maps, in `maps/`, where
    `features.cache_gb` allows for them, what `backbone.compile` compiled, in `kernels/`, fetched
    archives of datasets, in `downloads/`, and corrupted test images, in `corruptions/`.
    $DDPMSEG_CACHE, where it is set, is the default."""


@dataclass
class TrainConfig:
    """Root of `conf/train.yaml`."""

    task: str = "segment"
    """'segment': train a head and test it; 'distill': train and test a network on images that an
    ensemble labelled; 'pretrain': train a diffusion model."""
    seed: int = 0
    dataset: DatasetConfig = MISSING
    backbone: BackboneConfig = MISSING
    features: FeaturesConfig = MISSING
    head: HeadConfig = MISSING
    pretrain: PretrainConfig = MISSING
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    trainer: TrainerConfig = MISSING
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    multirun: MultirunConfig = field(default_factory=MultirunConfig)
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
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    multirun: MultirunConfig = field(default_factory=MultirunConfig)
    paths: PathsConfig = MISSING
