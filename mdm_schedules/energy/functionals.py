"""The energies that masked diffusion minimises, and their optimum (arXiv 2509.13866, Sec. 2 and 3).

Every energy is an integral over t, with the weight 1 / gamma_dot, of a density that is written here
from its definition.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from mdm_schedules.checks import check_distribution, check_int
from mdm_schedules.energy.integral import (
    Array,
    Density,
    Energy,
    Path,
    integrate,
    resolve,
    resolve_gamma,
)
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.plan import MAX_STEPS, check_plan
from mdm_schedules.schedules import Schedule

MAX_STATES = 1 << 25  # states of one enumeration: about 1 GiB at the peak
MAX_PATTERN_TOKENS = 24


def geodesic_energy(
    schedule: Schedule | str, gamma: Schedule | str | None = None, num_tokens: int = 1
) -> Energy:
    """Geodesic energy E_g: squared speed of sqrt(p_t) on the unit sphere, summed over tokens.

    This is Definition 2.3, scaled by 4 (the Fisher-Rao metric), so that it equals n * E with E of
    Eq. 14; the minimum is pi^2 * n.

    Args:
        schedule: alpha, a Schedule or its spec string.
        gamma: the interpolation, a Schedule or spec string standing for its own `gamma`; None for
            gamma(t) = t.
        num_tokens: n >= 1.

    Returns:
        A float >= n * pi^2 with the attribute `error`; `inf` if the integral diverges. For
        third-party schedules the ends are extrapolated, and orders within 1e-3 of divergence count
        as divergent.

    Raises:
        InvalidTypeError, InvalidValueError: a wrong argument, or a curve too steep for float64.
    """
    tokens = check_int("num_tokens", num_tokens, 1, 1 << 52)

    def density(path: Path) -> Array:
        # The point (sqrt mask, sqrt reveal) moves along the sphere; all other coordinates stay 0 on
        # the way to a clean token.
        speed: Array = path.alpha_rise / 2 / np.sqrt([path.mask, path.reveal])
        return np.asarray(4 * tokens * np.sum(speed**2, axis=0) / path.gamma_rise)

    return integrate(schedule, gamma, density)


def conditional_kinetic_energy(
    schedule: Schedule | str, gamma: Schedule | str | None = None, num_tokens: int = 1
) -> Energy:
    """Conditional kinetic energy E_c, over the 2^n mask patterns of one clean sequence.

    This is Definition 2.2, by enumeration. It equals n * 2^(n-1) * E (Theorem 3.1), with E of
    Eq. 14.

    Args:
        schedule, gamma: as for `geodesic_energy`.
        num_tokens: n in [1, 24].

    Returns:
        A float with the attribute `error`; `inf` if the integral diverges.

    Raises:
        InvalidTypeError, InvalidValueError: as for `geodesic_energy`.
    """
    example = f"at most {MAX_PATTERN_TOKENS}, since all 2**num_tokens mask patterns are enumerated"
    n = check_int("num_tokens", num_tokens, 1, MAX_PATTERN_TOKENS, example)
    patterns, revealed = np.arange(1 << n), np.zeros(1, dtype=np.int64)
    for _ in range(n):
        revealed = np.concatenate([revealed, revealed + 1])
    # Count transitions out of patterns with k revealed tokens: each reveals one masked token.
    moves = np.zeros(n)
    for token in range(n):
        moves += np.bincount(revealed[patterns & (1 << token) == 0], minlength=n)
    return integrate(schedule, gamma, _kinetic_density(moves))


def kinetic_energy(
    schedule: Schedule | str,
    gamma: Schedule | str | None = None,
    *,
    distribution: torch.Tensor,
) -> Energy:
    """Kinetic energy E_k of a sequence distribution, over all partly masked sequences.

    This is Definition 2.1, by enumeration. It equals n * (d+1)^(n-1) * E (Theorem 3.2) for full
    support, and less otherwise, since impossible transitions contribute nothing.

    Args:
        schedule, gamma: as for `geodesic_energy`.
        distribution: probabilities [d]*n (n axes of d letters each), >= 0, summing to 1 within
            1e-6; (d+1)^n states must be at most 2^25.

    Returns:
        A float with the attribute `error`; `inf` if the integral diverges.

    Raises:
        InvalidTypeError, InvalidValueError: as for `geodesic_energy`; an invalid distribution; too
            many states.
    """
    remedy = "for full support the energy is n * (d+1)^(n-1) * token_energy(schedule, gamma)"
    p = check_distribution(distribution, MAX_STATES, remedy)
    return integrate(schedule, gamma, _kinetic_density(_marginal_moves(p)))


def token_energy(schedule: Schedule | str, gamma: Schedule | str | None = None) -> Energy:
    """Energy of one masked token: integral of alpha_dot^2 / (gamma_dot alpha (1 - alpha)) dt.

    This is Eq. 14 in closed form. It is finite if and only if 2p > q at both ends, where alpha is
    optimal for an interpolation that leaves the end like t^p, and gamma leaves it like t^q. For
    Beta(a, b) under Beta(c, d) this means 2a > c and 2b > d, and the energy is
    pi^2 B(2a - c, 2b - d) B(c, d) / B(a, b)^2. Linear under gamma(t) = t has infinite energy. The
    minimum is pi^2 (Theorem 3.6).

    Args, returns, raises: as for `geodesic_energy`.
    """
    return integrate(
        schedule,
        gamma,
        lambda path: (
            path.alpha_rise / path.reveal * (path.alpha_rise / path.mask) / path.gamma_rise
        ),
    )


def energy_excess(schedule: Schedule | str, gamma: Schedule | str | None = None) -> Energy:
    """`token_energy` over its minimum pi^2: 1 for the optimal schedule, `inf` if it diverges."""
    energy = token_energy(schedule, gamma)
    return Energy(energy / math.pi**2, energy.error / math.pi**2)


def discrete_energy(
    schedule_or_plan: Schedule | str | torch.Tensor | list[int],
    steps: int | None = None,
    gamma: Schedule | str | None = None,
) -> Energy:
    """Energy of K steps at the times i / K: sum of 8 (1 - cos theta_i) / (gamma increment).

    theta_i is the angle between sqrt(p) before and after step i (App. D.5). A plan of counts [K]
    that sums to N has revealed the fraction cumulative / N. The energy tends to `token_energy` as K
    grows, from below for the optimum. Under gamma(t) = t the schedule alpha* minimises it exactly;
    under another gamma it does so up to O(1/K^2), because chords are shorter than arcs.

    Args:
        schedule_or_plan: a Schedule or spec string with `steps`; or a plan, integers [K] >= 0.
        steps: K in [1, 2^24]; for a plan None, or its length.
        gamma: as for `geodesic_energy`.

    Returns:
        A float with the attribute `error`, here a bound on the rounding; `inf` if a step's
        increment of gamma is too small for float64.

    Raises:
        InvalidTypeError, InvalidValueError: a wrong argument, or a plan that reveals nothing.
    """
    if isinstance(schedule_or_plan, Schedule | str):
        if steps is None:
            raise InvalidTypeError(
                "the energy of a schedule needs steps; for example discrete_energy('linear', 16)"
            )
        k = check_int("steps", steps, 1, MAX_STEPS, example="discrete_energy('linear', 16)")
        angles = _angles(resolve("schedule", schedule_or_plan), np.arange(k + 1) / k)
    else:
        revealed = _cumulative(schedule_or_plan)
        # A plan fixes the number of steps; naming another one is a mistake worth reporting.
        k = check_int("steps", len(revealed) - 1 if steps is None else steps, 1, MAX_STEPS)
        if k != len(revealed) - 1:
            raise InvalidValueError(
                f"steps is {k}, but the plan has {len(revealed) - 1} steps; leave steps out"
            )
        left = revealed[-1] - revealed
        angles = (
            np.arctan2(np.sqrt(revealed), np.sqrt(left)),
            np.arctan2(np.sqrt(left), np.sqrt(revealed)),
        )
    # A step that reveals nothing costs nothing, even if gamma does not move in it.
    theta, theta_error = _increments(*angles)
    span, span_error = _increments(*_angles(resolve_gamma(gamma), np.arange(k + 1) / k))
    with np.errstate(divide="ignore", invalid="ignore"):
        # 2 (1 - cos theta) is the squared chord, 4 sin^2(theta / 2) without cancellation
        terms = np.where(theta == 0, 0.0, 16 * np.sin(theta / 2) ** 2 / span) * (math.pi / 2)
        doubts = terms * (2 * theta_error / theta + span_error / span + 1e-15)
    total = float(terms.sum())
    # A step in which gamma does not move divides by zero.
    if not math.isfinite(total):
        return Energy(math.inf)
    return Energy(total, float(np.where(theta == 0, 0.0, doubts).sum()) + 1e-15 * total)


def _angles(schedule: Schedule, times: Array) -> tuple[Array, Array]:
    """arcsin sqrt alpha, and its complement to pi / 2 without cancellation."""
    t = torch.from_numpy(times)
    reveal, mask = np.sqrt(schedule._alpha(t).numpy()), np.sqrt(schedule._masked(t).numpy())
    return np.arctan2(reveal, mask), np.arctan2(mask, reveal)


def _increments(below: Array, above: Array) -> tuple[Array, Array]:
    """Differences of an angle, and a bound on their rounding errors.

    Each difference is taken from the nearer end, where the angle has the most digits.
    """
    # Near pi / 2 the angle itself has lost the digits that its complement still has.
    differences = np.where(below[1:] < above[1:], np.diff(below), -np.diff(above))
    size = np.where(below[1:] < above[1:], below[1:], above[:-1])
    return differences, 1e-15 * size


def _cumulative(plan: Any) -> Array:
    try:
        total = int(torch.as_tensor(plan).sum())
    except (TypeError, ValueError, RuntimeError):
        total = 0  # check_plan says what is wrong
    counts = check_plan(plan, torch.tensor([total], device="cpu"))[0]
    if total == 0:
        raise InvalidValueError("a plan must reveal at least one token, got only zeros")
    return np.concatenate([[0], counts.numpy().cumsum()]).astype(np.float64)


def _kinetic_density(moves: Array) -> Density:
    """Sum of p(z) / p(x) Q(z, x)^2 over transitions z -> x.

    Of these transitions, moves[k] (by weight) start with k tokens revealed. A state with k of n
    tokens revealed has p proportional to alpha^k (1 - alpha)^(n - k), and time enters in no other
    way, so transitions are summed by k once instead of at every t. The sum uses logarithms, since
    p(z) alone would underflow.
    """
    n = len(moves)

    def density(path: Path) -> Array:
        reveal, mask = np.log(path.reveal), np.log(path.mask)
        # A masked token is revealed at the rate alpha_dot / (1 - alpha).
        rate = np.log(path.alpha_rise) - mask
        total = np.zeros_like(reveal)
        for k in range(n):
            before, after = k * reveal + (n - k) * mask, (k + 1) * reveal + (n - k - 1) * mask
            total += moves[k] * np.exp(before - after + 2 * rate - np.log(path.gamma_rise))
        return total

    return density


def _marginal_moves(p: Array) -> Array:
    """For each k, the sum of p(z)/p(x) P(letter | z)^2 over transitions from k revealed tokens.

    z is the state before the transition, and x the state after it.
    """
    n, d = p.ndim, p.shape[0]
    # Index d on an axis stands for a mask: the token is summed over.
    for axis in range(n):
        p = np.concatenate([p, p.sum(axis, keepdims=True)], axis)
    masked = np.arange(d + 1) == d
    # Number of revealed tokens in each state, by broadcasting one axis at a time.
    revealed = sum(
        (~masked).astype(np.int8).reshape([-1 if axis == other else 1 for other in range(n)])
        for axis in range(n)
    )
    moves = np.zeros(n)
    for axis in range(n):
        source, target = p.take([d], axis), p.take(range(d), axis)
        # Impossible states would divide 0 by 0.
        happens = target > 0
        letter = np.divide(target, source, out=np.zeros_like(target), where=happens)
        terms = np.divide(source, target, out=np.zeros_like(target), where=happens) * letter**2
        level = np.broadcast_to(np.asarray(revealed).take([d], axis), target.shape)
        moves += np.bincount(level.ravel(), weights=terms.ravel(), minlength=n)
    return moves
