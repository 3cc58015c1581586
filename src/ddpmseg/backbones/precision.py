"""In how many bits a network is run."""

import torch


def choose_precision(precision: str, device: torch.device) -> str:
    """'auto' becomes the 16 bits in which the device is fastest, or '32' where none are faster.

    A CPU gains by bfloat16 where its cores multiply matrices of it (AMX), or where the vector
    instructions for it do twice the work of those for float32. On Intel's cores they do half of it
    (measured on an Emerald Rapids without AMX: 130 against 305 GFLOP/s).
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "16"
    able = torch.cpu.get_capabilities()
    intel = str(able.get("cpu_name", "")).startswith("Intel")
    if device.type == "cpu" and (able.get("amx_bf16") or (able.get("avx512_bf16") and not intel)):
        return "bf16"
    return "32"
