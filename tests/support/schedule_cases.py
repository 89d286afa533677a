"""Schedules of every family, strategies that draw them, and how curves are compared."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mdm_schedules.schedules import (
    Beta,
    Cosine,
    EnergyOptimal,
    Geometric,
    Linear,
    LogLinear,
    Polynomial,
    Schedule,
    Shifted,
    Sine,
    SquaredSine,
    Tabulated,
)

INF = math.inf
quick = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])

EXAMPLES: list[Schedule] = [
    Linear(),
    LogLinear(),
    Sine(),
    SquaredSine(),
    Cosine(),
    Polynomial(),
    Polynomial(0.05),
    Polynomial(1),
    Polynomial(50),
    Geometric(),
    Shifted(),
    Shifted(7.5),
    Shifted(1e-6),
    Shifted(1e6),
    Geometric(0.1, 0.2),
    Geometric(1e-12, 700),
    Geometric(1, 1 + 1e-9),
    Beta(0.5, 0.5),
    Beta(1, 1),
    Beta(0.9, 0.3),
    Beta(1, 0.2),
    Beta(0.05, 5),
    Beta(0.01, 1),
    Beta(100, 300),
    EnergyOptimal(),
    EnergyOptimal("beta(a=0.3, b=4)"),
    EnergyOptimal(EnergyOptimal(Tabulated([0, 0.3, 1]))),
    Tabulated([0, 1]),
    Tabulated([0, 0.3, 1]),
    Tabulated([0, 0.3, 0.31, 1], [0, 0.25, 0.5, 1]),
]

SHORT = Tabulated([0, 0.1 + 0.2, 1])
LONG = Tabulated(np.linspace(0, 1, 1000) ** 2, np.linspace(0, 1, 1000) ** 0.5)  # type: ignore[arg-type]
named = pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)


def log_uniform(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log(low), math.log(high)).map(math.exp)


betas = st.builds(Beta, log_uniform(0.05, 5), log_uniform(0.05, 5))


def close(
    value: torch.Tensor, right: torch.Tensor | np.ndarray | list[float], tolerance: float = 1e-12
) -> None:
    torch.testing.assert_close(
        value, torch.as_tensor(right, dtype=torch.float64), rtol=tolerance, atol=tolerance
    )


def grid(count: int = 200) -> torch.Tensor:
    """Return times strictly inside (0, 1)."""
    return torch.linspace(0, 1, count + 2, dtype=torch.float64)[1:-1]


def geometric(low: float, high: float) -> object:
    def alpha(t: mpmath.mpf) -> mpmath.mpf:
        first, last = mpmath.mpf(low), mpmath.mpf(high)
        sigma = first**t * last ** (1 - t)
        return (mpmath.exp(-sigma) - mpmath.exp(-last)) / (mpmath.exp(-first) - mpmath.exp(-last))

    return alpha
