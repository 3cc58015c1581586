"""Limits that hold for every setting and every option, whatever it means."""

import os
from pathlib import Path

LARGEST = 2**31 - 1
"""Of whole numbers other than seeds."""
LARGEST_SEED = 2**63 - 1
LONGEST_PART = 255
"""Bytes of a name between two slashes, on the file systems in use."""
LONGEST_PATH = 4095
"""Characters."""


def no_path(text: str) -> str:
    """Why no file can be called so, in a clause; empty where one can."""
    if "\0" in text:
        return "it holds a zero byte, which no path can"
    part = max(len(part.encode(errors="replace")) for part in text.split("/"))
    if part > LONGEST_PART:
        return f"a name in it has {part} bytes, and file systems take at most {LONGEST_PART}"
    if len(text) > LONGEST_PATH:
        return f"it has {len(text)} characters, and a path at most {LONGEST_PATH}"
    return ""


def machine_memory() -> int:
    """Bytes that the processes of this machine, or of this container, have at most."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        allowed = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        return memory
    return min(memory, int(allowed)) if allowed.isdigit() else memory


def gigabytes(count: float) -> str:
    """Bytes as a text such as '1,234 GB' (10^9 bytes)."""
    return f"{count / 1e9:,.0f} GB" if count >= 10e9 else f"{count / 1e9:.1f} GB"
