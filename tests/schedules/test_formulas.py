"""Formulas, slopes and inverses, each against another way to compute it."""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from schedule_cases import betas, close, geometric, grid, log_uniform, quick

import mdm_schedules as mdm
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
from mdm_schedules.testing import check_schedule

REFERENCES = [
    (Linear(), lambda t: t),
    # exp(-total noise), noise -log(1 - tau)
    (LogLinear(), lambda t: mpmath.exp(mpmath.log1p(-(1 - t)))),
    (Sine(), lambda t: mpmath.cos(mpmath.pi / 2 * (1 - t))),
    (SquaredSine(), lambda t: (1 - mpmath.cos(mpmath.pi * t)) / 2),
    (Cosine(), lambda t: 1 - mpmath.cos(mpmath.pi / 2 * t)),
    (Shifted(0.1), lambda t: t / 10 / (1 - mpmath.mpf(9) / 10 * t)),
    (Shifted(6), lambda t: 6 * t / (1 + 5 * t)),
    (Polynomial(2.5), lambda t: mpmath.exp(2.5 * mpmath.log(t))),
    (EnergyOptimal(), lambda t: mpmath.sin(mpmath.pi / 2 * t) ** 2),
    (
        EnergyOptimal(lambda t: (t + t**2) / 2),
        lambda t: mpmath.sin(mpmath.pi / 4 * (t + t**2)) ** 2,
    ),
    (
        Tabulated([0, 0.5, 1], [0, 0.25, 1]),
        lambda t: mpmath.sin(mpmath.pi / 2 * min(2 * t, (1 + 2 * t) / 3)) ** 2,
    ),
    *(
        (
            Beta(a, b),
            lambda t, a=a, b=b: (
                mpmath.sin(mpmath.pi / 2 * mpmath.betainc(a, b, 0, t, regularized=True)) ** 2
            ),
        )
        for a, b in ((0.9, 0.3), (1.0, 0.2), (0.05, 0.05), (0.1, 4.0), (5.0, 5.0), (0.5, 2.0))
    ),
]


REFERENCES += [
    (Geometric(low, high), geometric(low, high))
    for low, high in ((1e-5, 20), (0.5, 0.6), (1e-12, 700))
]


@pytest.mark.parametrize(("schedule", "formula"), REFERENCES, ids=lambda value: repr(value)[:40])
def test_formulas_slopes_and_weights_against_mpmath(schedule: Schedule, formula) -> None:  # type: ignore[no-untyped-def]
    """alpha, its slope, gamma and the loss weight keep many digits, also very near both ends."""
    times = [1e-9, 1e-4, 0.1, 0.37, 0.61, 0.9, 1 - 1e-4, 1 - 2.0**-30]
    with mpmath.workdps(120):
        exact = [mpmath.mpf(t) for t in times]
        alpha = [formula(t) for t in exact]
        slope = [mpmath.diff(formula, t, h=t * (1 - t) * mpmath.mpf(10) ** -15) for t in exact]
        gamma = [2 / mpmath.pi * mpmath.asin(mpmath.sqrt(value)) for value in alpha]
        weight = [b / (1 - a) for a, b in zip(alpha, slope, strict=True)]
        expected = {
            name: [float(value) for value in values]
            for name, values in (
                ("alpha", alpha),
                ("alpha_dot", slope),
                ("gamma", gamma),
                ("loss_weight", weight),
            )
        }
    t = torch.tensor(times, dtype=torch.float64)
    for name, right in expected.items():
        torch.testing.assert_close(
            getattr(schedule, name)(t),
            torch.tensor(right, dtype=torch.float64),
            rtol=1e-9,
            atol=1e-300,
            msg=name,
        )


def test_two_betas_are_closed_forms() -> None:
    t = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    for beta, closed in ((Beta(0.5, 0.5), Linear()), (Beta(1, 1), SquaredSine())):
        close(beta.alpha(t), closed.alpha(t))
        close(beta.inverse(t), closed.inverse(t))
        close(beta.alpha_dot(t), closed.alpha_dot(t), 1e-11)
        close(beta.gamma(t), closed.gamma(t), 1e-11)
    close(Linear().alpha(t), t, 0)


