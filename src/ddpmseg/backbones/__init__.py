"""Frozen networks that turn an image at a timestep into native feature maps."""
