"""Tensors larger than memory, of which only the pages that are touched exist.

For index arithmetic beyond 32 bits: a kernel's last programs run on such a tensor, with
`blocks=` of Kernel.launch.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

_MAP_NORESERVE = 0x4000  # Linux; the mmap module has it from Python 3.13 on


def sparse_tensor(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A CPU tensor of zeros over an anonymous mapping, which goes when the tensor goes.

    Read or write a few elements of it only, never the whole: what is touched becomes resident, also
    by reading.
    """
    count = math.prod(shape)
    if not count:
        return torch.zeros(shape, dtype=dtype)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    memory = mmap.mmap(-1, count * dtype.itemsize, flags=flags)
    memory.madvise(mmap.MADV_NOHUGEPAGE)  # else one element could make 2 MiB resident
    return torch.frombuffer(memory, dtype=dtype, count=count).view(tuple(shape))
