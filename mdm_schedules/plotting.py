"""Pictures of schedules and of quality against steps. Needs matplotlib: the extra `plot`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mdm_schedules.errors import missing_extra
from mdm_schedules.schedules import Schedule


def new_figure(columns: int) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws to files without a display
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "plot") from error
    figure = Figure(figsize=(5.2 * columns, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _draw_schedules(axes: Any, schedules: Sequence[Schedule]) -> None:
    t = torch.linspace(0, 1, 501, dtype=torch.float64)
    for schedule in schedules:
        axes.plot(
            t.numpy(), schedule.alpha(t).numpy(), label=schedule.spec if len(schedule.spec) < 40 else schedule.name
        )
    axes.set(xlabel="generation time t", ylabel=r"fraction revealed $\alpha(t)$", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left", frameon=False)


def plot_schedules(schedules: Sequence[Schedule], path: str | os.PathLike[str], *, num_tokens: int, steps: int) -> None:
    """Write a picture of alpha(t), and of the tokens revealed per step, for each schedule."""
    figure, (left, right) = new_figure(2)
    _draw_schedules(left, schedules)
    for schedule in schedules:
        plan = schedule.plan(num_tokens, steps)
        right.plot(range(1, steps + 1), plan.numpy(), marker="o", markersize=3, label=schedule.name)
    right.set(xlabel="step", ylabel=f"tokens revealed of {num_tokens}")
    figure.savefig(path, dpi=130)


def plot_quality(
    schedules: Sequence[Schedule],
    results: Mapping[str, Mapping[int, tuple[float, float]]],
    path: str | os.PathLike[str],
    *,
    ylabel: str,
) -> None:
    """Write a picture of alpha(t) beside quality against steps.

    Args:
        schedules: the schedules, whose `spec` are the keys of `results`.
        results: spec -> steps -> (value, standard error).
        path: file to write, its format by the ending.
        ylabel: what the values are.
    """
    figure, (left, right) = new_figure(2)
    _draw_schedules(left, schedules)
    for spec, row in results.items():
        steps = sorted(row)
        values, errors = zip(*(row[step] for step in steps), strict=True)
        right.errorbar(steps, values, errors, marker="o", markersize=4, capsize=3, label=spec)
    right.set(xlabel="steps (forward passes)", ylabel=ylabel)
    right.legend(frameon=False)
    figure.savefig(path, dpi=130)
