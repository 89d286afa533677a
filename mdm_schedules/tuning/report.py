"""One self-contained HTML file with the results of a tuning run."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdm_schedules.files import check_output, write_output

_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem;
   margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } 
td, th { padding: .2rem .6rem; border-bottom: 1px solid #ddd }
td:nth-child(n+3) { text-align: right } img { max-width: 100% } code { background: #f4f4f4 }"""


@dataclass(frozen=True)
class Section:
    """A picture (a matplotlib Figure) and the table below it, as text."""

    title: str
    picture: Any
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_report(
    path: Path, *, title: str, summary: str, verdicts: Sequence[str], sections: Sequence[Section]
) -> Path:
    """Write the report, with all text escaped.

    The file is replaced at once, so a killed process leaves no partial report.

    Raises:
        StorageError: `path` cannot be written.
    """
    # Names of models and tasks come from users, so every text is escaped.
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(summary)}</p>"]
    parts.append("<ul>" + "".join(f"<li>{html.escape(one)}</li>" for one in verdicts) + "</ul>")
    for section in sections:
        picture = io.BytesIO()
        section.picture.savefig(picture, format="png", dpi=110)
        # Pictures are embedded, so that the report can be moved or mailed as one file.
        data = base64.b64encode(picture.getvalue()).decode()
        name = html.escape(section.title)
        parts.append(f'<h2>{name}</h2><img alt="{name}" src="data:image/png;base64,{data}">')
        rows = "".join(_row(row, "td") for row in section.rows)
        parts.append(f"<table>{_row(section.heads, 'th')}{rows}</table>")
    parts.append(
        "<p>Trials were scored on the instances that choose, the same for all, with one standard "
        "error; the lines at the top give the check against the baseline, by a one-sided paired "
        "t-test over prompts, and a gain with its 95 % interval.</p>"
    )
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Mask schedule</title>'
        f"<style>{_STYLE}</style>"
    )
    text = f"{page}<body>{''.join(parts)}</body></html>\n"
    path = check_output(path, make=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_output(path, text.encode())
    return path


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
