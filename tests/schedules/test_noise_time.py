"""Noise time, loss weights, and digits kept where alpha or 1 - alpha is tiny."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from schedule_cases import INF, close, geometric, named

from mdm_schedules.schedules import (
    Beta,
    Cosine,
    EnergyOptimal,
    Geometric,
    Linear,
    Polynomial,
    Schedule,
    Sine,
    SquaredSine,
    Tabulated,
)


@named
def test_noise_time_and_loss_weight(schedule: Schedule) -> None:
    t = torch.linspace(0, 1, 129, dtype=torch.float64)
    close(schedule.alpha_noise(t), schedule.alpha(1 - t))
    close(schedule.alpha_noise_dot(t), -schedule.alpha_dot(1 - t))
    middle = t[(schedule.alpha(t) < 0.9) & schedule.alpha_dot(t).isfinite()]
    close(
        schedule.loss_weight(middle),
        schedule.alpha_dot(middle) / (1 - schedule.alpha(middle)),
        1e-9,
    )
    weight = schedule.loss_weight(t)
    assert not bool(weight.isnan().any())
    assert bool(weight[1:-1].isfinite().all())
    assert weight[-1] == INF


def test_loss_weight_of_linear_is_the_reciprocal_of_the_noise_time() -> None:
    t = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    close(Linear().loss_weight(t), 1 / (1 - t))


@pytest.mark.parametrize(
    ("schedule", "power"), [(SquaredSine(), 2), (Sine(), 2), (Beta(1, 5), 10), (Beta(2, 200), 400)]
)
def test_loss_weight_keeps_its_digits_where_alpha_rounds_to_one(
    schedule: Schedule, power: float
) -> None:
    """1 - alpha ~ (1 - t)^power, so the weight is power / (1 - t), however near to 1."""
    for distance in (2.0**-20, 2.0**-30, 2.0**-53):
        assert schedule.loss_weight(1 - distance) * distance == pytest.approx(power, rel=1e-3)


NOISE_REFERENCES = [
    (Linear(), lambda u: 1 - u),
    (Sine(), lambda u: mpmath.cos(mpmath.pi / 2 * u)),
    (SquaredSine(), lambda u: mpmath.cos(mpmath.pi / 2 * u) ** 2),
    (EnergyOptimal("sine"), lambda u: mpmath.cos(mpmath.pi / 2 * u)),
    (Cosine(), lambda u: 1 - mpmath.sin(mpmath.pi / 2 * u)),
    (Polynomial(2.5), lambda u: (1 - u) ** mpmath.mpf(2.5)),
    (Geometric(), lambda u: geometric(1e-5, 20)(1 - u)),
    (Geometric(1e-12, 700), lambda u: geometric(1e-12, 700)(1 - u)),
    (
        Tabulated([0, 0.3, 1]),
        lambda u: mpmath.cos(u * (mpmath.pi - 2 * mpmath.asin(mpmath.sqrt(mpmath.mpf(0.3))))) ** 2,
    ),
    *(
        (
            Beta(a, b),
            lambda u, a=a, b=b: (
                mpmath.cos(mpmath.pi / 2 * mpmath.betainc(b, a, 0, u, regularized=True)) ** 2
            ),
        )
        for a, b in ((0.3, 0.3), (0.9, 0.3), (2.0, 5.0), (0.05, 5.0))
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "formula"), NOISE_REFERENCES, ids=lambda value: repr(value)[:40]
)
def test_noise_time_keeps_its_digits_where_one_minus_tau_rounds_to_one(schedule, formula) -> None:  # type: ignore[no-untyped-def]
    for tau in (1e-30, 1e-17, 1e-16, 3e-16, 1e-15, 1e-12, 1e-6, 0.1, 0.45):
        with mpmath.workdps(350):
            exact = mpmath.mpf(tau)
            slope = float(mpmath.diff(formula, exact, h=exact * mpmath.mpf(10) ** -18))
            value = float(formula(exact))
        assert schedule.alpha_noise(tau) == pytest.approx(value, rel=0, abs=1e-13)
        assert schedule.alpha_noise_dot(tau) == pytest.approx(slope, rel=1e-10, abs=1e-300)


def beta_tails(a: float, b: float, time: float) -> tuple[mpmath.mpf, ...]:
    """Return the CDF of a Beta(a, b) law, its complement and its density.

    They are computed by a series of positive terms.
    """
    a, b, t = mpmath.mpf(a), mpmath.mpf(b), mpmath.mpf(time)
    log_beta = mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b)

    def beyond(a: mpmath.mpf, b: mpmath.mpf, t: mpmath.mpf) -> mpmath.mpf:
        term = total = mpmath.mpf(1)
        k = 0
        while term > total * mpmath.mpf(10) ** -25:
            term *= (a + b + k) / (b + 1 + k) * (1 - t)
            total += term
            k += 1
        return mpmath.exp(a * mpmath.log(t) + b * mpmath.log(1 - t) - log_beta) / b * total

    if t > max(a / (a + b), 0.01):
        high = beyond(a, b, t)
        low = 1 - high
    else:
        low = beyond(b, a, 1 - t)
        high = 1 - low
    density = mpmath.exp((a - 1) * mpmath.log(t) + (b - 1) * mpmath.log(1 - t) - log_beta)
    return low, high, density


@pytest.mark.slow
@pytest.mark.parametrize(
    ("a", "b"),
    [
        *((300, 300), (1000, 1000), (1e5, 1e5), (1e6, 1e6)),  # the last is MAX_SHAPE
        *(
            (1e6, 0.3),
            (0.3, 1e6),
            (1e4, 1e3),
            (50, 3),
            (3, 50),
            (0.01, 200),
            (101, 0.5),
            (0.5, 0.5),
        ),
    ],
)
def test_beta_keeps_its_digits_over_the_whole_curve(a: float, b: float) -> None:
    schedule, mean = Beta(a, b), a / (a + b)
    width = math.sqrt(mean * (1 - mean) / (a + b + 1))
    times = [mean + k * width for k in (-60, -45, -38, -30, -3, 0, 3, 30, 36, 37, 38, 40, 60)]
    times += [1e-9, 0.1, 0.844, 0.9, 1 - 2.0**-30, 1 - 2.0**-53]
    for t in times:
        # (the series of the reference is too long where 1 - t is tiny below the mean)
        if not 0 < t < 1 or (b < 1 and 0.99 < t <= mean):
            continue
        with mpmath.workdps(40):
            low, high, density = beta_tails(a, b, t)
            tangent = (
                mpmath.tan(mpmath.pi / 2 * low)
                if low < 0.5
                else 1 / mpmath.tan(mpmath.pi / 2 * high)
            )
            weight = mpmath.pi * density * tangent
            gamma = schedule.gamma(t)
            room = 1e-9 * min(low, high) + (2.0**-53 if gamma > 0.5 else 1e-290)
            assert abs(gamma - low) <= room
            assert schedule.gamma_dot(t) == pytest.approx(float(density), rel=1e-9, abs=1e-290)
            assert schedule.loss_weight(t) == pytest.approx(float(weight), rel=1e-9, abs=1e-290)


@pytest.mark.parametrize(
    ("schedule", "gamma"),
    [
        (Linear(), lambda t: mpmath.asin(mpmath.sqrt(t))),
        (Sine(), lambda t: mpmath.asin(mpmath.sqrt(mpmath.sin(mpmath.pi / 2 * t)))),
        (Cosine(), lambda t: mpmath.asin(mpmath.sqrt(2) * mpmath.sin(mpmath.pi / 4 * t))),
        (Polynomial(1000), lambda t: mpmath.asin(t**500)),
        (Polynomial(0.05), lambda t: mpmath.asin(t ** mpmath.mpf(0.025))),
        (
            Geometric(1e-12, 700),
            lambda t: mpmath.asin(mpmath.sqrt(geometric(1e-12, 700)(t))),
        ),
    ],
    ids=repr,
)
def test_gamma_keeps_its_digits_where_alpha_underflows(schedule, gamma) -> None:  # type: ignore[no-untyped-def]
    for t in (1e-300, 1e-200, 1e-25, 1e-9, 0.4, 0.6, 0.9, 1 - 2.0**-30, 1 - 2.0**-53):
        with mpmath.workdps(400):
            exact = mpmath.mpf(t)
            value = 2 / mpmath.pi * gamma(exact)
            h = exact * (1 - exact) * mpmath.mpf(10) ** -20
            slope = float(2 / mpmath.pi * mpmath.diff(gamma, exact, h=h))
            room = 1e-9 * min(value, 1 - value) + (2.0**-53 if value > 0.5 else 1e-300)
            assert abs(schedule.gamma(t) - value) <= room
        if slope < 1e308:  # else infinite as a float
            assert schedule.gamma_dot(t) == pytest.approx(slope, rel=1e-9, abs=1e-300)


def test_the_inverse_of_beta_near_zero() -> None:
    """Near zero scipy's betaincinv is NaN or wrong for some shapes."""
    assert Beta(1.0277162986057, 0.8741149231878376).inverse(6.90551352016226e-33) < 1e-15
    random = np.random.default_rng(0)
    alpha = torch.logspace(-320, -1, 200, dtype=torch.float64)
    for _ in range(100):
        schedule = Beta(*np.exp(random.uniform(math.log(0.05), math.log(50), 2)))
        t = schedule.inverse(alpha)
        assert not bool(t.isnan().any())
        felt = (t > 1e-290) & (alpha > 1e-290)
        torch.testing.assert_close(schedule.alpha(t)[felt], alpha[felt], rtol=1e-9, atol=0)
