"""Profiles by enumeration: the entropies of all marginals of a small distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mdm_schedules.checks import check_distribution

Array = npt.NDArray[np.float64]

MAX_STATES = 1 << 28  # marginal probabilities of one enumeration


def enumerate_profile(distribution: Any) -> Array:
    """h(n) = mean entropy of n + 1 tokens - mean entropy of n, over all subsets (the chain rule,
    averaged).
    """
    p = check_distribution(distribution, MAX_STATES, "use InformationProfile.estimate")
    n = p.ndim
    if p.shape[0] == 1:  # nothing to tell, but 2^n marginals to visit
        return np.zeros(n)
    sums, subsets = np.zeros(n + 1), np.zeros(n + 1)

    def visit(marginal: Array, first: int) -> None:
        """Every marginal once: axes are summed away in increasing order."""
        positive = marginal[marginal > 0]
        sums[marginal.ndim] -= float((positive * np.log(positive)).sum())
        subsets[marginal.ndim] += 1
        for axis in range(first, marginal.ndim):
            visit(marginal.sum(axis), axis)

    visit(p, 0)
    sums[0] = 0.0  # the empty marginal is 1 but for rounding
    h = np.diff(sums / subsets)
    h[np.abs(h) < 1e-14] = 0.0
    # entropies are submodular, so only rounding is removed
    return np.minimum.accumulate(np.maximum(h, 0.0))
