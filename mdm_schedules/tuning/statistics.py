"""Paired comparison of two schedules on the same instances and seeds, so that their common noise
cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Comparison:
    """How far one schedule is ahead of another, instance by instance.

    Attributes:
        difference: mean score less the other's; above 0 is better, whatever the direction of the
            score.
        standard_error: of the difference; NaN for a single instance.
        low, high: its 95 % interval by Student's t; NaN for a single instance.
        confidence: probability that it is better, by the one-sided paired t-test; where nothing
            varies, or of a single instance, 0, 0.5 or 1 by the sign of the difference, which then
            tells no probability.
        instances: how many were compared.
    """

    difference: float
    standard_error: float
    low: float
    high: float
    confidence: float
    instances: int

    def __str__(self) -> str:
        spread = "" if math.isnan(self.standard_error) else f" ± {self.standard_error:.2g}"
        many = (
            f", confidence {self.confidence:.3g}, {self.instances} instances"
            if self.instances > 1
            else ""
        )
        return f"{self.difference:+.4g}{spread}{many}"


def compare(scores: Sequence[float], others: Sequence[float], sign: float = 1.0) -> Comparison:
    """Compare the scores that both have (the first ones); `sign` is -1 where lower is better."""
    from scipy.special import stdtr, stdtrit

    n = min(len(scores), len(others))
    own, other = np.asarray(scores[:n], dtype=np.float64), np.asarray(others[:n], dtype=np.float64)
    if not (np.isfinite(own).all() and np.isfinite(other).all()):  # infinitely bad ones
        means = sign * own.mean(), sign * other.mean()
        ahead = float(means[0] > means[1]) - float(means[0] < means[1])
        gap = math.inf * ahead if ahead else 0.0
        return Comparison(gap, math.nan, math.nan, math.nan, 0.5 + 0.5 * ahead, n)
    gaps = sign * (own - other)
    mean = float(gaps.mean())
    error = float(gaps.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    if n < 2 or error == 0:
        ends = math.nan if n < 2 else mean
        return Comparison(mean, error, ends, ends, 0.5 + 0.5 * float(np.sign(mean)), n)
    reach = error * float(stdtrit(n - 1, (1 + LEVEL) / 2))
    return Comparison(mean, error, mean - reach, mean + reach, float(stdtr(n - 1, mean / error)), n)


def standard_error(scores: Sequence[float]) -> float:
    """Of the mean of independent scores; NaN for a single one."""
    if len(scores) < 2 or not np.isfinite(scores).all():
        return math.nan
    return float(np.std(scores, ddof=1) / math.sqrt(len(scores)))
