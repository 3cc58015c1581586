"""The schema under `conf/segmenter/`."""

from dataclasses import dataclass


@dataclass
class SegmenterConfig:
    """A network that segments whole images, and its training on images that an ensemble labelled
    (`task=distill`)."""

    name: str = "dataset_ddpm"
    """Shown in tables and output folders. 'dataset_ddpm...' and 'dataset_gan...' stand there beside
    the paper's DatasetDDPM and DatasetGAN."""
    architecture: str = "resnet101"
    """DeepLabV3 with the body of this network: 'resnet101' (the paper), 'resnet50', 'mobilenet'."""
    checkpoint: str | None = None
    """The body's first weights: a file of the network that ImageNet trained, or 'random'. null: the
    one that torchvision publishes, where torch keeps its downloads; it is not fetched."""
    images: str | None = None
    """Folder of labelled images, as `ddpmseg sample --labels` leaves it."""
    num_images: int | None = None
    """Use the first in file order only; null: all."""
    filter_out: float = 0.1
    """Share of the images left out by their uncertainty, the most certain ones among them."""
    drop_certain: int | None = None
    """How many of these are the most certain; null: 30 in 50,000, as the original."""
    num_epochs: int = 20
    batch_size: int = 8
    learning_rate: float = 1e-3
    num_workers: int = 0
    """Processes that read images. Each keeps up to 1 GiB of them in memory."""
    checkpoint_every: int = 500
    """Steps; after every epoch too."""
    keep_epochs: bool = False
    """Keep the weights of every epoch in epochs/ when the run is finished, not the best alone."""
