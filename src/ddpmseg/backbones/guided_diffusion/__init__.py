"""Any UNet of openai/guided-diffusion."""

from ddpmseg.lazy import lazy_attributes

__getattr__ = lazy_attributes(__name__, {"GuidedDiffusionBackbone": "backbone"})
