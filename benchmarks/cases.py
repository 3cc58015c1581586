"""The networks and settings that are measured, the same for both ways."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks import plain
from ddpmseg.backbones.guided_diffusion.backbone import RANDOM, GuidedDiffusionBackbone
from ddpmseg.backbones.guided_diffusion.settings import GuidedDiffusionConfig
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags, build_unet
from ddpmseg.backbones.precision import choose_precision, has_fast_bf16
from ddpmseg.features.noise import NoiseSource
from ddpmseg.randomness import keyed_generator
from ddpmseg.runtime.logs import quiet_libraries

if TYPE_CHECKING:
    from ddpmseg.config import TrainConfig

Size = Literal["tiny", "small", "full"]
CONF = Path(__file__).parents[1] / "conf"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """size: 'tiny' takes seconds and measures nothing worth knowing, 'small' is the 64-pixel model,
    'full' the paper's network at 256 pixels. results: the file that rows are appended to."""

    size: Size
    repeats: int
    device: torch.device
    results: Path


@dataclass(frozen=True)
class Case:
    """A network, a dataset and a head, as overrides of `conf/train.yaml`."""

    name: str
    overrides: tuple[str, ...]

    def config(self, *more: str) -> "TrainConfig":
        from ddpmseg.composition.plan import compose  # needs Hydra and Lightning

        return compose(CONF, [*self.overrides, *more])

    def values(self, group: str) -> dict[str, Any]:
        """The overrides of a group such as `backbone.unet` by key, read without Hydra."""
        given = [text.removeprefix(f"{group}.") for text in self.overrides if group in text]
        return {key: yaml.safe_load(value) for key, _, value in (g.partition("=") for g in given)}


TINY = Case(
    "tiny",
    (
        "backbone=random",
        "backbone.precision='32'",
        "backbone.unet.image_size=16",
        "backbone.unet.num_channels=32",
        "backbone.unet.channel_mult='1,2'",
        "backbone.unet.num_res_blocks=1",
        "backbone.unet.num_head_channels=32",
        "backbone.unet.resblock_updown=true",
        "backbone.unet.attention_resolutions='8'",
        "dataset.image_size=16",
        "dataset.num_labelled=3",
        "dataset.num_test=2",
        "features.blocks=[1,2]",
        "features.timesteps=[5,50]",
        "head.members=2",
        "head.hidden=[8]",
        "head.max_steps=6",
        "head.batch_size=64",
    ),
)
PONIES = Case("ponies, 64 px", ("dataset.num_labelled=20", "dataset.num_test=50"))
LSUN = Case(
    "LSUN size, 256 px",
    (
        "backbone=random",
        "backbone.name=lsun_size",
        "backbone.unet.image_size=256",
        "backbone.unet.num_channels=256",
        "backbone.unet.channel_mult=''",
        "backbone.unet.num_res_blocks=2",
        "backbone.unet.num_head_channels=64",
        "backbone.unet.attention_resolutions='32,16,8'",
        "backbone.unet.resblock_updown=true",
        "backbone.unet.use_scale_shift_norm=true",
        "backbone.unet.learn_sigma=true",
        "dataset.image_size=256",
        "dataset.num_labelled=20",
        "dataset.num_test=20",
        "features.blocks=[5,6,7,8,12]",
        "features.timesteps=[50,150,250]",
        # The timesteps of one image: a pass over more would hold gigabytes of skip connections.
        "features.batch_size=3",
    ),
)
HORSE = Case(
    "Horse-21's size, 256 px",
    (
        *(
            text
            for text in LSUN.overrides
            if not text.startswith(("dataset.num", "features.batch"))
        ),
        "dataset.num_labelled=30",
        "dataset.num_test=30",
        "features.batch_size=24",
    ),
)
"""The paper's network on as many images as Horse-21 has, for a GPU."""
CASES: dict[Size, Case] = {"tiny": TINY, "small": PONIES, "full": LSUN}


@contextmanager
def prepared(case: Case, options: Options, *more: str) -> "Iterator[TrainConfig]":
    """The case's configuration with weights that can be loaded; removes what it wrote for that.

    A network without trained weights gets random ones. Those that the package starts at zero, the
    last of each residual branch, are drawn from N(0, 0.02): a branch of zeros would be no test.
    """
    config = composed(case, options, *more)
    if unet_config(config).checkpoint != RANDOM:
        yield config
        return
    with TemporaryDirectory(prefix="ddpmseg_weights_") as folder:
        path = Path(folder) / "random.safetensors"
        log.info("%s: random weights", case.name)
        _write_weights(unet_config(config).unet, path)
        yield replace(config, backbone=replace(unet_config(config), checkpoint=str(path)))


def composed(case: Case, options: Options, *more: str) -> "TrainConfig":
    """The case's configuration for the chosen device; weights are not looked at."""
    quiet_libraries()
    accelerator = "gpu" if options.device.type == "cuda" else options.device.type
    return case.config(f"trainer.accelerator={accelerator}", *more)


def unet_config(config: "TrainConfig") -> GuidedDiffusionConfig:
    assert isinstance(config.backbone, GuidedDiffusionConfig)
    return config.backbone


def _write_weights(flags: UNetFlags, path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, _ = build_unet(flags)
    fill_zeros(network, keyed_generator(0, "benchmark weights"))
    save_file(network.state_dict(), path)


@torch.no_grad()
def fill_zeros(network: nn.Module, generator: torch.Generator) -> None:
    """Draw weights that are all zero from N(0, 0.02), in 32 bits on the generator's device."""
    for weight in network.parameters():
        if weight.ndim > 1 and not weight.any():
            drawn = torch.empty(weight.shape, device=generator.device)
            weight.copy_(drawn.normal_(0, 0.02, generator=generator))


def ours(
    config: "TrainConfig", device: torch.device, precision: str = "auto", compiled: bool = False
) -> GuidedDiffusionBackbone:
    """The package's backbone; 'auto' as its programs choose it."""
    backbone = unet_config(config)
    options: dict[str, Any] = {"compile": True} if compiled else {}
    return GuidedDiffusionBackbone(
        backbone.name,
        backbone.unet,
        backbone.checkpoint,
        precision=choose_precision(precision, device),
        seed=backbone.seed,
        **options,
    ).to(device)


def half_precision(device: torch.device) -> str:
    """bfloat16, but for a GPU that only emulates it."""
    return "16" if device.type == "cuda" and not has_fast_bf16(device) else "bf16"


class PlainExtractor:
    """The straightforward way on the images that a `FeatureExtractor` takes, with its noise."""

    def __init__(self, config: "TrainConfig", device: torch.device) -> None:
        backbone, self.features = unet_config(config), config.features
        self.network, self.diffusion = plain.build_network(
            backbone.unet, backbone.checkpoint, device
        )
        noise = NoiseSource("shared", config.seed, config.dataset.image_size)
        self.noise = noise("", 0)[None].to(device)

    def __call__(self, image: Tensor, blocks: Sequence[int] = ()) -> plain.Maps:
        """Maps of one uint8 image (3, s, s), of all blocks of the configuration or of some."""
        scaled = image[None].to(self.noise.device).float() / 127.5 - 1
        return plain.extract(
            self.network,
            self.diffusion,
            scaled,
            self.noise,
            blocks or self.features.blocks,
            self.features.timesteps,
        )
