"""The report as one page of HTML, which holds its pictures and loads nothing."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from sparsedis_kernels.training.report.table import Rows

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>$title</title>
<style>
body { font: 15px/1.5 sans-serif; color: #222; max-width: 72em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .25em 1em .25em 0; border-bottom: 1px solid #ddd; text-align: left }
.numbers td { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100% }
</style>
</head>
<body>
<h1>$title</h1>
<p>Same backbone, tasks and training; only the penalty of the heads differs.
± is the standard error over test tasks.</p>
$body
</body>
</html>
""")


def page(
    arms: Sequence[str], rows: Rows, report: Mapping[str, Any], pictures: Mapping[str, Path]
) -> str:
    """The page.

    Args:
        arms: names of the arms, the columns of the table.
        rows: the table, as of ``table_rows``.
        report: settings and versions, as of ``document``.
        pictures: PNG file of each picture, by its title.
    """
    settings = report["settings"]
    source = settings["source"]
    body = [_table([("", list(arms)), *rows], "numbers")]
    body += [_picture(title, file) for title, file in pictures.items()]
    for title, values in (
        ("Tasks", source),
        ("Training", settings["recipe"]),
        ("Heads", settings["heads"]),
        ("Versions", report["versions"]),
    ):
        body.append(f"<h2>{title}</h2>")
        body.append(_table([(name, [_text(value)]) for name, value in values.items()], "settings"))
    title = f"{source['name']}: {' and '.join(arms)} heads"
    return _PAGE.substitute(title=escape(title), body="\n".join(body))


def _table(rows: Rows, kind: str) -> str:
    lines = [
        f"<tr><th>{escape(name)}</th>" + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>"
        for name, cells in rows
    ]
    return "\n".join([f'<table class="{kind}">', *lines, "</table>"])


def _picture(title: str, file: Path) -> str:
    data = b64encode(file.read_bytes()).decode()
    image = f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'
    return f"<h2>{escape(title)}</h2>\n{image}"


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
