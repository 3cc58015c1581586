"""Any unconditional UNet2DModel of the diffusers library."""

from ddpmseg.lazy import lazy_attributes

__getattr__ = lazy_attributes(__name__, {"DiffusersBackbone": "backbone"})
