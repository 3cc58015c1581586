"""Chooses the precision in which a network runs."""

import torch

from ddpmseg.settings import one_of
from ddpmseg.weights.read import PRECISIONS


def choose_precision(precision: str, device: torch.device, fits_float16: bool = False) -> str:
    """Replace 'auto' by the best 16-bit type of the device, or by '32' if none is faster.

    fits_float16: no value of the network passes 65504, the largest of float16, which has three bits
    more than bfloat16. Other networks run in bfloat16, or in 32 bits.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda" and fits_float16:
        return "16"
    return "bf16" if has_fast_bf16(device) else "32"


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 faster than in float32.

    A GPU without units for it (before Ampere) emulates it, several times slower. A CPU is faster if
    its cores have matrix units for it (AMX), or vector instructions that do twice the work of those
    for float32. On Intel's cores these do half the work (measured on an Emerald Rapids without AMX:
    130 against 305 GFLOP/s).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    cpu = torch.cpu.get_capabilities()
    intel = str(cpu.get("cpu_name", "")).startswith("Intel")
    return bool(cpu.get("amx_bf16") or (cpu.get("avx512_bf16") and not intel))


def dtype_of(precision: str) -> torch.dtype:
    """The dtype that a `backbone.precision` names; 32 bits for 'auto', which no device decides.

    Raises ConfigError for another name.
    """
    one_of("backbone.precision", precision, ("auto", *PRECISIONS))
    return PRECISIONS["32" if precision == "auto" else precision]


def name_of(dtype: torch.dtype) -> str:
    """The `backbone.precision` of a network whose maps have this dtype."""
    return next(name for name, known in PRECISIONS.items() if known == dtype)
