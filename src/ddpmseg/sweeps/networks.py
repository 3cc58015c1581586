"""The network that a sweep works on: one at a time, for two would need twice the memory."""

import gc

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
        if self._given is not None and self._given[0] == settings:
            return self._given[1]
        if self._built is not None:
            if self._built[0] == settings:
                return self._built[1]
            self._built = None
            # Networks, and Lightning's modules that had them, refer to themselves in circles, which
            # stay in memory until Python looks for them.
            gc.collect()
        network = settings.build(self.device)
        self._built = (settings, network)
        return network
