"""What the README shows of an experiment or of benchmarks, made from JSON in docs/evidence.

``python -m tests.evidence.readme NAME FOLDER`` takes the results of ``sparsedis reproduce NAME`` in
FOLDER into docs/evidence, and writes the README's section anew; NAME may be ``performance``, and
FOLDER what ``sparsedis bench --save`` wrote. Tables of all numbers are in docs/evidence/NAME.md.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib import import_module
from pathlib import Path

from sparsedis_kernels.evidence.experiment import Experiment, Results
from tests.evidence import performance

ROOT = Path(__file__).parents[2]
KEPT = {"report.json": "json", "report.md": "md", "figure.png": "png"}
BEGIN, END = "<!-- numbers -->\n", "<!-- end -->"


def kept(name: str) -> tuple[Experiment, Results]:
    """An experiment and its results in docs/evidence."""
    experiment = import_module(f"sparsedis_kernels.evidence.{name}").EXPERIMENT
    arms = json.loads((ROOT / f"docs/evidence/{name}.json").read_text())["arms"]
    return experiment, Results({label: arm["cells"] for label, arm in arms.items()})


def block(name: str) -> str:
    """Which claims hold, and where the numbers are."""
    experiment, results = kept(name)
    verdicts = [verdict for claim in experiment.claims if (verdict := claim.verdict(results))]
    claims = "\n".join(verdict.text.splitlines()[0] for verdict in verdicts)
    return f"{BEGIN}{claims}\n\n[All numbers](docs/evidence/{name}.md)\n{END}"


def performance_block() -> str:
    """A summary for every machine that was measured, and where the rows are."""
    summaries = "\n\n".join(map(performance.summary, performance.sessions()))
    return f"{BEGIN}{summaries}\n\n[All rows](docs/evidence/performance.md)\n{END}"


def performance_page() -> str:
    """Every row and bar of every machine."""
    return "\n\n".join(map(performance.tables, performance.sessions())) + "\n"


def main(name: str, folder: str) -> None:
    if name == "performance":
        performance.keep(Path(folder))
        (ROOT / "docs/evidence/performance.md").write_text(performance_page())
        write("## Performance", performance_block())
        return
    for file, suffix in KEPT.items():
        shutil.copy(Path(folder, file), ROOT / f"docs/evidence/{name}.{suffix}")
    write(f"### {name}", block(name))


def write(heading: str, numbers: str) -> None:
    """Put the numbers in the place of those under a heading of the README."""
    readme = ROOT / "README.md"
    before, found, after = readme.read_text().partition(f"\n{heading}\n")
    words, _, rest = after.partition(BEGIN)
    readme.write_text(before + found + words + numbers + rest.partition(END)[2])


if __name__ == "__main__":
    main(*sys.argv[1:])
