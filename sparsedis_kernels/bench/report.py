"""Rows of a benchmark as text and as JSON, with what they were measured on."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch

import sparsedis_kernels
from sparsedis_kernels import backends
from sparsedis_kernels.bench.bars import Verdict
from sparsedis_kernels.bench.measure import Row
from sparsedis_kernels.training.report import version_of, versions

PEERS = ("celer", "himalaya", "jax", "jaxopt", "scikit-learn", "scipy", "skglm")  # packages
HEADER = (
    f"{'provider':28}{'median':>12}{'20 to 80 %':>26}{'GB/s':>9}{'of a copy':>11}"
    f"{'of a product':>14}{'peak MB':>10}"
)


def lines(rows: Iterable[Row]) -> Iterator[str]:
    """One line a row, under `HEADER`."""
    for row in rows:
        if row.seconds is None or row.low is None or row.high is None:
            yield f"  {row.provider:26}{row.status}: {row.note}"
            continue
        spread = f"{time_text(row.low)} to {time_text(row.high)}"
        product = "" if row.product_fraction is None else f"{row.product_fraction:.0%}"
        peak = "" if row.peak_bytes is None else f"{1e-6 * row.peak_bytes:.1f}"
        yield (
            f"  {row.provider:26}{time_text(row.seconds):>12}{spread:>26}{row.gb_per_s:>9.1f}"
            f"{row.copy_fraction:>11.0%}{product:>14}{peak:>10}"
        )


def save(
    about: Mapping[str, object], rows: Iterable[Row], verdicts: Iterable[Verdict], path: Path
) -> None:
    """Write rows and verdicts as JSON, after the command and the machine, which `about` holds."""
    document = {
        **about,
        "rows": [asdict(row) for row in rows],
        "bars": [{**asdict(verdict), "passed": verdict.passed} for verdict in verdicts],
    }
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def machine(device: torch.device) -> dict[str, object]:
    """The device, threads, versions and commit; what cannot be known is None."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "device_type": device.type,
        "backend": backends.REQUESTED or "automatic",
        "threads": torch.get_num_threads(),
        "versions": {
            **versions(),
            "cuda": torch.version.cuda,
            **{package: version_of(package) for package in PEERS},
        },
        "commit": commit(Path(sparsedis_kernels.__file__).parent),
    }


def commit(package: Path) -> str | None:
    """The commit of a package that git tracks, with "-dirty" if files differ; else None."""
    # A package installed under a clone is not of it: only what git tracks has its commit.
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py")
    return tracked and _git(
        package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"
    )


def _git(folder: Path, *args: str) -> str | None:
    command = ["git", "-C", str(folder), *args]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or not a clone
        return None
    return result.stdout.strip()


def _processor() -> str:
    """The CPU's name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def time_text(seconds: float) -> str:
    """Seconds in a unit that suits them."""
    return f"{1e6 * seconds:.1f} us" if seconds < 1e-3 else f"{1e3 * seconds:.2f} ms"
