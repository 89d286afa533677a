"""Pictures of a tuning: the score over (a, b), and the scores by number of steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mdm_schedules.plotting import new_figure
from mdm_schedules.tuning.proposals import as_beta

if TYPE_CHECKING:
    from mdm_schedules.tuning.result import TuningResult

CURVES = 6  # schedules whose scores are drawn against the number of steps


def draw_result(result: TuningResult, steps: int | None = None) -> Any:
    """The Figure of `TuningResult.plot`."""
    counts = sorted(count for count in result.choices if count is not None)
    figure, axes = new_figure(2 if len(counts) > 1 else 1)
    _draw_map(figure, axes[0], result, steps)
    if len(counts) > 1:
        _draw_curves(axes[1], result, counts)
    return figure


def _draw_map(figure: Any, axes: Any, result: TuningResult, steps: int | None) -> None:
    group = result._group(steps)
    choice = result.choice_at(steps)
    points = []
    for trial in result.trials:
        pair = as_beta(trial.schedule)
        if pair is not None and all(count in trial.scores for count in group):
            mean = float(np.mean([trial.scores[count][0] for count in group]))
            if np.isfinite(mean):
                points.append((*pair, mean, trial))
    low, high = result.bounds
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="a",
        ylabel="b",
        xlim=(low * 0.9, high * 1.1),
        ylim=(low * 0.9, high * 1.1),
    )
    axes.plot([low, high], [low, high], color="0.8", linewidth=0.8, zorder=0)
    if points:
        a, b, values, trials = (list(column) for column in zip(*points, strict=True))
        colours = "viridis" if result.objective.sign > 0 else "viridis_r"
        spread = np.log([a, b])
        if len(points) >= 8 and np.linalg.matrix_rank(spread - spread.mean(1, keepdims=True)) == 2:
            axes.tricontourf(a, b, values, levels=16, cmap=colours, alpha=0.5)
        marks = axes.scatter(a, b, c=values, cmap=colours, edgecolors="0.3", linewidths=0.4, s=22)
        figure.colorbar(marks, ax=axes, label=result.objective.metric)
        region = {trial.schedule for trial in result.region(steps)}
        near = [
            (x, y) for x, y, trial in zip(a, b, trials, strict=True) if trial.schedule in region
        ]
        if near:
            axes.scatter(
                *zip(*near, strict=True),
                facecolors="none",
                edgecolors="tab:red",
                s=60,
                label="as good (95 %)",
            )
    for schedule, mark, label in (
        (choice.schedule, "*", "winner"),
        (choice.challenger.schedule, "P", "best of the trials"),
    ):
        pair = as_beta(schedule)
        if pair is not None and (label == "winner" or schedule != choice.schedule):
            axes.scatter(
                *pair,
                marker=mark,
                color="tab:red",
                edgecolors="black",
                s=160,
                label=label,
                zorder=3,
            )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", frameon=True, fontsize="small")
    if choice.steps is not None or len(group) > 1:
        axes.set_title("all steps" if choice.steps is None else f"{choice.steps} steps")


def _draw_curves(axes: Any, result: TuningResult, counts: list[int]) -> None:
    """Scores against steps of the baseline and of the winners."""
    wanted = [
        result.trials[0].schedule,
        *(choice.challenger.schedule for choice in result.choices.values()),
    ]
    names = {trial.schedule: trial for trial in result.trials if trial.schedule in wanted}
    for schedule in list(dict.fromkeys(wanted))[:CURVES]:
        trial = names[schedule]
        steps = [
            count
            for count in counts
            if count in trial.scores and np.isfinite(trial.scores[count][0])
        ]
        if not steps:
            continue
        means, errors, _ = zip(*(trial.scores[count] for count in steps), strict=True)
        label = schedule.spec if len(schedule.spec) < 40 else f"{schedule.name}, {trial.origin}"
        axes.errorbar(steps, means, errors, marker="o", markersize=4, capsize=3, label=label)
    axes.set_xticks(counts)
    axes.set(xlabel="steps (forward passes)", ylabel=result.objective.metric)
    axes.legend(frameon=False, fontsize="small")
