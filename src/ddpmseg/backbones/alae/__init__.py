"""The encoder of StyleALAE."""

from ddpmseg.lazy import lazy_attributes

__getattr__ = lazy_attributes(__name__, {"AlaeBackbone": "backbone"})
