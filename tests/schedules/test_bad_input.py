"""Times, parameters and knots that are refused, by name, value and range."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from schedule_cases import INF, named

from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.schedules import (
    Beta,
    Cosine,
    EnergyOptimal,
    Geometric,
    Linear,
    Polynomial,
    Schedule,
    Sine,
    Tabulated,
)


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
