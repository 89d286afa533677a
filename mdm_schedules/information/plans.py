"""Consequences of a profile h: costs, the best plan, the best Beta, and one general schedule.

Arrays here are profiles, float64 [N] and >= 0, non-increasing but for a cross-entropy, and integer
plans.
`InformationProfile` is the public interface.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from mdm_schedules.schedules import Beta, Linear, Schedule, Tabulated

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

KNOTS = 257  # of a schedule for all step counts; 2, 4, 8, ..., 256 steps hit knots exactly
_PAPER_GRID = [round(0.1 * i, 1) for i in range(1, 11)]  # arXiv 2509.13866, App. E.1
_WIDE_GRID = [float(f"{x:.3g}") for x in np.geomspace(0.05, 6.4, 15)]
_SAME = 1e-12  # smaller differences of costs, relative to the entropy, are rounding


def plan_cost(h: Array, plan: Any) -> float:
    """Expected KL given the reveal order: the sum over n of h(start of n's group) - h(n), in nats.

    Holds for any curve h, monotone or not (arXiv 2510.25544, 2511.04647).
    """
    sizes = np.asarray(plan, dtype=np.int64)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    return float((h[starts] - h).sum())


def optimal_plans(h: Array, steps: Iterable[int]) -> dict[int, Integers]:
    """Plans of least cost with exactly K non-empty groups, for each K of `steps` (1 <= K <= N).

    Dynamic programme: C_k(m) = min over j < m of C_{k-1}(j) + (m - j) h(j). As h does not increase,
    (m - j) h(j) is a Monge array, so the best j does not decrease in m and a layer costs O(N log N)
    instead of O(N^2). A measured cross-entropy may rise; then a layer does cost O(N^2). Among equal
    costs the last groups are the largest.
    """
    minima = _all_row_minima if (np.diff(h) > 0).any() else _row_minima
    wanted = sorted(set(steps))
    n = len(h)
    # In layer k only m = k, ..., k + width - 1 can lead to the smallest K.
    width = n - wanted[0] + 1
    best = h[0] * np.arange(1, width + 1)
    layers = [np.zeros(width, dtype=np.int32)]
    for k in range(2, wanted[-1] + 1):
        width = min(width, n - k + 1)
        best, column = minima(best[:width], h[k - 1 : k - 1 + width])
        layers.append(column)
    plans: dict[int, Integers] = {}
    for count in wanted:
        ends = [n]
        for k in range(count, 0, -1):
            ends.append(k - 1 + int(layers[k - 1][ends[-1] - k]))
        bounds = np.array(ends[::-1], dtype=np.int64)
        plans[count] = bounds[1:] - bounds[:-1]
    return plans


def _row_minima(before: Array, h: Array) -> tuple[Array, npt.NDArray[np.int32]]:
    """For each row r, the minimum over columns c <= r of before[c] + (r - c + 1) h[c].

    Returns the minima and their columns; ties take the first column. The rows halfway between known
    rows are searched together, each between the columns of its neighbours.
    """
    width = len(before)
    values = np.empty(width + 2)
    column = np.zeros(width + 2, dtype=np.int64)  # rows counted from 1; a sentinel at either end
    column[-1] = width - 1
    # All rows of one level are searched in one vectorised pass instead of by recursion.
    stride = 1 << width.bit_length()
    while stride > 1:
        half = stride // 2
        rows = np.arange(half, width + 1, stride)
        stride = half
        if not len(rows):
            continue
        low = column[rows - half]
        high = np.minimum(column[np.minimum(rows + half, width + 1)], rows - 1)
        lengths = high - low + 1
        starts = np.cumsum(lengths) - lengths
        c = np.arange(lengths.sum()) + np.repeat(low - starts, lengths)
        candidates = before[c] + (np.repeat(rows, lengths) - c) * h[c]
        least = np.minimum.reduceat(candidates, starts)
        first = np.flatnonzero(candidates == np.repeat(least, lengths))
        column[rows] = c[first[np.searchsorted(first, starts)]]
        values[rows] = least
    return values[1:-1], column[1:-1].astype(np.int32)


def _all_row_minima(before: Array, h: Array) -> tuple[Array, npt.NDArray[np.int32]]:
    """`_row_minima` for any h: every column of every row."""
    values, column = np.empty(len(before)), np.empty(len(before), dtype=np.int32)
    for row in range(len(before)):
        candidates = before[: row + 1] + np.arange(row + 1, 0, -1) * h[: row + 1]
        column[row] = candidates.argmin()
        values[row] = candidates[column[row]]
    return values, column


def best_beta(h: Array, steps: int) -> Beta:
    """The Beta(a, b) whose plan costs least, by a grid search with local refinement.

    The grid is the paper's and a wider logarithmic one; refinement takes ever smaller steps. The
    cost is constant between roundings; among equal ones the (a, b) nearest to linear is taken.
    """
    tolerance = _SAME * (h.sum() + 1)
    seen: dict[tuple[float, float], float] = {}

    def rank(pair: tuple[float, float]) -> tuple[float, float]:
        if pair not in seen:
            seen[pair] = plan_cost(h, Beta(*pair).plan(len(h), steps).numpy())
        # Rounding the cost makes ties exact, so that the distance to linear decides them.
        # Linear is Beta(0.5, 0.5).
        distance = float(np.abs(np.log(np.array(pair) / 0.5)).sum())
        return round(seen[pair] / tolerance) * tolerance, distance

    grid = {(a, b) for side in (_PAPER_GRID, _WIDE_GRID) for a in side for b in side}
    # Three starting points, since the cost is a staircase with several basins.
    leaders = sorted(grid, key=rank)[:3]
    factor = 1.2
    for _ in range(6):
        moves = (1 / factor, 1.0, factor)
        around = {
            (float(f"{a * x:.4g}"), float(f"{b * y:.4g}"))
            for a, b in leaders
            for x in moves
            for y in moves
        } | set(leaders)
        leaders = sorted(around, key=rank)[:3]
        factor = factor**0.6
    return Beta(*leaders[0])


def plan_as_schedule(plan: Integers) -> Schedule:
    """The schedule whose plan for that many tokens and steps is `plan` (all >= 1)."""
    # Knots at the times i / steps, so that rounding gives the plan back.
    alpha = np.concatenate([[0.0], np.cumsum(plan) / plan.sum()])
    return Tabulated(alpha.tolist())


def schedule_for_all_steps(h: Array) -> Schedule:
    """One schedule near the best plan at every step count.

    With many steps the cost is half the integral of |h'| times the squared step length, which is
    smallest where steps have the density |h'|^(1/2). That density is one candidate, and so are
    neighbouring powers, for few steps. The other candidates are means of the best plans. The
    candidate nearest to the optimum at 2, 4, ..., 32 steps is returned.
    """
    n = len(h)
    falls = h - np.append(h[1:], max(2 * h[-1] - h[-2], 0.0) if n > 1 else h[-1])
    falls = np.maximum(falls, 0)
    if falls.max() <= 0:  # all plans cost the same
        return Linear()
    even, revealed = np.linspace(0, 1, KNOTS), np.arange(n + 1) / n
    curves = []
    # The small constant keeps time running where h is flat, so that alpha stays a function of it.
    for power in (0.5, 0.45, 0.4):
        time = np.concatenate([[0.0], np.cumsum((falls + 1e-4 * falls.max()) ** power)])
        curves.append(np.interp(even, time / time[-1], revealed))
    plans = optimal_plans(h, [k for k in (2, 4, 8, 16, 32) if k <= max(n // 2, 2)])
    polylines = {
        k: np.interp(even, np.arange(k + 1) / k, np.concatenate([[0.0], np.cumsum(plan) / n]))
        for k, plan in plans.items()
    }
    for group in ((8, 16), (4, 8, 16, 32)):
        if group[0] in polylines:
            curves.append(np.mean([polylines[k] for k in group if k in polylines], axis=0))
    schedules = []
    for curve in curves:
        rising = (1 - 1e-6) * curve + 1e-6 * even  # strictly
        rising[0], rising[-1] = 0.0, 1.0
        schedules.append(Tabulated(rising.tolist()))
    # Keeps the ratios finite where the best plan costs nothing.
    floor = 1e-9 * float(h.sum())

    def excess(schedule: Schedule) -> float:
        costs = [
            (plan_cost(h, schedule.plan(n, k).numpy()), plan_cost(h, plan))
            for k, plan in plans.items()
        ]
        return sum((cost + floor) / (least + floor) for cost, least in costs)

    return min(schedules, key=excess)
