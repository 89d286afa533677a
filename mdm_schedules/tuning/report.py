"""One self-contained HTML file that tells what a tuning found."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING

from mdm_schedules.hub import write_atomically

if TYPE_CHECKING:
    from mdm_schedules.tuning.result import TuningResult

_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem;
   margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } 
td, th { padding: .2rem .6rem; border-bottom: 1px solid #ddd }
td:nth-child(n+3) { text-align: right } img { max-width: 100% } code { background: #f4f4f4 }"""


def write_report(result: TuningResult, path: Path) -> Path:
    """Write the report of `TuningResult.report`; a killed process leaves no half of it."""
    parts = [f"<h1>Schedule for {html.escape(result.objective.name)}</h1>"]
    used = (
        f"{result.passes:,} forward passes of a sequence" if result.passes else "passes not counted"
    )
    parts.append(
        f"<p>Method {html.escape(result.method)}; {len(result.trials)} schedules; {used}.</p>"
    )
    parts.append(
        "<ul>"
        + "".join(f"<li>{html.escape(result.verdict(steps))}</li>" for steps in result.choices)
        + "</ul>"
    )
    counts: list[int | None] = [steps for steps in result.choices if steps is not None] or [None]
    for steps in counts:
        picture = io.BytesIO()
        result.plot(steps=steps).savefig(picture, format="png", dpi=110)
        data = base64.b64encode(picture.getvalue()).decode()
        title = f"{steps} steps" if steps is not None else "All trials"
        parts.append(f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{data}">')
        parts.append(_table(result.table(steps)))
    parts.append(
        "<p>Trials were scored on the instances that choose, the same for all, with one standard "
        "error; the lines "
        "at the top tell the check against the baseline, by a paired t-test.</p>"
    )
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Mask schedule</title>'
        f"<style>{_STYLE}</style>"
    )
    text = f"{page}<body>{''.join(parts)}</body></html>\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda name: Path(name).write_text(text, encoding="utf-8"))
    return path


def _table(markdown: str) -> str:
    head, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()
    )

    def row(cells: list[str], tag: str) -> str:
        shown = (html.escape(cell.strip("`")) for cell in cells)
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in shown) + "</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"
