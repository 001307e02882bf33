"""The report of a comparison: its numbers as JSON, pictures, and a page that holds all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from sparsedis_kernels.training.loop import Arm
from sparsedis_kernels.training.report.document import document
from sparsedis_kernels.training.report.figures import draw_figures
from sparsedis_kernels.training.report.page import page
from sparsedis_kernels.training.report.table import table_rows
from sparsedis_kernels.training.report.versions import version_of, versions

__all__ = ["table_rows", "version_of", "versions", "write_report"]


def write_report(arms: Mapping[str, Arm], out: Path) -> Path:
    """Write ``report.json``, its pictures and ``report.html`` to the folder `out`, for two arms.

    ``report.html`` is one file: it holds the pictures, and loads nothing.

    Returns:
        The path of ``report.json``: settings, versions, and for each arm its numbers.

    Raises:
        ValueError: a number is NaN or infinite, which JSON does not know.
        ImportError: matplotlib or, where the factors are known, scikit-learn is not installed.
    """
    report = document(arms)
    text = json.dumps(report, indent=1, allow_nan=False)
    (out / "report.json").write_text(text + "\n")
    pictures = draw_figures(arms, out)
    html = page(list(arms), table_rows(arms), report, pictures)
    (out / "report.html").write_text(html, encoding="utf-8")
    return out / "report.json"
