"""The vision transformer of a masked autoencoder."""

from ddpmseg.lazy import lazy_attributes

__getattr__ = lazy_attributes(__name__, {"MaeBackbone": "backbone"})
