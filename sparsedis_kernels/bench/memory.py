"""Peak memory of a call."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

import torch

from sparsedis_kernels.bench.case import Call

_PROCESS = Path("/proc/self")


def peak_bytes(call: Call, device: torch.device) -> int | None:
    """The most memory a call holds at a time, above what was held before; None if unknown.

    On a GPU what PyTorch allocates, on a CPU (Linux only) the process's resident memory.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    return _resident_peak(call) if sys.platform == "linux" else None


def _resident_peak(call: Call) -> int | None:
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else the call is served from what earlier ones freed
        (_PROCESS / "clear_refs").write_text("5")  # the peak starts again from here
    except (AttributeError, OSError):  # not glibc, or a sandbox
        return None
    before = _status("VmRSS")
    call()
    return max(_status("VmHWM") - before, 0)


def _status(name: str) -> int:
    text = (_PROCESS / "status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0
