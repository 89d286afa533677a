"""The energies against their definitions, by brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from energy_cases import PAIRS, random_distribution
from scipy.integrate import quad

from mdm_schedules.energy import (
    conditional_kinetic_energy,
    geodesic_energy,
    kinetic_energy,
    token_energy,
)
from mdm_schedules.schedules import (
    Beta,
    Linear,
    Schedule,
    SquaredSine,
)

MASK = -1


# -- the definitions, by brute force
# ------------------------------------------------------------------------------


def brute_path(p: np.ndarray, alpha: float, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Return p_t over all partly masked sequences, and the generator Q_t.

    Every clean sequence is masked letter by letter.
    """
    n, d = p.ndim, p.shape[0]
    states = list(itertools.product([MASK, *range(d)], repeat=n))
    index = {z: i for i, z in enumerate(states)}

    def agree(z: tuple[int, ...]) -> float:
        clean = itertools.product(range(d), repeat=n)
        return sum(p[x] for x in clean if all(a in (MASK, b) for a, b in zip(z, x, strict=True)))

    probability = np.array(
        [agree(z) * alpha ** (n - z.count(MASK)) * (1 - alpha) ** z.count(MASK) for z in states]
    )
    rates = np.zeros((len(states), len(states)))
    for z in states:
        for i in (i for i in range(n) if z[i] == MASK and agree(z) > 0):
            for letter in range(d):
                x = (*z[:i], letter, *z[i + 1 :])
                rates[index[z], index[x]] = slope / (1 - alpha) * agree(x) / agree(z)
    return probability, rates - np.diag(rates.sum(1))


def brute_kinetic(p: np.ndarray, schedule: Schedule, gamma: Schedule) -> float:
    # states and their rates depend on time through alpha and its slope only: at slope 1, scaled
    # afterwards
    def integrand(t: float) -> float:
        path, rates = brute_path(p, schedule.alpha(t), 1.0)
        flow = np.where((rates > 0) & (path > 0), rates, 0.0)
        ratio = np.divide(
            path[:, None], path[None, :], out=np.zeros_like(flow), where=path[None, :] > 0
        )
        return float((ratio * flow**2).sum()) * schedule.alpha_dot(t) ** 2 / gamma.gamma_dot(t)

    nodes, weights = np.polynomial.legendre.leggauss(24)
    return sum(w / 2 * integrand((1 + u) / 2) for u, w in zip(nodes, weights, strict=True))


@pytest.mark.parametrize("p", [random_distribution(2, 3), torch.tensor([[0.5, 0.0], [0.2, 0.3]])])
def test_brute_force_path_solves_the_kolmogorov_equation(p):
    """The reference itself is checked: p_t and Q_t belong together."""
    schedule, step = Beta(1.5, 0.8), 1e-5
    for t in (0.2, 0.7):
        path, rates = brute_path(p.double().numpy(), schedule.alpha(t), schedule.alpha_dot(t))
        after, _ = brute_path(p.double().numpy(), schedule.alpha(t + step), 1.0)
        before, _ = brute_path(p.double().numpy(), schedule.alpha(t - step), 1.0)
        assert path.sum() == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose((after - before) / (2 * step), path @ rates, atol=1e-8)


@pytest.mark.parametrize(
    "p",
    [
        random_distribution(1, 3),
        random_distribution(2, 2),
        torch.tensor([[0.5, 0.0], [0.2, 0.3]], dtype=torch.float64),
        torch.tensor([[[0.5, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.5]]]),
    ],
)
def test_kinetic_energy_is_its_definition(p):
    schedule, gamma = Beta(2.0, 2.0), Linear()  # an analytic integrand, for few nodes
    energy = kinetic_energy(SquaredSine(), distribution=p)
    assert energy == pytest.approx(
        brute_kinetic(p.double().numpy(), SquaredSine(), SquaredSine()), rel=1e-11
    )
    reference = brute_kinetic(p.double().numpy(), schedule, SquaredSine())
    assert kinetic_energy(schedule, distribution=p) == pytest.approx(reference, rel=1e-9)
    assert kinetic_energy(schedule, gamma, distribution=p) != pytest.approx(reference, rel=1e-2)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_conditional_energy_is_the_kinetic_energy_of_one_sentence(n):
    sentence = torch.zeros([2] * n, dtype=torch.float64)
    sentence[(1,) * n] = 1.0
    reference = brute_kinetic(sentence.numpy(), Beta(2.0, 2.0), SquaredSine())
    assert conditional_kinetic_energy(Beta(2.0, 2.0), num_tokens=n) == pytest.approx(
        reference, rel=1e-9
    )
    assert kinetic_energy(Beta(2.0, 2.0), distribution=sentence) == pytest.approx(
        reference, rel=1e-9
    )


@pytest.mark.slow
def test_geodesic_energy_is_the_squared_length_of_short_chords():
    schedule, gamma, n = Beta(1.2, 0.8), Beta(1.0, 0.6), 3
    t = np.linspace(0, 1, 200_001)
    points = np.stack([np.sqrt(1 - schedule.alpha(t)), np.sqrt(schedule.alpha(t))])
    chords = (np.diff(points) ** 2).sum(0)
    energy = 4 * n * (chords / np.diff(gamma.gamma(t))).sum()
    assert geodesic_energy(schedule, gamma, n) == pytest.approx(energy, rel=1e-4)


@pytest.mark.parametrize(("schedule", "gamma"), PAIRS)
def test_closed_form_is_the_integral_over_time(schedule, gamma):
    weight = SquaredSine() if gamma is None else Linear() if gamma == "linear" else gamma

    def integrand(t: float) -> float:
        reveal = schedule.alpha(t)
        return schedule.alpha_dot(t) ** 2 / (weight.gamma_dot(t) * reveal * (1 - reveal))

    halves = [
        quad(integrand, *ends, epsabs=0, epsrel=1e-9, limit=200)[0]
        for ends in ((0, 0.3), (0.3, 0.5), (0.5, 1))
    ]
    assert token_energy(schedule, gamma) == pytest.approx(sum(halves), rel=1e-7)
