"""`check-backbone`: tests whether a configured backbone keeps the contract of backbones."""

import logging

from ddpmseg.backbones.contract import RULES, breaches
from ddpmseg.config import TrainConfig
from ddpmseg.runtime.device import choose_device

log = logging.getLogger(__name__)


def check_backbone(config: TrainConfig) -> bool:
    """Log which rules the network keeps at `dataset.image_size`; returns whether it keeps all.

    Raises as `BackboneConfig.build`.
    """
    backbone = config.backbone.build(choose_device(config.trainer.accelerator))
    size = config.dataset.image_size
    log.info(
        "%s: %d %ss on %s, images of %d pixels, as wide as %d channels",
        backbone.name,
        len(backbone.blocks),
        backbone.block_kind,
        backbone.device,
        size,
        max(block.channels for block in backbone.blocks),
    )
    all_breaches = breaches(backbone, size)
    for rule, check in RULES.items():
        broken = [breach.what for breach in all_breaches if breach.rule == rule]
        lines = (check.__doc__ or "").split("\n")
        log.info("%s %-14s %s", "BROKEN" if broken else "kept  ", rule, lines[0])
        for what in broken:
            log.info("       %s", what)
    return not all_breaches
