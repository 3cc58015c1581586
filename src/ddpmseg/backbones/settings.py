"""Base classes of the settings of backbones."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING

from ddpmseg.download.settings import DownloadConfig
from ddpmseg.errors import CheckpointError, ConfigError
from ddpmseg.settings import PartConfig, one_of
from ddpmseg.weights.keywords import BUNDLED, HUB, RANDOM

if TYPE_CHECKING:
    import torch

    from ddpmseg.backbones.base import Backbone
    from ddpmseg.backbones.guided_diffusion.flags import UNetFlags

log = logging.getLogger(__name__)

MOVED = {
    "ddpmseg.backbones.gan_encoder.GanEncoderBackbone": "ddpmseg.backbones.gan.GanEncoderBackbone",
    "ddpmseg.backbones.gan_inversion.GanInversionBackbone": (
        "ddpmseg.backbones.gan.GanInversionBackbone"
    ),
}
"""Where a class is now that version 0.1 had elsewhere, by its first `_target_`.

Runs are identified by the first name, so that a move changes neither the key of a finished run nor
the file it left.
"""
DEFAULT_FEATURES = "default_features"
"""The setting of a backbone that is no argument of its class, and decides no result by itself."""


@dataclass
class DefaultFeatures:
    """The maps that `features=default` reads of a network; see `features` for the meaning."""

    blocks: list[int] = field(default_factory=lambda: [3, 4, 5, 6, 8])
    timesteps: list[int] = field(default_factory=lambda: [50, 150, 250])
    hook: str = "output"
    batch_size: int = 24


@dataclass
class BackboneConfig(PartConfig):
    """The settings that build a frozen network.

    A network of your own needs a subclass with `_target_` and the arguments of its class, see
    docs/add_a_backbone.md. The module imports torch only when a method is called, so that
    completing a command line need not wait for it.
    """

    group: ClassVar[str] = "backbone"

    fits_float16: ClassVar[bool] = False
    """Whether all values of the network are known to stay below 65504, the largest of float16:
    'auto' then means float16 on a GPU."""

    default_features: DefaultFeatures = field(default_factory=DefaultFeatures)
    """What a pixel's vector is made of where nobody chooses: `features=default`."""

    def arguments(self) -> dict[str, Any]:
        return {k: value for k, value in super().arguments().items() if k != DEFAULT_FEATURES}

    def build(self, device: "torch.device") -> "Backbone":
        """Build the network with its weights on `device`. Raises as the network's class."""
        return self.construct().to(device)

    def precision_on(self, device: "torch.device") -> str:
        """'32', 'bf16' or '16': the precision in which the network runs on `device`."""
        return "32"

    def shape(self) -> "Backbone":
        """Build the network on the meta device, without allocating or reading weights."""
        import torch

        with torch.device("meta"):
            return self.as_untrained().construct()

    def as_untrained(self) -> "BackboneConfig":
        """The settings of the same network with random weights, if it has weights."""
        return self

    def weight_file(self) -> Path | None:
        """The file of the weights; None for a network that needs none.

        Raises CheckpointError if it does not exist, or cannot be fetched from the hub.
        """
        return None

    def unet_flags(self) -> "UNetFlags | None":
        """Flags of a guided_diffusion UNet; None for any other network.

        Only such a network can be pretrained and sample images.
        """
        return None

    def fetch(self, downloads: Path) -> None:
        raise ConfigError(f"`backbone={self.name}` needs no weight file: nothing to fetch.")


@dataclass
class WeightsConfig(DownloadConfig, BackboneConfig):
    """A network whose weights come from a file or are random.

    Its class takes the settings, with `precision` other than 'auto', and `sha256`.
    """

    noun: ClassVar[str] = "weights"
    damaged: ClassVar = CheckpointError

    checkpoint: str = MISSING
    """A weight file (.pt, .pth, .safetensors), or 'random' for an untrained network. Some networks
    accept other words, too."""
    precision: str = "auto"
    """'32', 'bf16', '16' (float16), or 'auto': the fastest the device computes natively."""
    seed: int = 0
    """Draws the weights of checkpoint=random."""

    def build(self, device: "torch.device") -> "Backbone":
        precision = self.precision_on(device)
        return self.construct(precision=precision, sha256=self.sha256).to(device)

    def precision_on(self, device: "torch.device") -> str:
        from ddpmseg.backbones.precision import choose_precision

        return choose_precision(self.precision, device, self.fits_float16)

    def as_untrained(self) -> "BackboneConfig":
        return replace(self, checkpoint=RANDOM, sha256=None)

    def check(self) -> None:
        check_precision(self.precision)

    def check_files(self) -> None:
        if self.will_fetch():
            return
        try:
            self.weight_file()
        except CheckpointError as error:
            raise CheckpointError(f"{error}{self.how_to_get()}") from error

    def weight_file(self) -> Path | None:
        from ddpmseg.weights.read import resolve_checkpoint

        return None if self.checkpoint == RANDOM else resolve_checkpoint(self.checkpoint)

    def reads_local_file(self) -> bool:
        """Whether the weights are a file of the user, not bundled and not in the hub's cache."""
        return self.checkpoint not in (RANDOM, HUB) and not self.checkpoint.startswith(BUNDLED)

    def missing(self) -> Path | None:
        if not self.reads_local_file():
            return None
        path = Path(self.checkpoint).expanduser()
        return None if path.is_file() else path

    def how_to_get(self) -> str:
        return super().how_to_get() if self.reads_local_file() else ""

    def fetch(self, downloads: Path) -> None:
        """Fetch the file `checkpoint`; an existing file is verified.

        Raises ConfigError if nothing can be fetched, DownloadError and CheckpointError as
        `ddpmseg.download.fetch.fetch`.
        """
        if self.checkpoint == HUB:
            log.info("'%s' is in the cache of the hub's client.", self.weight_file())
            return
        if not self.reads_local_file():
            BackboneConfig.fetch(self, downloads)
        from ddpmseg.download.fetch import fetch

        source, path = self.source(), Path(self.checkpoint).expanduser()
        exists = path.is_file()
        if not exists:
            self.log_terms(path)
        fetch(source, path)
        log.info("'%s' %s.", path, "exists already, as expected" if exists else "fetched")


def check_precision(precision: str) -> None:
    """Raise ConfigError for a `backbone.precision` that does not exist."""
    from ddpmseg.weights.read import PRECISIONS

    one_of("backbone.precision", precision, ("auto", *PRECISIONS))
