"""Energies that are infinite, and curves of which the powers at the ends are unknown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
from energy_cases import beta_excess

from mdm_schedules.energy import (
    conditional_kinetic_energy,
    energy_excess,
    geodesic_energy,
    kinetic_energy,
    token_energy,
)
from mdm_schedules.schedules import (
    Beta,
    Cosine,
    EnergyOptimal,
    Geometric,
    Linear,
    LogLinear,
    Polynomial,
    Schedule,
    Sine,
    SquaredSine,
)


@pytest.mark.parametrize(
    ("schedule", "gamma"),
    [
        (Linear(), None),
        (LogLinear(), None),
        (Sine(), None),
        (Cosine(), None),
        (Polynomial(2.0), None),
        (Polynomial(0.2), None),
        (Geometric(), None),
        ("beta(0.5, 0.5)", None),
        ("beta(0.5, 3)", "squared_sine"),
        ("beta(3, 0.5)", "squared_sine"),
        (EnergyOptimal("linear"), EnergyOptimal()),
        (SquaredSine(), Beta(2.0, 1.0)),
        (SquaredSine(), Beta(1.0, 2.0)),
        (Beta(100.0, 100.0), Beta(200.0, 100.0)),
    ],
)
def test_divergent_integrals_are_infinite(schedule, gamma):
    assert token_energy(schedule, gamma) == geodesic_energy(schedule, gamma) == math.inf
    assert (
        conditional_kinetic_energy(schedule, gamma, 2)
        == kinetic_energy(schedule, gamma, distribution=[0.5, 0.5])
        == math.inf
    )
    assert energy_excess(schedule, gamma) == math.inf


@pytest.mark.slow
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(("a", "c"), [(0.05, 0.1), (0.4, 0.8), (1.0, 2.0), (5.0, 10.0)])
@pytest.mark.parametrize("room", [-0.1, -1e-9, 0.0, 1e-9, 1e-4, 0.1])
def test_beta_energy_is_finite_exactly_above_the_threshold(a, c, room, swap):
    gamma = Beta(0.7, c * (1 - room)) if swap else Beta(c * (1 - room), 0.7)
    alpha = Beta(1.0, a) if swap else Beta(a, 1.0)
    assert energy_excess(alpha, gamma) == pytest.approx(beta_excess(alpha, gamma), rel=1e-6)
    assert (energy_excess(alpha, gamma) == math.inf) == (room <= 0)


@dataclass(frozen=True, repr=False)
class Foreign(Schedule):
    """Another schedule's alpha and slope, without the methods that keep digits near the ends."""

    inner: Schedule
    name: ClassVar[str] = "foreign"

    def _alpha(self, t):
        return self.inner._alpha(t)

    def _alpha_dot(self, t):
        return self.inner._alpha_dot(t)


def test_schedules_of_others_are_extrapolated():
    for inner in (Linear(), Sine(), Cosine(), Polynomial(2.0), Beta(0.5, 3.0)):
        assert energy_excess(Foreign(inner)) == math.inf
        assert energy_excess(Foreign(inner), Foreign(inner)) == pytest.approx(1, abs=1e-6)
    for alpha, gamma in (
        (SquaredSine(), Linear()),
        (Cosine(), Linear()),
        (Beta(0.3, 2.0), Beta(0.4, 1.5)),
    ):
        expected = energy_excess(alpha, gamma)
        for one, other in ((Foreign(alpha), gamma), (alpha, Foreign(gamma))):
            assert energy_excess(one, other) == pytest.approx(expected, rel=1e-6)
    assert energy_excess(SquaredSine(), Foreign(Beta(2.0, 1.0))) == math.inf
