"""The energy of finitely many steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from energy_cases import PI2
from hypothesis import given, settings
from hypothesis import strategies as st

from mdm_schedules.energy import (
    discrete_energy,
    token_energy,
)
from mdm_schedules.schedules import (
    Beta,
    SquaredSine,
)


@pytest.mark.parametrize(
    ("schedule", "gamma"),
    [(SquaredSine(), None), (Beta(2.0, 3.0), None), (Beta(3.0, 2.0), Beta(2.0, 2.0))],
)
def test_discrete_energy_converges_to_the_continuous_one_at_second_order(schedule, gamma):
    steps = np.array([32, 64, 128, 256, 512])
    gaps = [
        abs(discrete_energy(schedule, int(k), gamma) - token_energy(schedule, gamma)) for k in steps
    ]
    order = -np.polyfit(np.log(steps), np.log(gaps), 1)[0]
    assert order == pytest.approx(2, abs=0.1)


def test_discrete_energy_has_its_closed_forms():
    for k in (1, 2, 7, 100):
        assert discrete_energy(SquaredSine(), k) == pytest.approx(
            16 * k**2 * math.sin(math.pi / (4 * k)) ** 2
        )
    # divergent: the sum grows by twice the logarithm of the steps
    growth = discrete_energy("linear", 4000) - discrete_energy("linear", 1000)
    assert growth == pytest.approx(2 * math.log(4), rel=1e-4)
    # steep ends: increments of gamma far below the rounding of gamma near 1
    assert discrete_energy(Beta(1.0, 9.0), 4096, Beta(1.0, 9.0)) == pytest.approx(PI2, rel=1e-4)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=24).filter(lambda plan: sum(plan) > 0))
def test_no_plan_beats_the_optimum_on_the_same_steps(plan):
    energy, best = discrete_energy(torch.tensor(plan)), discrete_energy(SquaredSine(), len(plan))
    assert energy >= best - 1e-9
    fractions = np.concatenate([[0], np.cumsum(plan) / sum(plan)])
    thetas = np.diff(np.arcsin(np.sqrt(fractions)))
    assert energy == pytest.approx((8 * (1 - np.cos(thetas))).sum() * len(plan), rel=1e-9)
    assert discrete_energy(plan, len(plan), "linear") > 0


def test_on_uneven_gamma_the_chords_have_a_slightly_lower_minimum():
    """sum 8 (1 - cos theta) / dgamma is stationary at sin theta ~ dgamma.

    On alpha*, by contrast, theta ~ dgamma.
    """
    gamma = Beta(2.0, 0.7)
    gaps = []
    for k in (16, 32, 64):
        span = np.diff(gamma.gamma(np.arange(k + 1) / k))
        low, high = 0.0, 1 / span.max()
        for _ in range(100):
            scale = (low + high) / 2
            low, high = (
                (scale, high) if np.arcsin(scale * span).sum() < math.pi / 2 else (low, scale)
            )
        theta = np.arcsin(low * span)
        best = (8 * (1 - np.cos(theta)) / span).sum()
        gaps.append(discrete_energy(gamma, k, gamma) - best)
    assert all(gap > 0 for gap in gaps)
    assert gaps[0] < 1e-2
    assert gaps[2] < gaps[1] / 2 < gaps[0] / 4


def test_plans_follow_the_schedule_they_come_from():
    for schedule in (SquaredSine(), Beta(0.9, 0.6)):
        plan = schedule.plan(1 << 20, 16)
        assert discrete_energy(plan, gamma=schedule) == pytest.approx(
            discrete_energy(schedule, 16, schedule), rel=1e-6
        )
    assert discrete_energy([5]) == pytest.approx(8)
    # one pass too many reveals nothing: half the time per chord
    assert discrete_energy([5, 0]) == pytest.approx(16)
