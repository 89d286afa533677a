"""Small pictures as HTML, for notebooks: they need no matplotlib, and follow a dark theme."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT, _MARGIN = 260, 130, 22
_COLOUR = "#0072b2"  # blue of Okabe and Ito
_TEXT = 'font-size="10" fill="currentColor"'


def view(title: str, *parts: str) -> str:
    """The parts below a title, side by side where there is room."""
    cells = "".join(f'<div style="margin:4px 16px 4px 0">{part}</div>' for part in parts)
    row = f'<div style="display:flex;flex-wrap:wrap">{cells}</div>'
    return f"<div><code>{escape(title)}</code>{row}</div>"


def curve(values: Sequence[float], label: str, ends: tuple[str, str], highest: float) -> str:
    """Values >= 0 as a line from left to right, the height scaled by `highest`."""
    span = max(1, len(values) - 1)
    points = " ".join(
        f"{_MARGIN + (_WIDTH - 2 * _MARGIN) * i / span:.1f},{_level(value, highest):.1f}"
        for i, value in enumerate(values)
    )
    line = f'<polyline points="{points}" fill="none" stroke="{_COLOUR}" stroke-width="2"/>'
    return _frame(line, label, ends, highest)


def bars(counts: Sequence[int], label: str) -> str:
    """Counts as bars, numbered from 1."""
    width = (_WIDTH - 2 * _MARGIN) / max(1, len(counts))
    highest = max(counts, default=1) or 1
    drawn = "".join(
        f'<rect x="{_MARGIN + i * width + width * 0.1:.1f}" y="{_level(count, highest):.1f}" '
        f'width="{width * 0.8:.1f}" height="{_HEIGHT - _MARGIN - _level(count, highest):.1f}" '
        f'fill="{_COLOUR}"/>'
        for i, count in enumerate(counts)
    )
    return _frame(drawn, label, ("1", str(len(counts))), highest)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text in rows and columns."""
    lines = ["".join(f"<th>{escape(word)}</th>" for word in head)]
    lines += ["".join(f"<td>{escape(word)}</td>" for word in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _level(value: float, highest: float) -> float:
    share = min(1.0, value / highest) if highest > 0 else 0.0
    return _MARGIN / 2 + (_HEIGHT - 1.5 * _MARGIN) * (1 - share)


def _frame(inside: str, label: str, ends: tuple[str, str], highest: float) -> str:
    bottom, right = _HEIGHT - _MARGIN, _WIDTH - _MARGIN
    texts = (
        (_MARGIN, bottom + 12, "start", ends[0]),
        (right, bottom + 12, "end", ends[1]),
        (_WIDTH / 2, bottom + 12, "middle", label),
        (_MARGIN, _MARGIN / 2 - 2, "start", f"{highest:.3g}"),
    )
    words = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" {_TEXT}>{escape(text)}</text>'
        for x, y, anchor, text in texts
    )
    axis = f'<path d="M{_MARGIN} {_MARGIN / 2}V{bottom}H{right}" fill="none" stroke="gray"/>'
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f'<svg {size} role="img" aria-label="{escape(label)}">{axis}{inside}{words}</svg>'
