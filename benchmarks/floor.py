"""The least a forward pass could take: its operations at the rate of a matrix product."""

from collections.abc import Collection

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import alternate
from ddpmseg.backbones.guided_diffusion.unet import UNetFlags, build_unet

PER_PASS = "forward pass of one (image, t)"
PRECISIONS = {"32 bits": torch.float32, "16 bits": torch.bfloat16}


class _Reached(Exception):  # noqa: N818
    """The deepest block that is needed has been computed."""


def forward_flops(flags: UNetFlags, blocks: Collection[int], image_size: int) -> int:
    """Operations of one pass up to the deepest of `blocks`, a multiply and an add counted as two.

    Counted by torch on the package's own network without memory: nothing is computed.
    """

    def stop(module: nn.Module, inputs: object, output: object) -> None:
        raise _Reached

    with torch.device("meta"):
        network, _ = build_unet(flags)
        image, t = torch.empty(1, 3, image_size, image_size), torch.zeros(1, dtype=torch.long)
    network.eval().output_blocks[max(blocks)].register_forward_hook(stop)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        try:
            network(image, t)
        except _Reached:
            return counter.get_total_flops()
    raise AssertionError("the network never came to its decoder blocks")


def product_rates(side: int, repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Operations per second of the product of two square matrices, for each precision."""
    matrix = torch.randn(side, side, device=device)
    matrices = {bits: matrix.to(dtype) for bits, dtype in PRECISIONS.items()}
    work = {bits: lambda some=some: some @ some for bits, some in matrices.items()}
    timed = alternate(work, repeats, device)
    return {bits: [2 * side**3 / s for s in one.seconds] for bits, one in timed.items()}
