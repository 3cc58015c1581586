"""Any network of timm."""

from ddpmseg.lazy import lazy_attributes

__getattr__ = lazy_attributes(__name__, {"TimmBackbone": "backbone"})
