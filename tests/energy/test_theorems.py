"""Theorems 3.1, 3.2, 3.6 and Proposition 3.7 of arXiv 2509.13866."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from energy_cases import PAIRS, PI2, beta_excess, random_distribution
from hypothesis import given, settings
from hypothesis import strategies as st

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
    Tabulated,
)

pytestmark = pytest.mark.slow

shapes = st.floats(math.log(0.05), math.log(5.0)).map(math.exp)


betas = st.builds(Beta, shapes, shapes)


# -- Theorems 3.1, 3.2, 3.6 and Proposition 3.7
# -------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), list(itertools.product([1, 2, 3, 4], [1, 2, 3])))
def test_energies_agree_up_to_their_constants(n, d):
    # the constants belong to n and d, so that all pairs are needed once for each n only
    for seed, (schedule, gamma) in enumerate(PAIRS if d == 2 else PAIRS[:2]):
        one = token_energy(schedule, gamma)
        assert PI2 <= one + 1e-9 < math.inf
        assert geodesic_energy(schedule, gamma, n) == pytest.approx(n * one, rel=1e-8)
        assert conditional_kinetic_energy(schedule, gamma, n) == pytest.approx(
            n * 2 ** (n - 1) * one, rel=1e-8
        )
        p = random_distribution(n, d, seed)
        assert kinetic_energy(schedule, gamma, distribution=p) == pytest.approx(
            n * (d + 1) ** (n - 1) * one, rel=1e-8
        )


def test_without_full_support_only_reachable_states_count():
    """The target is aaa and bbb.

    A state with k letters shown is one of C(3, k) * (1 if k == 0 else 2), with 3 - k masked.
    """
    p = np.zeros((2, 2, 2))
    p[0, 0, 0], p[1, 1, 1] = 0.25, 0.75
    assert kinetic_energy("cosine", "linear", distribution=p) == pytest.approx(
        (3 + 12 + 6) * token_energy("cosine", "linear")
    )


@settings(deadline=None, max_examples=25)
@given(betas)
def test_every_schedule_has_energy_pi_squared_under_its_own_gamma(schedule):
    for energy in (token_energy(schedule, schedule), geodesic_energy(schedule, schedule)):
        assert energy == pytest.approx(PI2, rel=1e-10)
    assert conditional_kinetic_energy(schedule, schedule, 2) == pytest.approx(4 * PI2, rel=1e-10)
    assert kinetic_energy(
        schedule, schedule, distribution=random_distribution(2, 2)
    ) == pytest.approx(6 * PI2, rel=1e-10)


@pytest.mark.parametrize("a", [0.05, 5.0])
@pytest.mark.parametrize("b", [0.05, 5.0])
def test_extreme_betas_have_energy_pi_squared(a, b):
    energy = token_energy(Beta(a, b), Beta(a, b))
    assert energy == pytest.approx(PI2, rel=1e-10)
    assert energy.error < 1e-7


@pytest.mark.parametrize(
    "schedule",
    [
        Linear(),
        LogLinear(),
        SquaredSine(),
        Sine(),
        Cosine(),
        Polynomial(0.05),
        Polynomial(40.0),
        Geometric(),
    ]
    + [Geometric(1e-3, 5.0), EnergyOptimal("sine"), EnergyOptimal(lambda t: t * t * (3 - 2 * t))]
    + [
        Beta(1e-3, 1e-3),
        Beta(1000.0, 1000.0),
        Tabulated([0, 1e-20, 0.3, 1 - 1e-9, 1], [0, 1e-9, 0.5, 0.9, 1]),
    ],
)
def test_every_family_is_optimal_for_its_own_gamma(schedule):
    assert energy_excess(schedule, schedule) == pytest.approx(1, abs=1e-7)


@settings(deadline=None, max_examples=60)
@given(betas, betas)
def test_pairs_of_betas_have_the_closed_form_and_never_beat_the_optimum(alpha, gamma):
    excess, expected = energy_excess(alpha, gamma), beta_excess(alpha, gamma)
    assert excess == pytest.approx(expected, rel=1e-9)
    assert excess >= 1 - 1e-10
    assert expected == math.inf or abs(excess - expected) <= excess.error


@st.composite
def tables(draw: st.DrawFn) -> Tabulated:
    steps = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=12)
    rises = np.array(draw(steps))
    lengths = np.array(
        draw(st.lists(st.floats(0.01, 1.0), min_size=len(rises), max_size=len(rises)))
    )
    t, alpha = (np.concatenate([[0], x.cumsum() / x.sum()]) for x in (lengths, rises))
    t[-1] = alpha[-1] = 1.0
    return Tabulated(alpha, t)


@settings(deadline=None, max_examples=30)
@given(tables(), betas)
def test_no_random_table_beats_the_optimum(table, gamma):
    assert energy_excess(table, gamma) >= 1 - 1e-10
    # along each arc gamma is linear, so under gamma(t) = t the excess is a sum of squares
    knots = 2 / math.pi * np.arcsin(np.sqrt(table.alpha_knots))
    expected = (np.diff(knots) ** 2 / np.diff(table.t_knots)).sum()
    assert energy_excess(table) == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, max_examples=15)
@given(st.builds(Beta, *[st.floats(0.5, 3.0)] * 2), st.integers(1, 5), st.sampled_from([-0.1, 0.1]))
def test_a_change_of_the_optimum_costs_the_square_of_its_size(gamma, wave, size):
    """The excess of a slightly changed optimum is 1 + size^2 / 2.

    The changed schedule is alpha = sin^2(pi/2 h(gamma)), where
    h(u) = u + size * sin(pi wave u) / (pi wave).
    """

    @dataclass(frozen=True, repr=False)
    class Bent(Schedule):
        name: ClassVar[str] = "bent"

        def _gamma(self, t):
            u = gamma._gamma(t)
            return u + size * torch.sin(math.pi * wave * u) / (math.pi * wave)

        def _gamma_dot(self, t):
            return gamma._gamma_dot(t) * (1 + size * torch.cos(math.pi * wave * gamma._gamma(t)))

        def _alpha(self, t):
            return torch.sin(math.pi / 2 * self._gamma(t)).square()

        def _alpha_dot(self, t):
            return math.pi / 2 * torch.sin(math.pi * self._gamma(t)) * self._gamma_dot(t)

    assert energy_excess(Bent(), gamma) == pytest.approx(1 + size**2 / 2, rel=1e-6)


def test_linear_and_squared_sine_are_betas():
    t = torch.linspace(0, 1, 4097, dtype=torch.float64)
    for schedule, beta in ((Linear(), Beta(0.5, 0.5)), (SquaredSine(), Beta(1.0, 1.0))):
        torch.testing.assert_close(beta.alpha(t), schedule.alpha(t), rtol=0, atol=1e-12)
        for gamma in (None, "linear", Beta(0.8, 0.7)):
            assert token_energy(beta, gamma) == pytest.approx(
                token_energy(schedule, gamma), rel=1e-12
            )
