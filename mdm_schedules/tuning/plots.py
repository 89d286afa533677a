"""Pictures of a tuning, from plain numbers: the score over (a, b), and by number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdm_schedules.plotting import new_figure
from mdm_schedules.tuning.decoding import Decoding
from mdm_schedules.tuning.front import FrontPoint

CURVES = 6  # schedules whose scores are drawn against the number of steps
Pair = tuple[float, float]


@dataclass(frozen=True)
class MapPoint:
    """A schedule Beta(a, b), its score, and whether it lies within the 95 % region of the best."""

    a: float
    b: float
    score: float
    as_good: bool


@dataclass(frozen=True)
class Map:
    """The scores over (a, b).

    Attributes:
        points: every Beta that was scored.
        winner, challenger: (a, b) of the winner, and of the best trial if that is another schedule;
            None for a schedule that is not a Beta.
        bounds: smallest and largest a and b.
        metric: name of the score.
        higher_is_better: whether a higher score is better.
        title: title of the picture; "" for none.
    """

    points: Sequence[MapPoint]
    winner: Pair | None
    challenger: Pair | None
    bounds: Pair
    metric: str
    higher_is_better: bool
    title: str = ""


@dataclass(frozen=True)
class ScoreCurve:
    """One schedule's (mean, standard error) by number of steps."""

    label: str
    scores: Mapping[int, Pair]


@dataclass(frozen=True)
class Front:
    """Scores against mean passes.

    Attributes:
        every: (mean passes, score) of every trial.
        points: the Pareto front.
        winner: the decoding that was chosen.
    """

    every: Sequence[Pair]
    points: Sequence[FrontPoint]
    winner: Decoding


def draw_result(
    scores: Map, curves: Sequence[ScoreCurve], metric: str, front: Front | None = None
) -> Any:
    """A matplotlib Figure of the map, with the curves or the front beside it, if there are any."""
    figure, axes = new_figure(2 if curves or front is not None else 1)
    _draw_map(figure, axes[0], scores)
    if curves:
        _draw_curves(axes[1], curves, metric)
    elif front is not None:
        _draw_front(axes[1], front, metric)
    return figure


def _draw_front(axes: Any, front: Front, metric: str) -> None:
    if front.every:
        axes.scatter(*zip(*front.every, strict=True), s=12, color="0.7", label="trials")
    points = front.points
    if points:
        bars = {
            "xerr": [
                [point.passes - point.passes_low for point in points],
                [point.passes_high - point.passes for point in points],
            ],
            "yerr": [
                [point.score - point.score_low for point in points],
                [point.score_high - point.score for point in points],
            ],
        }
        kind = "held-out instances" if points[0].held_out else "the instances that chose"
        axes.errorbar(
            [point.passes for point in points],
            [point.score for point in points],
            **{name: np.nan_to_num(np.array(ends)) for name, ends in bars.items()},
            fmt="o",
            markersize=4,
            capsize=2,
            linewidth=1,
            label=f"front, on {kind} (95 %)",
        )
        for point in points:
            if point.decoding == front.winner:
                axes.scatter(point.passes, point.score, marker="*", s=160, color="tab:red")
    axes.set(xlabel="mean forward passes", ylabel=metric)
    axes.legend(frameon=False, fontsize="small")


def _draw_map(figure: Any, axes: Any, scores: Map) -> None:
    low, high = scores.bounds
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="a",
        ylabel="b",
        xlim=(low * 0.9, high * 1.1),
        ylim=(low * 0.9, high * 1.1),
    )
    # The diagonal a = b separates schedules that start fast from schedules that start slowly.
    axes.plot([low, high], [low, high], color="0.8", linewidth=0.8, zorder=0)
    if scores.points:
        a, b = [point.a for point in scores.points], [point.b for point in scores.points]
        values = [point.score for point in scores.points]
        # Bright colours always mark good schedules.
        colours = "viridis" if scores.higher_is_better else "viridis_r"
        spread = np.log([a, b])
        centred = spread - spread.mean(1, keepdims=True)
        # Contours need a triangulation, which fails for points on one line (a = b, say); with few
        # points they would suggest a surface that nobody measured.
        if len(scores.points) >= 8 and np.linalg.matrix_rank(centred) == 2:
            axes.tricontourf(a, b, values, levels=16, cmap=colours, alpha=0.5)
        marks = axes.scatter(a, b, c=values, cmap=colours, edgecolors="0.3", linewidths=0.4, s=22)
        figure.colorbar(marks, ax=axes, label=scores.metric)
        near = [(point.a, point.b) for point in scores.points if point.as_good]
        if near:
            x, y = zip(*near, strict=True)
            axes.scatter(
                x, y, facecolors="none", edgecolors="tab:red", s=60, label="as good (95 %)"
            )
    marked = ((scores.winner, "*", "winner"), (scores.challenger, "P", "best of the trials"))
    for pair, mark, label in marked:
        if pair is not None:
            style = {"color": "tab:red", "edgecolors": "black", "s": 160, "zorder": 3}
            axes.scatter(*pair, marker=mark, label=label, **style)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", frameon=True, fontsize="small")
    if scores.title:
        axes.set_title(scores.title)


def _draw_curves(axes: Any, curves: Sequence[ScoreCurve], metric: str) -> None:
    for curve in curves:
        means, errors = zip(*curve.scores.values(), strict=True)
        style = {"marker": "o", "markersize": 4, "capsize": 3}
        axes.errorbar(list(curve.scores), means, errors, label=curve.label, **style)
    # Ticks only at the numbers that were tuned: nothing was measured between them.
    axes.set_xticks(sorted({count for curve in curves for count in curve.scores}))
    axes.set(xlabel="steps (forward passes)", ylabel=metric)
    axes.legend(frameon=False, fontsize="small")
