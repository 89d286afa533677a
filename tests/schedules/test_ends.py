"""The ends of every curve: exact values, and the slopes there."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from schedule_cases import INF, close, grid, named

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
from mdm_schedules.testing import check_schedule

END_SLOPES = [
    (Linear(), 1, 1),
    (LogLinear(), 1, 1),
    (Sine(), math.pi / 2, 0),
    (SquaredSine(), 0, 0),
    (Cosine(), 0, math.pi / 2),
    (Polynomial(2), 0, 2),
    (Polynomial(1), 1, 1),
    (Polynomial(0.5), INF, 0.5),
    (Beta(0.3, 0.3), INF, INF),
    (Beta(0.3, 2), INF, 0),
    (Beta(2, 0.3), 0, INF),
    (Beta(0.5, 0.5), 1, 1),
    (Beta(0.5, 1), math.pi**2 / 4, 0),  # gamma = sqrt t
    (Beta(1, 0.5), 0, math.pi**2 / 4),
    (EnergyOptimal(), 0, 0),
    (EnergyOptimal("sine"), math.pi / 2, 0),
    (EnergyOptimal(lambda t: t), 0, 0),
    (EnergyOptimal(torch.sqrt), math.pi**2 / 4, 0),
    (EnergyOptimal(lambda t: t**0.25), INF, 0),
    (EnergyOptimal(lambda t: t**0.75), 0, 0),
    (EnergyOptimal(lambda t: 1 - (1 - t).sqrt()), 0, math.pi**2 / 4),
    (EnergyOptimal(lambda t: 1 - (1 - t) ** 0.25), 0, INF),
    (Tabulated([0, 0.3, 1]), 0, 0),
]


@pytest.mark.parametrize(("schedule", "first", "last"), END_SLOPES, ids=repr)
def test_end_slopes(schedule: Schedule, first: float, last: float) -> None:
    assert schedule.alpha_dot(0.0) == pytest.approx(first, rel=1e-5, abs=0)
    assert schedule.alpha_dot(1.0) == pytest.approx(last, rel=1e-5, abs=0)
    assert schedule.alpha_noise_dot(1.0) == pytest.approx(-first, rel=1e-5, abs=0)


@pytest.mark.parametrize(
    ("schedule", "first", "last"),
    [
        (Linear(), INF, INF),
        (Sine(), INF, 1 / math.sqrt(2)),
        (Cosine(), 1 / math.sqrt(2), INF),
        (SquaredSine(), 1, 1),
        (Polynomial(2), 2 / math.pi, INF),
        (Polynomial(3), 0, INF),
        (Polynomial(1.5), INF, INF),
        (Beta(1, 1), 1, 1),
        (Beta(2, 0.3), 0, INF),
        (Beta(1, 3), 3, 0),
        (EnergyOptimal(), 1, 1),
        (EnergyOptimal(torch.sqrt), INF, 0.5),
        (Geometric(), INF, INF),
    ],
    ids=repr,
)
def test_end_slopes_of_gamma(schedule: Schedule, first: float, last: float) -> None:
    assert schedule.gamma_dot(0.0) == pytest.approx(first, rel=1e-9, abs=0)
    assert schedule.gamma_dot(1.0) == pytest.approx(last, rel=1e-9, abs=0)
    assert schedule.loss_weight(1.0) == INF


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_a_schedule_with_two_formulas_only_gets_the_rest(power: float) -> None:
    """The base class finds the inverse, gamma and their ends for alpha = t^p.

    Its gamma starts like t^(p/2).
    """
    parts = {
        "_alpha": lambda self, t: t**power,
        "_alpha_dot": lambda self, t: power * t ** (power - 1),
    }
    schedule = dataclasses.dataclass(frozen=True, repr=False)(
        type("Power", (Schedule,), {"name": "power", **parts})
    )()
    check_schedule(schedule, registered=False)
    close(schedule.inverse(grid()), grid() ** (1 / power))
    expected = 0 if power > 2 else INF if power < 2 else 2 / math.pi
    assert schedule.gamma_dot(0.0) == pytest.approx(expected, rel=1e-3, abs=0)
    assert schedule.gamma_dot(1.0) == INF


@named
def test_ends_are_exact_in_every_dtype(schedule: Schedule) -> None:
    for dtype in (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.long,
        torch.uint8,
    ):
        ends = torch.tensor([0, 1], dtype=dtype)
        for method in (schedule.alpha, schedule.inverse, schedule.gamma):
            assert method(ends).tolist() == [0.0, 1.0]
        assert schedule.alpha_noise(ends).tolist() == [1.0, 0.0]
