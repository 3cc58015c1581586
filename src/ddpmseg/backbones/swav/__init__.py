"""The ResNet of SwAV."""

from ddpmseg.lazy import lazy_attributes

__getattr__ = lazy_attributes(__name__, {"SwavBackbone": "backbone"})
