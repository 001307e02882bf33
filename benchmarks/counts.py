"""Instructions of the kernels a task, which no load on the machine moves.

``python -m benchmarks.counts`` compiles the torch-free core with the flags of the package's AVX2
kernels (valgrind knows no wider instruction set) and counts with callgrind; ``--save`` keeps the
counts by commit in docs/evidence/counts.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.counted import CASES, NOTHING, TASKS
from tests.core.build import CSRC, build, compiler

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs/evidence/counts.json"
COUNTED, COUNTER = (Path(__file__).with_name(name) for name in ("counted.py", "counter.c"))


def per_task(module: Path, cases: Sequence[str]) -> dict[str, int]:
    """Instructions of a call of each case, over its tasks."""
    with tempfile.TemporaryDirectory() as folder:
        counter = Path(folder, "counter.so")
        _run([compiler(), "-xc", "-shared", "-fPIC", str(COUNTER), "-o", str(counter)])
        tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no"]
        tool += [f"--callgrind-out-file={folder}/out"]
        _run([*tool, sys.executable, str(COUNTED), str(module), str(counter), *cases, NOTHING])
        counts = dict(_dumped(path.read_text()) for path in Path(folder).glob("out.*"))
    return {case: (counts[case] - counts[NOTHING]) // TASKS for case in cases}


def _run(command: list[str]) -> None:
    fixed = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=os.environ | fixed, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"counts: {done.stderr.strip()[-2000:]}")


def _dumped(text: str) -> tuple[str, int]:
    """The name and the number of instructions of a dump."""
    (name,) = re.findall(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
    (count,) = re.findall(r"^(?:summary|totals): (\d+)$", text, re.MULTILINE)[:1]
    return name, int(count)


def built() -> Path:
    """The core with the flags that are shipped, or one sentence about what is missing."""
    if shutil.which("valgrind") is None:
        raise SystemExit("counts: valgrind is not installed (Debian: apt install valgrind)")
    try:
        return build("avx2", ROOT / "build" / "counts")
    except pytest.skip.Exception as reason:  # how the tests take it that there is no compiler
        raise SystemExit(f"counts: {reason.msg}") from None


def commit() -> str:
    """The commit of the sources that are counted; they may not differ from it."""
    if _git("status", "--porcelain", "--", str(CSRC)):
        raise SystemExit("counts --save: csrc differs from its commit: commit it first")
    return _git("rev-parse", "HEAD")


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help=f"keep them in {KEPT.name}")
    save = parser.parse_args().save
    under = commit() if save else None
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    last = next((counts for name, counts in reversed(kept.items()) if name != under), {})
    counts = per_task(built(), [case for case in CASES if case != NOTHING])
    for case, count in counts.items():
        change = f"{count / last[case] - 1:+.2%}" if case in last else ""
        print(f"{case:20}{count:>12,} instructions a task {change:>9}")
    if under:
        kept.pop(under, None)  # the last entry is the last that was counted
        KEPT.write_text(json.dumps({**kept, under: counts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
