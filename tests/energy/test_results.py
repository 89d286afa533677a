"""What comes in and out: errors that bound, extreme curves, refusals."""

from __future__ import annotations

import itertools
import json
import math
import os
import pickle

import mpmath
import numpy as np
import pytest
import torch
from energy_cases import PI2, beta_excess
from scipy.integrate import quad

from mdm_schedules.energy import (
    Energy,
    conditional_kinetic_energy,
    discrete_energy,
    energy_excess,
    geodesic_energy,
    kinetic_energy,
    token_energy,
)
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from mdm_schedules.schedules import (
    Beta,
    Polynomial,
)


def test_results_are_floats_with_an_error():
    energy = energy_excess("beta(a=0.9, b=0.6)", "linear")
    assert isinstance(energy, float)
    assert 0 < energy.error < 1e-8
    assert json.loads(json.dumps(energy)) == energy
    again = pickle.loads(pickle.dumps(energy))
    assert (again, again.error) == (energy, energy.error)
    discrete = discrete_energy("linear", 4)
    assert isinstance(discrete, Energy)
    assert 0 < discrete.error < 1e-12
    assert token_energy("linear").error == 0  # infinite


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: token_energy(0.5),
            InvalidTypeError,
            "schedule must be a Schedule or a spec string",
        ),
        (lambda: token_energy("linear", lambda t: t), InvalidTypeError, "gamma must be a Schedule"),
        (lambda: token_energy("liner"), UnknownNameError, "'linear'"),
        (lambda: geodesic_energy("linear", num_tokens=0), InvalidValueError, "num_tokens"),
        (lambda: geodesic_energy("linear", num_tokens=1.0), InvalidTypeError, "num_tokens"),
        (
            lambda: conditional_kinetic_energy("linear", num_tokens=25),
            InvalidValueError,
            "2\\*\\*num_tokens",
        ),
        (lambda: kinetic_energy("linear"), TypeError, "argument: 'distribution'"),
        (lambda: kinetic_energy("linear", distribution=None), InvalidTypeError, "torch.full"),
        (lambda: kinetic_energy("linear", distribution="p"), InvalidTypeError, "distribution"),
        (
            lambda: kinetic_energy("linear", distribution=torch.ones(2, dtype=torch.cfloat)),
            InvalidTypeError,
            "real",
        ),
        (
            lambda: kinetic_energy("linear", distribution=torch.ones(2, dtype=torch.bool)),
            InvalidTypeError,
            "real",
        ),
        (
            lambda: kinetic_energy("linear", distribution=torch.tensor(1.0)),
            InvalidValueError,
            "equal length",
        ),
        (
            lambda: kinetic_energy("linear", distribution=torch.ones(2, 3) / 6),
            InvalidValueError,
            r"\(2, 3\)",
        ),
        (
            lambda: kinetic_energy("linear", distribution=torch.ones(0, 0)),
            InvalidValueError,
            "equal length",
        ),
        (
            lambda: kinetic_energy("linear", distribution=[0.5, 0.6]),
            InvalidValueError,
            "sum to 1.*1.1",
        ),
        (lambda: kinetic_energy("linear", distribution=[1.5, -0.5]), InvalidValueError, "-0.5"),
        (lambda: kinetic_energy("linear", distribution=[1.0, math.nan]), InvalidValueError, "nan"),
        (lambda: kinetic_energy("linear", distribution=[1.0, math.inf]), InvalidValueError, "inf"),
        (
            lambda: kinetic_energy("linear", distribution=np.full([2] * 16, 2.0**-16)),
            InvalidValueError,
            "43046721",
        ),
        (lambda: discrete_energy("linear"), InvalidTypeError, "needs steps"),
        (lambda: discrete_energy("linear", 0), InvalidValueError, "steps"),
        (lambda: discrete_energy([1, 2], 3), InvalidValueError, "the plan has 2 steps"),
        (lambda: discrete_energy([0, 0]), InvalidValueError, "at least one token"),
        (lambda: discrete_energy([2, -1]), InvalidValueError, "negative"),
        (lambda: discrete_energy([0.5, 0.5]), InvalidTypeError, "integers"),
        (lambda: discrete_energy(None), InvalidTypeError, "plan"),
        (lambda: token_energy(Polynomial(1e300)), InvalidValueError, "too steep"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_result_that_cannot_be_trusted_says_so():
    with pytest.warns(UserWarning, match=r"polynomial\(p=0.001\).*error"):
        energy = token_energy(Polynomial(0.001), Polynomial(0.001))
    assert abs(energy - PI2) <= energy.error


@pytest.mark.parametrize("p", [3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 0.01, 0.02])
# below p = 0.004 the least float is in the middle of the curve
@pytest.mark.filterwarnings("ignore:the energy of")
def test_slow_starts_have_energy_pi_squared_within_their_error(p):
    excess = energy_excess(Polynomial(p), Polynomial(p))
    assert abs(excess - 1) <= excess.error
    assert excess.error < {3e-4: 6, 1e-3: 0.3, 2e-3: 2e-3, 3e-3: 2e-5, 5e-3: 2e-8}.get(p, 1e-10)


@pytest.mark.parametrize(("p", "q"), [(0.01, 0.012), (0.001, 0.0015), (0.05, 0.01), (2.0, 0.003)])
@pytest.mark.filterwarnings("ignore:the energy of")
def test_pairs_of_slow_starts_have_the_energy_of_their_integral(p, q):
    def density(x):  # Eq. 14 in x = -log t, where nothing underflows
        return (
            p
            * p
            * math.exp(-x * (p - q / 2))
            / -math.expm1(-p * x)
            * math.sqrt(-math.expm1(-q * x))
            / q
            / math.pi
        )

    scale = 1 / (p - q / 2)
    edges = [0, *(scale * 2.0 ** np.arange(-24, 7))]
    expected = sum(quad(density, a, b, epsrel=1e-12)[0] for a, b in itertools.pairwise(edges))
    excess = energy_excess(Polynomial(p), Polynomial(q))
    assert abs(excess - expected) <= excess.error + 1e-10


@pytest.mark.filterwarnings("ignore:the energy of")
def test_ends_that_floats_do_not_reach_are_extrapolated_within_the_error():
    for alpha, gamma in (
        (Beta(61.09563973483183, 56.722478469455886), Beta(110.17427469892385, 5.804347843257802)),
        (Beta(33.26389953773816, 93.42831496892964), Beta(23.25782852678693, 175.5962953992819)),
    ):
        excess = energy_excess(alpha, gamma)
        assert excess == pytest.approx(beta_excess(alpha, gamma), abs=excess.error)
        assert excess.error < 1e-3 * excess


def random_betas(count: int) -> list[tuple[Beta, Beta]]:
    """Draw pairs of finite energy: half with shapes of 0.05 to 5, half of 0.02 to 100."""
    random, pairs = np.random.default_rng(2), []
    while len(pairs) < count:
        low, high = ((0.05, 5), (0.02, 100))[len(pairs) % 2]
        a, b, c, d = np.exp(random.uniform(math.log(low), math.log(high), 4))
        if 2 * a > c and 2 * b > d:
            pairs.append((Beta(a, b), Beta(c, d)))
    return pairs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the energy of")
def test_the_error_is_a_bound_on_a_random_sweep():
    """The error bounds the difference for 100 pairs.

    For 10,000 pairs (some ten minutes):

        MDM_ENERGY_SWEEP=10000 python -m pytest tests/energy/test_results.py -k random_sweep
    """
    wrong = []
    for alpha, gamma in random_betas(int(os.environ.get("MDM_ENERGY_SWEEP", "100"))):
        excess = energy_excess(alpha, gamma)
        with mpmath.workdps(30):
            a, b, c, d = (mpmath.mpf(x) for x in (alpha.a, alpha.b, gamma.a, gamma.b))
            ratio = mpmath.beta(2 * a - c, 2 * b - d) / mpmath.beta(a, b)
            off = abs(float(ratio * mpmath.beta(c, d) / mpmath.beta(a, b) - float(excess)))
        if off > excess.error:
            wrong.append((alpha, gamma, float(excess), off, excess.error))
    assert not wrong


def test_the_error_covers_the_pairs_that_once_left_it():
    for alpha, gamma in (
        (Beta(3.42755, 0.73665), Beta(0.44583, 1.34748)),
        (Beta(49.12564996917849, 0.022348307838905), Beta(0.118426690385, 0.0312564292531507)),
        (Beta(14.82108328511934, 0.039922719485484), Beta(2.7108964419943, 0.0225928617337422)),
        (
            Beta(3.7405529551505934, 0.3102276543448296),
            Beta(0.2815928725932478, 0.5337485400476543),
        ),
    ):
        excess = energy_excess(alpha, gamma)
        assert abs(excess - beta_excess(alpha, gamma)) <= excess.error < 1e-8 * excess


def test_the_discrete_energy_is_exact_within_its_error():
    for (a, b), (c, d), steps in (
        ((0.5, 0.5), (1, 1), 4),
        ((1, 9), (1, 9), 64),
        ((0.05, 0.05), (0.3, 4), 33),
        ((5, 5), (3, 0.2), 200),
    ):
        with mpmath.workdps(40):
            reveal, weigh = (
                [
                    mpmath.betainc(p, q, 0, i / mpmath.mpf(steps), regularized=True)
                    for i in range(steps + 1)
                ]
                for p, q in ((a, b), (c, d))
            )
            expected = sum(
                16
                * mpmath.sin(mpmath.pi / 4 * (reveal[i + 1] - reveal[i])) ** 2
                / (weigh[i + 1] - weigh[i])
                for i in range(steps)
            )
        energy = discrete_energy(Beta(a, b), steps, Beta(c, d))
        assert abs(float(expected - float(energy))) <= energy.error < 1e-12 * energy


@pytest.mark.parametrize(
    ("a", "b"), [(1e6, 1e6), (1e6, 3e5), (0.5, 1e6), (1e6, 0.3), (1.0, 1e6), (200.0, 1.0)]
)
def test_steep_betas_have_energy_pi_squared_within_their_error(a, b):
    excess = energy_excess(Beta(a, b), Beta(a, b))
    assert abs(excess - 1) <= excess.error
    assert excess.error < 2e-10
