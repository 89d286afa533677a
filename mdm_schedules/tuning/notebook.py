"""A tuning result as a notebook shows it."""

from __future__ import annotations

from typing import Any

from mdm_schedules import sketch

_ROWS = 8


class NotebookView:
    """The view of a result with `choices`, `verdict` and `rows`: verdict and best trials."""

    def _repr_html_(self: Any) -> str:
        first = next(iter(self.choices))
        head, rows = self.rows(first)
        return sketch.view(self.verdict(first), sketch.table(head, rows[:_ROWS]))