def test_other_identities() -> None:
    t = grid()
    close(LogLinear().alpha(t), Linear().alpha(t), 0)
    close(Shifted(1).alpha(t), Linear().alpha(t), 1e-15)
    close(Shifted(0.2).alpha(t), 1 - Shifted(5).alpha(1 - t), 1e-15)
    close(Polynomial(1).alpha(t), Linear().alpha(t), 0)
    close(EnergyOptimal().alpha(t), SquaredSine().alpha(t))
    close(EnergyOptimal("linear").alpha(t), t, 0)
    close(EnergyOptimal(lambda x: x).alpha(t), SquaredSine().alpha(t))
    close(Tabulated([0, 1]).alpha(t), SquaredSine().alpha(t))
    close(Beta(0.3, 2).alpha(t), 1 - Beta(2, 0.3).alpha(1 - t))  # the mirror image
    close(Cosine().alpha(t), 1 - Sine().alpha(1 - t))


@pytest.mark.parametrize(
    "name", ["linear", "cosine", "beta(a=0.9, b=0.3)", "geometric", "polynomial(p=3)"]
)
def test_dense_tables_reproduce_a_schedule(name: str) -> None:
    schedule, t = mdm.get_schedule(name), torch.linspace(0, 1, 4097, dtype=torch.float64)
    table = Tabulated(schedule.alpha(t), t)
    close(table.alpha(t), schedule.alpha(t))
    close(table.alpha(grid(1000)), schedule.alpha(grid(1000)), 1e-3)


@quick
@given(betas, st.floats(0, 1), st.floats(0, 1))
def test_alpha_never_falls_however_near_the_times(
    schedule: Schedule, t: float, where: float
) -> None:
    near = [
        float(np.nextafter(t, direction))
        for direction in (-1, 2)
        if 0 <= np.nextafter(t, direction) <= 1
    ]
    times = sorted({t, where, *near})
    alpha = [schedule.alpha(time) for time in times]
    # scipy's incomplete beta function is rounded by some units of the last place
    assert all(later - earlier >= -4e-15 for earlier, later in itertools.pairwise(alpha))


def test_small_shapes_do_not_lose_the_times_that_one_minus_t_cannot_tell() -> None:
    t = torch.tensor([1e-300, 1e-30, 1e-18, 1e-15, 1e-3], dtype=torch.float64)
    alpha = Beta(0.01, 1).alpha(t)
    close(alpha, np.sin(np.pi / 2 * t.numpy() ** 0.01) ** 2)
    assert bool((alpha.diff() > 0).all())
    close(Beta(0.01, 1).inverse(alpha[1:]) / t[1:], [1.0] * 4, 1e-10)


@pytest.mark.parametrize(
    ("a", "b"), [(1.0000010000005, 1.0000010000005), (1.1852228316555249,) * 2, (0.296,) * 2]
)
def test_the_inverse_of_beta_near_the_middle(a: float, b: float) -> None:
    """scipy's betaincinv and betainccinv are off by up to 1e-8 in the middle when a is about b."""
    schedule = Beta(a, b)
    assert schedule.inverse(0.5) == pytest.approx(0.5, rel=0, abs=1e-15)
    x = torch.cat([grid(2001), 0.5 + torch.logspace(-16, -1, 61, dtype=torch.float64)])
    close(schedule.alpha(schedule.inverse(x)), x, 1e-13)
    check_schedule(schedule)


@quick
@given(log_uniform(0.05, 5), st.one_of(st.just(0.0), log_uniform(1e-9, 1e-2)))
def test_the_inverse_of_nearly_symmetric_betas(a: float, apart: float) -> None:
    schedule = Beta(a, a * (1 + apart))
    x = 0.5 + torch.cat([0.6 * (grid(501) - 0.5), torch.logspace(-16, -1, 61, dtype=torch.float64)])
    close(schedule.alpha(schedule.inverse(x)), x, 1e-11)
