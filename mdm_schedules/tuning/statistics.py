"""Paired comparison of two schedules: shared instances and seeds cancel their common noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Comparison:
    """The lead of one schedule over another, from differences by instance.

    Attributes:
        difference: mean score minus the other's, signed so that positive is better for either
            direction of the score.
        standard_error: of the difference; NaN for a single instance.
        low, high: 95 % interval by Student's t; NaN for a single instance.
        confidence: probability that the schedule is better, by the one-sided paired t-test. For a
            single instance, or if all differences are equal, it is 0, 0.5 or 1 by the sign of the
            difference and no longer a probability.
        instances: number of instances compared.
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
    """Compare the first scores, which both have; `sign` is -1 where lower is better."""
    from scipy.special import stdtr, stdtrit

    # Instances are scored in one fixed order, so equal places are equal instances.
    n = min(len(scores), len(others))
    own, other = np.asarray(scores[:n], dtype=np.float64), np.asarray(others[:n], dtype=np.float64)
    # Infinitely bad scores have no spread; only the order of the means is left.
    if not (np.isfinite(own).all() and np.isfinite(other).all()):
        means = sign * own.mean(), sign * other.mean()
        ahead = float(means[0] > means[1]) - float(means[0] < means[1])
        gap = math.inf * ahead if ahead else 0.0
        return Comparison(gap, math.nan, math.nan, math.nan, 0.5 + 0.5 * ahead, n)
    gaps = sign * (own - other)
    mean = float(gaps.mean())
    error = float(gaps.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    # The t-test would divide by zero.
    if n < 2 or error == 0:
        ends = math.nan if n < 2 else mean
        return Comparison(mean, error, ends, ends, 0.5 + 0.5 * float(np.sign(mean)), n)
    reach = error * float(stdtrit(n - 1, (1 + LEVEL) / 2))
    return Comparison(mean, error, mean - reach, mean + reach, float(stdtr(n - 1, mean / error)), n)


def standard_error(scores: Sequence[float]) -> float:
    """Standard error of the mean of independent scores; NaN for one score or infinite ones."""
    if len(scores) < 2 or not np.isfinite(scores).all():
        return math.nan
    return float(np.std(scores, ddof=1) / math.sqrt(len(scores)))
