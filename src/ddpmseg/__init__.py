"""What does a diffusion model know about an image, at which decoder block and timestep?

>>> import ddpmseg
>>> backbone = ddpmseg.load_backbone("ddpm_ponies", device="cpu")
>>> images, masks = ddpmseg.ponies(4)
>>> segmenter = ddpmseg.fit(
...     backbone, images, masks, blocks=[6], timesteps=[50], members=1, max_steps=20, progress=False
... )
>>> segmenter(images).shape
(4, 64, 64)

Nothing heavy is imported before one of the names is used.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from ddpmseg.lazy import lazy_attributes

if TYPE_CHECKING:
    from ddpmseg.api.backbone import load_backbone
    from ddpmseg.api.features import Features, extract
    from ddpmseg.api.fitting import fit
    from ddpmseg.api.ponies import ponies
    from ddpmseg.api.runs import open_run
    from ddpmseg.api.segmenter import Segmenter
    from ddpmseg.api.sweeps import Sweep, open_sweep, sweep
    from ddpmseg.errors import UserError

__all__ = [
    "Features",
    "Segmenter",
    "Sweep",
    "UserError",
    "extract",
    "fit",
    "load_backbone",
    "open_run",
    "open_sweep",
    "ponies",
    "sweep",
]
__version__ = version("ddpmseg")

__getattr__ = lazy_attributes(
    __name__,
    {
        "Features": "api.features",
        "Segmenter": "api.segmenter",
        "Sweep": "api.sweeps",
        "UserError": "errors",
        "extract": "api.features",
        "fit": "api.fitting",
        "load_backbone": "api.backbone",
        "open_run": "api.runs",
        "open_sweep": "api.sweeps",
        "ponies": "api.ponies",
        "sweep": "api.sweeps",
    },
)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
