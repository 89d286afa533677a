"""Distributions and pairs of schedules with known energies."""

from __future__ import annotations

import math

import torch
from scipy.special import betaln

from mdm_schedules.schedules import (
    Beta,
    Cosine,
    Geometric,
    LogLinear,
    Polynomial,
    SquaredSine,
    Tabulated,
)

PI2 = math.pi**2
PAIRS = [
    (SquaredSine(), None),
    (Beta(0.7, 1.6), Beta(0.9, 0.3)),
    (Cosine(), "linear"),
    (Tabulated([0, 0.1, 0.7, 1], [0, 0.3, 0.5, 1]), Polynomial(3.0)),
    (Geometric(), LogLinear()),
]


def random_distribution(n: int, d: int, seed: int = 0) -> torch.Tensor:
    p = (
        torch.rand([d] * n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        + 0.01
    )
    return p / p.sum()


def beta_excess(alpha: Beta, gamma: Beta) -> float:
    """Return the integral of f^2 / g for two Beta densities f and g: the energy over pi^2.

    It is B(2a - c, 2b - d) B(c, d) / B(a, b)^2.
    """
    p, q = 2 * alpha.a - gamma.a, 2 * alpha.b - gamma.b
    if p <= 0 or q <= 0:
        return math.inf
    return math.exp(betaln(p, q) + betaln(gamma.a, gamma.b) - 2 * betaln(alpha.a, alpha.b))
