"""The image itself as the only feature: a control."""

from ddpmseg.lazy import lazy_attributes

__getattr__ = lazy_attributes(__name__, {"PixelsBackbone": "backbone"})
