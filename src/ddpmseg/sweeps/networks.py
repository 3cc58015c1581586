"""The network that a sweep works on: one at a time, for two would need twice the memory."""

import torch

from ddpmseg.backbones.base import Backbone
from ddpmseg.backbones.settings import BackboneConfig


class NetworkSlot:
    """Builds networks with their weights on `device`, and drops each before it builds the next.

    settings, given: a network that the caller has built already, and keeps.
    """

    def __init__(
        self,
        device: torch.device,
        settings: BackboneConfig | None = None,
        given: Backbone | None = None,
    ) -> None:
        self.device = device
        self._given = None if given is None else (settings, given)
        self._built: tuple[BackboneConfig, Backbone] | None = None

    def get(self, settings: BackboneConfig) -> Backbone:
        """The network of these settings; raises as `BackboneConfig.build`."""
        for known in (self._given, self._built):
            if known is not None and known[0] == settings:
                return known[1]
        self._built = None
        network = settings.build(self.device)
        self._built = (settings, network)
        return network
