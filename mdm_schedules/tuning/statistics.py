"""Paired comparison of two schedules: shared instances and seeds cancel their common noise."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
POWER = 0.8  # with which `more_instances` would tell


@dataclass(frozen=True)
class Comparison:
    """The lead of one schedule over another, from differences by instance.

    Instances that share a prompt are one cluster, and errors are by cluster.

    Attributes:
        difference: mean score minus the other's, signed so that positive is better for either
            direction of the score.
        standard_error: of the difference; NaN for a single cluster.
        low, high: 95 % interval by Student's t; NaN for a single cluster.
        p_value: of the one-sided paired t-test: how often so large a lead would appear if there
            were none. It is not the probability that the schedule is no better. For a single
            cluster, or if all differences are equal, it is 1, 0.5 or 0 by the sign of the
            difference, and nothing was tested.
        instances: number of instances compared.
        clusters: number of clusters that they form.
    """

    difference: float
    standard_error: float
    low: float
    high: float
    p_value: float
    instances: int
    clusters: int

    @property
    def tested(self) -> bool:
        """Whether there is an error to compare the difference with."""
        return not math.isnan(self.standard_error)

    def __str__(self) -> str:
        if not self.tested:
            return f"{self.difference:+.4g}"
        return f"{self.difference:+.4g} ({self.low:+.3g} to {self.high:+.3g}, 95 %)"

    def evidence(self, kind: str = "") -> str:
        """What it rests on: "40 held-out instances of 10 prompts"."""
        prompts = f" of {self.clusters} prompts" if self.clusters < self.instances else ""
        return f"{self.instances} {kind}instances{prompts}"


def compare(
    scores: Sequence[float],
    others: Sequence[float],
    sign: float = 1.0,
    clusters: Sequence[Hashable] | None = None,
) -> Comparison:
    """Compare the first scores, which both have; `sign` is -1 where lower is better.

    `clusters` names the cluster of each instance; None makes each its own.
    """
    from scipy.special import stdtr, stdtrit

    # Instances are scored in one fixed order, so equal places are equal instances.
    n = min(len(scores), len(others))
    own, other = np.asarray(scores[:n], dtype=np.float64), np.asarray(others[:n], dtype=np.float64)
    members = None if clusters is None else clusters[:n]
    groups = n if members is None else len(set(members))
    # Infinitely bad scores have no spread; only the order of the means is left.
    if not (np.isfinite(own).all() and np.isfinite(other).all()):
        means = sign * own.mean(), sign * other.mean()
        ahead = float(means[0] > means[1]) - float(means[0] < means[1])
        gap = math.inf * ahead if ahead else 0.0
        return Comparison(gap, math.nan, math.nan, math.nan, 0.5 - 0.5 * ahead, n, groups)
    gaps = sign * (own - other)
    mean, error = float(gaps.mean()), _error(gaps, members)
    # The t-test would divide by zero.
    if groups < 2 or error == 0:
        ends = math.nan if groups < 2 else mean
        p_value = 0.5 - 0.5 * float(np.sign(mean))
        return Comparison(mean, error, ends, ends, p_value, n, groups)
    reach = error * float(stdtrit(groups - 1, (1 + LEVEL) / 2))
    p_value = float(stdtr(groups - 1, -mean / error))
    return Comparison(mean, error, mean - reach, mean + reach, p_value, n, groups)


def _error(values: npt.NDArray[np.float64], clusters: Sequence[Hashable] | None) -> float:
    """Standard error of the mean, robust to whatever the instances of a cluster share."""
    if clusters is not None:
        sums: dict[Hashable, float] = {}
        for cluster, value in zip(clusters, values - values.mean(), strict=True):
            sums[cluster] = sums.get(cluster, 0.0) + float(value)
        values = np.array(list(sums.values())) * (len(sums) / len(values))
    n = len(values)
    return float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan


def standard_error(scores: Sequence[float], clusters: Sequence[Hashable] | None = None) -> float:
    """Standard error of the mean of scores; NaN for one score, one cluster or infinite scores."""
    if len(scores) < 2 or not np.isfinite(scores).all():
        return math.nan
    members = None if clusters is None else clusters[: len(scores)]
    return _error(np.asarray(scores, dtype=np.float64), members)


def more_clusters(gap: Comparison, level: float) -> int | None:
    """How many more clusters would tell a difference of this size, with a power of 80 %.

    None where the difference is below its standard error: then any number would be a guess.
    """
    from scipy.special import ndtri

    if not gap.tested or gap.difference < gap.standard_error or gap.standard_error == 0:
        return None
    wanted = float(ndtri(level) + ndtri(POWER)) * gap.standard_error / gap.difference
    return max(1, math.ceil(gap.clusters * wanted**2) - gap.clusters)
