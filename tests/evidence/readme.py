"""What the README shows of an experiment or of benchmarks, made from JSON in docs/evidence.

``python -m tests.evidence.readme NAME FOLDER`` takes the results of ``sparsedis reproduce NAME`` in
FOLDER into docs/evidence, and writes the README's section anew; NAME may be ``performance``, and
FOLDER what ``sparsedis bench --save`` wrote.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib import import_module
from pathlib import Path

from sparsedis_kernels.evidence.experiment import Results
from sparsedis_kernels.evidence.report import table
from tests.evidence import performance

ROOT = Path(__file__).parents[2]
KEPT = {"report.json": "json", "report.md": "md", "figure.png": "png"}
BEGIN, END = "<!-- numbers -->\n", "<!-- end -->"


def block(name: str) -> str:
    """Which claims hold, and the table."""
    experiment = import_module(f"sparsedis_kernels.evidence.{name}").EXPERIMENT
    arms = json.loads((ROOT / f"docs/evidence/{name}.json").read_text())["arms"]
    results = Results({label: arm["cells"] for label, arm in arms.items()})
    verdicts = [verdict for claim in experiment.claims if (verdict := claim.verdict(results))]
    claims = "\n".join(verdict.text.splitlines()[0] for verdict in verdicts)
    numbers = f"<details><summary>All numbers</summary>\n\n{table(experiment, results)}\n"
    return f"{BEGIN}{claims}\n\n{numbers}\n</details>\n{END}"


def performance_block() -> str:
    """The tables of every machine that was measured."""
    tables = "\n\n".join(map(performance.numbers, performance.sessions()))
    return f"{BEGIN}{tables}\n{END}"


def main(name: str, folder: str) -> None:
    if name == "performance":
        performance.keep(Path(folder))
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
