"""Every schedule keeps the contract over many parameters; formulas are checked another way."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import pickle
import subprocess
import sys

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mdm_schedules as mdm
from mdm_schedules.errors import FormatError, InvalidTypeError, InvalidValueError, MDMError
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
    schedules,
)
from mdm_schedules.testing import check_schedule

quick = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

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
named = pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)


def log_uniform(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log(low), math.log(high)).map(math.exp)


betas = st.builds(Beta, log_uniform(0.05, 5), log_uniform(0.05, 5))


def knots(count: int) -> st.SearchStrategy[list[float]]:
    """Draw `count` inner knots, at least 1e-4 apart."""
    inner = st.lists(st.integers(1, 9999), min_size=count, max_size=count, unique=True)
    return inner.map(lambda values: [0.0, *(value / 10_000 for value in sorted(values)), 1.0])


tables = st.integers(0, 30).flatmap(
    lambda count: st.builds(Tabulated, knots(count), st.one_of(st.none(), knots(count)))
)


def close(
    value: torch.Tensor, right: torch.Tensor | np.ndarray | list[float], tolerance: float = 1e-12
) -> None:
    torch.testing.assert_close(
        value, torch.as_tensor(right, dtype=torch.float64), rtol=tolerance, atol=tolerance
    )


def grid(count: int = 200) -> torch.Tensor:
    """Return times strictly inside (0, 1)."""
    return torch.linspace(0, 1, count + 2, dtype=torch.float64)[1:-1]


# --- the contract


def test_every_registered_schedule_is_among_the_examples() -> None:
    built_in = {row.name for row in mdm.list_schedules() if row.source == "mdm-schedules"}
    assert built_in == {type(schedule).name for schedule in EXAMPLES}
    assert all(schedules.get(name).name == name for name in built_in)


@named
def test_conformance(schedule: Schedule) -> None:
    check_schedule(schedule)


@quick
@given(betas)
def test_conformance_of_beta(schedule: Schedule) -> None:
    check_schedule(schedule)


@quick
@given(st.builds(Polynomial, log_uniform(0.05, 50)))
def test_conformance_of_polynomial(schedule: Schedule) -> None:
    check_schedule(schedule)


@quick
@given(log_uniform(1e-6, 10), log_uniform(1.001, 70))
def test_conformance_of_geometric(sigma_min: float, ratio: float) -> None:
    check_schedule(Geometric(sigma_min, sigma_min * ratio))


@quick
@given(tables)
def test_conformance_of_tables(schedule: Schedule) -> None:
    check_schedule(schedule)


@quick
@given(st.one_of(betas, tables), st.integers(1, 3))
def test_conformance_of_nested_optima(schedule: Schedule, depth: int) -> None:
    for _ in range(depth):
        schedule = EnergyOptimal(schedule)
    check_schedule(schedule)


def make(name: str, **parts: object) -> type[Schedule]:
    """Make a schedule with one part replaced by a wrong one."""
    return dataclasses.dataclass(frozen=True, repr=False)(
        type("Faulty", (SquaredSine,), {"name": name, **parts})
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"_alpha": lambda self, t: 0.999 * t}, "must run from 0 to 1"),
        ({"_alpha": lambda self, t: t + 0.2 * torch.sin(2 * math.pi * t)}, "must not fall"),
        ({"_alpha": lambda self, t: t.round(decimals=1)}, "alpha must rise"),
        ({"_alpha_dot": lambda self, t: torch.ones_like(t)}, "alpha_dot is not the slope"),
        ({"_alpha_dot": lambda self, t: -torch.ones_like(t)}, "must not be negative"),
        ({"_alpha_dot": lambda self, t: t * math.nan}, "must not be negative or NaN"),
        ({"_gamma_dot": lambda self, t: 2 * t}, "gamma_dot is not the slope"),
        ({"_gamma": lambda self, t: t**2, "_gamma_dot": lambda self, t: 2 * t}, "gamma is not"),
        ({"_inverse": lambda self, alpha: alpha}, "differs from x"),
        ({"_masked": lambda self, t: 1 - t}, "loss_weight"),
        ({"_alpha_noise": lambda self, tau: 1 - tau}, "alpha_noise.tau. is not"),
        ({"_alpha_noise_dot": lambda self, tau: -tau}, "alpha_noise_dot.tau. is not"),
        ({"_alpha_noise_dot": lambda self, tau: tau}, "must not be positive"),
        (
            {"_alpha_noise_dot": lambda self, tau: -self._alpha_dot(1 - tau)},
            "by _end_orders it goes on",
        ),
        ({"_end_orders": lambda self: (1.0, 0.5)}, "by _end_orders it goes on"),
        ({"_end_orders": lambda self: (0.5, 1.0)}, r"_end_orders\(\)\[0\] is 0.5"),
        (
            {
                "_end_orders": lambda self: (1.0, 2.0),
                "_alpha_noise_dot": lambda self, tau: -self._alpha_dot(tau) * tau.clamp(max=2**-40),
            },
            "alpha_noise_dot",
        ),
        ({"_alpha": lambda self, t: SquaredSine._alpha(self, t).reshape(-1)}, "gave"),
        ({"_gamma": lambda self, t: t.clone() + 0 * t.zero_()}, "faulty"),  # changes its argument
        ({"_gamma": lambda self, t: t}, "returns its argument"),
    ],
)
def test_the_suite_finds_faults(parts: dict[str, object], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_schedule(make("faulty", **parts)(), registered=False)


def test_the_suite_wants_a_registered_frozen_dataclass() -> None:
    with pytest.raises(MDMError, match="faulty"):
        check_schedule(make("faulty")())
    with pytest.raises(AssertionError, match="belongs to"):
        check_schedule(make("linear")())
    undecorated = type(
        "Undecorated", (Schedule,), {"name": "undecorated", "_alpha": abs, "_alpha_dot": abs}
    )()
    assert "Undecorated object" in repr(undecorated)
    with pytest.raises(InvalidTypeError, match="must be a frozen dataclass"):
        _ = undecorated.params


# --- formulas, each against another way to compute it

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


def geometric(low: float, high: float) -> object:
    def alpha(t: mpmath.mpf) -> mpmath.mpf:
        first, last = mpmath.mpf(low), mpmath.mpf(high)
        sigma = first**t * last ** (1 - t)
        return (mpmath.exp(-sigma) - mpmath.exp(-last)) / (mpmath.exp(-first) - mpmath.exp(-last))

    return alpha


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
    assert all(later - earlier >= -2e-16 for earlier, later in itertools.pairwise(alpha))


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


# --- ends

INF = math.inf
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


# --- other views


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


# --- tensors, arrays, numbers


@named
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_keep_shape_dtype_and_device(
    schedule: Schedule, device: str, dtype: torch.dtype
) -> None:
    t = (
        torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
        .to(device, dtype)
        .transpose(0, 2)[::2]
    )
    assert not t.is_contiguous()
    for method in (
        schedule.alpha,
        schedule.alpha_dot,
        schedule.inverse,
        schedule.gamma,
        schedule.loss_weight,
    ):
        out = method(t)
        assert (out.shape, out.dtype, out.device) == (t.shape, dtype, t.device)
        # one rounding only: float64 inside
        assert torch.equal(out.double(), method(t.double()).to(dtype).double())
    for shape in ((), (0,), (2, 0, 3)):
        assert schedule.alpha(torch.zeros(shape, dtype=dtype, device=device)).shape == shape


@named
def test_numbers_lists_and_arrays(schedule: Schedule) -> None:
    right = schedule.alpha(torch.tensor([0.25, 0.75], dtype=torch.float64))
    assert schedule.alpha(0.25) == float(right[0])
    assert type(schedule.alpha(0.25)) is float
    assert type(schedule.alpha(1)) is float
    listed = schedule.alpha([0.25, 0.75])
    assert isinstance(listed, torch.Tensor)
    assert torch.equal(listed, right)
    for dtype in (np.float16, np.float32, np.float64, ">f8"):
        array = np.array([[0.25, 0.75]], dtype=dtype)
        out = schedule.alpha(array)
        assert isinstance(out, np.ndarray)
        assert (out.shape, out.dtype) == (array.shape, array.dtype)
    assert isinstance(schedule.alpha(np.float32(0.25)), np.float32)
    assert schedule.alpha(np.int64(1)) == 1.0
    frozen = np.array([0.25, 0.75])
    frozen.flags.writeable = False
    assert np.array_equal(schedule.alpha(frozen), right.numpy())


@named
def test_gradients_are_the_slopes(schedule: Schedule) -> None:
    for method, slope in (
        (schedule.alpha, schedule.alpha_dot),
        (schedule.gamma, schedule.gamma_dot),
        (schedule.alpha_noise, schedule.alpha_noise_dot),
    ):
        for dtype in (torch.float32, torch.float64):
            leaf = grid(50).to(dtype).requires_grad_(True)
            value = method(leaf)
            assert value.requires_grad
            (3 * value).sum().backward()
            assert leaf.grad is not None
            assert torch.equal(leaf.grad, 3 * slope(leaf.detach()))
            with torch.no_grad():
                assert not method(leaf).requires_grad
    assert not schedule.alpha(grid()).requires_grad


def test_gradcheck() -> None:
    t = grid(20).requires_grad_(True)
    for schedule in (
        Beta(0.9, 0.3),
        Cosine(),
        Geometric(),
        EnergyOptimal(lambda x: (x + x**2) / 2),
    ):
        assert torch.autograd.gradcheck(schedule.alpha, (t,))
        assert torch.autograd.gradcheck(schedule.gamma, (t,))


def test_default_device_and_dtype_do_not_matter() -> None:
    """transformers builds models under `with torch.device("meta")`."""
    with torch.device("meta"):
        built = [EnergyOptimal(lambda t: t), Tabulated([0, 0.3, 1]), Beta(0.9, 0.3)]
        for schedule in built:
            assert schedule.alpha(0.5) > 0
            assert schedule.plan(10, 4).tolist() == schedule.plan(10, 4).tolist()
            assert schedule.gamma_dot(0.0) >= 0
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        assert Beta(0.9, 0.3).alpha([0.3]).dtype == torch.float64
        assert EnergyOptimal(torch.sqrt).alpha_dot(0.0) == pytest.approx(math.pi**2 / 4, rel=1e-5)
    finally:
        torch.set_default_dtype(before)


# --- bad input


@named
@pytest.mark.parametrize(
    "method", ["alpha", "alpha_dot", "inverse", "gamma", "gamma_dot", "loss_weight", "alpha_noise"]
)
def test_values_outside_zero_to_one_are_refused(schedule: Schedule, method: str) -> None:
    call = getattr(schedule, method)
    for bad in (
        -0.1,
        1.1,
        math.nan,
        INF,
        -INF,
        2,
        np.float64(-1e-9),
        np.array([0.5, 1.5]),
        [0.5, math.nan],
    ):
        with pytest.raises(InvalidValueError, match=r"must lie in \[0, 1\], got"):
            call(bad)
    for dtype in (torch.float16, torch.float64):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            call(torch.tensor([0.5, -0.5], dtype=dtype))
    with pytest.raises(InvalidValueError, match="got 7"):
        call(torch.tensor([1, 7]))


BAD_KINDS = [
    True,
    None,
    "0.5",
    b"0.5",
    1j,
    object(),
    {},
    {0.5},
    [True, False],
    [None],
    ["0.5"],
    [[0.1], [0.1, 0.2]],
    np.array([True]),
    np.True_,
    np.array(["0.5"]),
    np.array([0.5 + 0j]),
    np.array([1], dtype="datetime64[s]"),
    torch.tensor([True]),
    torch.tensor([0.5 + 0j]),
    torch.eye(2).to_sparse(),
    torch.zeros(2, device="meta"),
    torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)]),
    10**400,
]


@pytest.mark.parametrize("bad", BAD_KINDS, ids=lambda value: str(value)[:30])
def test_what_is_no_real_number_is_refused(bad: object) -> None:
    for method in (Linear().alpha, Beta(0.9, 0.3).inverse, Cosine().alpha_dot, Sine().alpha_noise):
        with pytest.raises(InvalidTypeError, match=r"(t|alpha|tau) must .*got") as caught:
            method(bad)
        assert isinstance(caught.value, TypeError)
        assert len(str(caught.value)) < 400


BAD_NUMBERS = [0, -1, -0.5, INF, -INF, math.nan, 10**400]
BAD_PARAMETERS = [
    True,
    "0.5",
    None,
    torch.tensor(0.5),
    torch.tensor([0.5]),
    np.array(0.5),
    np.True_,
    [0.5],
    1j,
]


@pytest.mark.parametrize(
    ("cls", "key", "rest"),
    [
        (Beta, "a", {"b": 1}),
        (Beta, "b", {"a": 1}),
        (Polynomial, "p", {}),
        (Geometric, "sigma_min", {}),
        (Geometric, "sigma_max", {}),
    ],
)
def test_bad_parameters_are_refused_by_name_value_and_range(
    cls: type[Schedule], key: str, rest: dict
) -> None:
    for bad in BAD_NUMBERS:
        with pytest.raises(
            InvalidValueError, match=rf"{key} must be a finite number in [(\[].*got"
        ):
            cls(**{key: bad}, **rest)
    for bad in BAD_PARAMETERS:
        with pytest.raises(InvalidTypeError, match=rf"{key} must be a finite number in [(\[].*got"):
            cls(**{key: bad}, **rest)
    assert isinstance(cls(**{key: np.float32(0.5)}, **rest), cls)


def test_more_bad_parameters() -> None:
    with pytest.raises(InvalidValueError, match="sigma_min must be below sigma_max"):
        Geometric(2.0, 1.0)
    with pytest.raises(InvalidValueError, match=r"\(0, 1e\+06\], got 1e\+17"):
        Beta(1e17, 1)
    for bad in (5, object(), [0.5], {"name": "linear"}, b"linear"):
        with pytest.raises(InvalidTypeError, match="gamma must be"):
            EnergyOptimal(bad)  # type: ignore[arg-type]
    for function in (
        lambda t: t**2 + 0.1,
        lambda t: 1 - t,
        lambda t: (t * 8).floor() / 8 + 0 * t,
        lambda t: t * math.nan,
    ):
        with pytest.raises(InvalidValueError, match="increase strictly"):
            EnergyOptimal(function)
    for function in (
        lambda t: t.item(),
        lambda t: t.detach(),
        lambda t: 0.5,
        lambda t: t[:3],
        lambda: 0,
    ):
        with pytest.raises(InvalidTypeError, match="gamma must"):
            EnergyOptimal(function)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "alpha",
    [
        [],
        [0],
        [0, 0.5],
        [0.1, 1],
        [1, 0],
        [0, 0.5, 0.5, 1],
        [0, 0.6, 0.5, 1],
        [0, math.nan, 1],
        [0, INF, 1],
        [-1, 0, 1],
    ],
)
def test_bad_knots_are_refused(alpha: list[float]) -> None:
    with pytest.raises(InvalidValueError, match="alpha must"):
        Tabulated(alpha)
    with pytest.raises(InvalidValueError, match=r"t (must|has)|alpha (must|has)"):
        Tabulated([0, 0.5, 0.7, 1], alpha)


@pytest.mark.parametrize(
    "alpha",
    [
        None,
        5,
        "01",
        b"01",
        [[0, 1]],
        [0, None, 1],
        ["0", "1"],
        {0, 1},
        [0, 1j, 1],
        np.array([False, True]),
        [0, [1]],
    ],
)
def test_knots_of_a_wrong_kind_are_refused(alpha: object) -> None:
    with pytest.raises(InvalidTypeError, match="alpha must be a sequence of numbers"):
        Tabulated(alpha)  # type: ignore[arg-type]
    for tensor in (
        torch.tensor([False, True]),
        torch.tensor([0, 1j]),
        torch.zeros(2, device="meta"),
    ):
        with pytest.raises(InvalidTypeError, match="alpha must be a sequence of numbers"):
            Tabulated(tensor)  # type: ignore[arg-type]


def test_knots_from_any_sequence_of_numbers() -> None:
    same = Tabulated([0, 0.25, 1])
    for values in (
        (0, 0.25, 1),
        np.array([0, 0.25, 1], dtype=np.float32),
        torch.tensor([0, 0.25, 1], dtype=torch.bfloat16),
        torch.tensor([0, 0.25, 1], requires_grad=True),
    ):
        assert Tabulated(values) == same  # type: ignore[arg-type]
    mine = np.array([0, 0.25, 1])
    table = Tabulated(mine)  # type: ignore[arg-type]
    mine[1] = 0.9
    assert table == same
    with pytest.raises(InvalidValueError, match="alpha has 2 knots and t has 3"):
        Tabulated([0, 1], [0, 0.5, 1])


def test_knots_that_floats_can_hardly_tell_apart() -> None:
    tight = [
        0,
        0.5,
        math.nextafter(0.5, 1),
        math.nextafter(math.nextafter(0.5, 1), 1),
        1 - 2.0**-53,
        1,
    ]
    for t in (None, [0, 1e-299, 1e-200, 0.5, 1 - 2.0**-53, 1]):
        table = Tabulated(tight, t)
        times = torch.linspace(0, 1, 1001, dtype=torch.float64)
        for values in (table.alpha(times), table.inverse(times), table.gamma(times)):
            assert not bool(values.isnan().any())
            assert bool((values.diff() >= -1e-15).all())


@pytest.mark.parametrize("gap", [1e-9, 1e-12, 1e-15, 1e-16, 1e-17, 1e-20, 1e-299])
def test_knots_near_each_other_give_finite_curves(gap: float) -> None:
    for alpha, t in (
        ([0, 0.5, 1], [0, gap, 1]),
        ([0, gap, 1], [0, 0.5, 1]),
        ([0, 0.5, 0.5 + gap, 1], [0, 0.3, 0.6, 1]),
        ([0, 0.3, 0.6, 1], [0, 0.5, 0.5 + gap, 1]),
        ([0, 1 - gap, 1], [0, 0.5, 1]),
        ([0, 0.5, 1], [0, 1 - gap, 1]),
    ):
        if min(np.diff(alpha).min(), np.diff(t).min()) == 0:
            continue  # one float: refused
        table = Tabulated(alpha, t)
        times = torch.tensor(sorted({0, gap, 0.3, 0.5, 0.5 + gap, 1 - gap, 1}), dtype=torch.float64)
        for method in (table.alpha, table.alpha_dot, table.gamma, table.gamma_dot, table.inverse):
            assert bool(method(times).isfinite().all())
        assert bool(table.loss_weight(times[times < 1]).isfinite().all())
        assert bool((table.gamma_dot(times) >= 0).all())


def test_knots_whose_slope_is_no_float_are_refused() -> None:
    for gap in (5e-324, 1e-310, 1e-301):
        with pytest.raises(
            InvalidValueError, match=r"knots too close for float64: 0.0 and .* merge"
        ):
            Tabulated([0, 0.5, 1], [0, gap, 1])


# --- objects


@named
def test_schedules_are_values(schedule: Schedule) -> None:
    for twin in (
        copy.copy(schedule),
        copy.deepcopy(schedule),
        pickle.loads(pickle.dumps(schedule)),
    ):
        assert twin == schedule
        assert hash(twin) == hash(schedule)
        assert {twin, schedule} == {schedule}
    assert schedule != "linear"
    with pytest.raises(AttributeError):
        schedule.extra = 1  # type: ignore[attr-defined]
    for field in dataclasses.fields(schedule):  # type: ignore[arg-type]
        with pytest.raises(AttributeError):
            setattr(schedule, field.name, 1)
        with pytest.raises(AttributeError):
            delattr(schedule, field.name)


def test_equal_means_same_family_and_parameters() -> None:
    assert Beta(1, 0.5) == Beta(1.0, np.float64(0.5))
    assert Beta(1, 0.5) != Beta(0.5, 1)
    assert Linear() != LogLinear()
    assert Tabulated([0, 0.5, 1]) != Tabulated([0, 0.4, 1])
    assert EnergyOptimal("linear") == EnergyOptimal(Linear())
    assert len({repr(schedule) for schedule in EXAMPLES}) == len(set(EXAMPLES)) == len(EXAMPLES)
    assert repr(Beta(0.9, 0.3)) == "beta(a=0.9, b=0.3)"
    assert repr(Beta(np.float32(0.5), 1)) == "beta(a=0.5, b=1.0)"


def test_pickles_travel_between_processes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    savable = list(EXAMPLES)
    file = tmp_path / "schedules.pickle"
    file.write_bytes(pickle.dumps(savable))
    code = (
        "import pickle, sys\n"
        "with open(sys.argv[1], 'rb') as file: schedules = pickle.load(file)\n"
        "for s in schedules: print(repr(s), s.alpha(0.3).hex(), sep='|')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines() == [
        f"{schedule!r}|{schedule.alpha(0.3).hex()}" for schedule in savable
    ]


def test_an_optimum_for_a_function_works_but_cannot_be_saved(tmp_path) -> None:  # type: ignore[no-untyped-def]
    schedule = EnergyOptimal(lambda t: (t + t**2) / 2)
    check_schedule(schedule, registered=False)
    assert schedule.plan(100, 7).sum() == 100
    assert repr(schedule).startswith("energy_optimal(gamma=<function")
    with pytest.raises(
        FormatError,
        match="energy_optimal cannot be written as text or saved: its gamma is <function",
    ):
        _ = schedule.spec
    with pytest.raises(FormatError, match="cannot be written"):
        schedule.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    t = torch.linspace(0, 1, 65, dtype=torch.float64)
    check_schedule(Tabulated(schedule.alpha(t)))
    single = EnergyOptimal(lambda t: t.float())  # a function may round
    assert single.alpha(torch.tensor([0.3], dtype=torch.float64)).dtype == torch.float64


# --- code after MaskGIT, which takes the masked share as a function


def parallel_decoding_lengths(noise_schedule, tokens: int, timesteps: int) -> list[int]:  # type: ignore[no-untyped-def]
    """How many tokens stay masked after each step of such code.

    It floors the share, keeps one, and reveals at least one.
    """
    left, lengths = tokens, []
    for step in range(timesteps):
        share = noise_schedule(torch.tensor(1.0 * (step + 1) / timesteps))
        left = max(1, min(left - 1, int((tokens * share).floor())))
        lengths.append(left)
    return lengths


def test_mask_ratio_is_the_noise_schedule_of_maskgits_code() -> None:
    cosine = parallel_decoding_lengths(lambda r: torch.cos(r * math.pi * 0.5), 1024, 18)
    assert parallel_decoding_lengths(Cosine().mask_ratio, 1024, 18) == cosine
    beta = Beta(0.9, 0.3)
    planned = 1024 - beta.plan(1024, 12).cumsum(0)
    given = parallel_decoding_lengths(beta.mask_ratio, 1024, 12)
    assert all(abs(a - int(b)) <= 1 for a, b in zip(given, planned, strict=True))


@named
def test_mask_ratio_takes_what_alpha_takes(schedule: Schedule) -> None:
    assert (schedule.mask_ratio(0.0), schedule.mask_ratio(1.0)) == (1.0, 0.0)
    share = np.linspace(0, 1, 9, dtype=np.float32)
    given = schedule.mask_ratio(share)
    assert (type(given), given.dtype) == (np.ndarray, np.float32)
    np.testing.assert_allclose(given, 1 - schedule.alpha(share.astype(np.float64)), atol=1e-7)
    r = torch.tensor([0.25, 0.5], dtype=torch.float64, requires_grad=True)
    schedule.mask_ratio(r).sum().backward()
    close(-r.grad, schedule.alpha_dot(r.detach()))  # type: ignore[operator]
    with pytest.raises(InvalidValueError, match=r"r must lie in \[0, 1\]"):
        schedule.mask_ratio(1.5)
