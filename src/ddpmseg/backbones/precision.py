"""Chooses the precision in which a network runs."""

import torch


def choose_precision(precision: str, device: torch.device) -> str:
    """Replace 'auto' by the fastest 16-bit type of the device, or by '32' if none is faster.

    On a CPU, bfloat16 is faster if its cores have matrix units for it (AMX), or vector instructions
    that do twice the work of those for float32. On Intel's cores these do half the work (measured
    on an Emerald Rapids without AMX: 130 against 305 GFLOP/s).
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "16"
    cpu = torch.cpu.get_capabilities()
    intel = str(cpu.get("cpu_name", "")).startswith("Intel")
    if device.type == "cpu" and (cpu.get("amx_bf16") or (cpu.get("avx512_bf16") and not intel)):
        return "bf16"
    return "32"
