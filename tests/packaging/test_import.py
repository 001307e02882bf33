"""Importing the package costs no optional dependency, no Triton and no CUDA context."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, sys, torch
before = set(sys.modules)
import sparsedis_kernels
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps([sorted(new), torch.cuda.is_initialized()]))
"""
HEAVY = {"triton", "matplotlib", "sklearn", "scipy", "mlxtend", "tqdm", "pandas", "PIL"}


def test_import_is_lean() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    new, cuda = json.loads(result.stdout)
    assert "sparsedis_kernels" in new
    assert not HEAVY & set(new)
    assert not cuda
