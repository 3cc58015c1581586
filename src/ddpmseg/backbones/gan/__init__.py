"""The encoder of e4e, and the generator of StyleGAN2 that it inverts."""

from ddpmseg.lazy import lazy_attributes

__getattr__ = lazy_attributes(
    __name__, {"GanEncoderBackbone": "encoder", "GanInversionBackbone": "inversion"}
)
