"""Every schedule keeps the contract over many parameters, and the suite finds what breaks it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from schedule_cases import EXAMPLES, betas, log_uniform, named, quick

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidTypeError, MDMError
from mdm_schedules.schedules import (
    EnergyOptimal,
    Geometric,
    Polynomial,
    Schedule,
    SquaredSine,
    Tabulated,
    schedules,
)
from mdm_schedules.testing import check_schedule


def knots(count: int) -> st.SearchStrategy[list[float]]:
    """Draw `count` inner knots, at least 1e-4 apart."""
    inner = st.lists(st.integers(1, 9999), min_size=count, max_size=count, unique=True)
    return inner.map(lambda values: [0.0, *(value / 10_000 for value in sorted(values)), 1.0])


tables = st.integers(0, 30).flatmap(
    lambda count: st.builds(Tabulated, knots(count), st.one_of(st.none(), knots(count)))
)


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
