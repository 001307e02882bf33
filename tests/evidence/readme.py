"""What the README shows of an experiment, made from its JSON in docs/evidence.

``python -m tests.evidence.readme NAME FOLDER`` takes the results of ``sparsedis reproduce NAME`` in
FOLDER into docs/evidence, and writes the README's section anew.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib import import_module
from pathlib import Path

from sparsedis_kernels.evidence.experiment import Results
from sparsedis_kernels.evidence.report import table

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


def main(name: str, folder: str) -> None:
    for file, suffix in KEPT.items():
        shutil.copy(Path(folder, file), ROOT / f"docs/evidence/{name}.{suffix}")
    readme = ROOT / "README.md"
    before, heading, after = readme.read_text().partition(f"\n### {name}\n")
    words, _, rest = after.partition(BEGIN)
    readme.write_text(before + heading + words + block(name) + rest.partition(END)[2])


if __name__ == "__main__":
    main(*sys.argv[1:])
