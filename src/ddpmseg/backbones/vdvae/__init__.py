"""The very deep VAE."""

from ddpmseg.lazy import lazy_attributes

__getattr__ = lazy_attributes(__name__, {"VdvaeBackbone": "backbone"})
