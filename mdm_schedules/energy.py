"""The energies that masked diffusion minimises, and their optimum (arXiv 2509.13866, Sections 2 and 3).

Every energy is an integral over t with the weight 1 / gamma_dot. None of them depends on the clock: with x any
increasing function of t, alpha_dot^2 / gamma_dot dt = (d alpha/dx)^2 / (d gamma/dx) dx, and rates scale alike. They are
integrated in x = log(t / (1 - t)), where both ends are far away and each schedule falls off exponentially; beyond what
floats hold, the tail is the power law that the schedules have there, which also decides whether there is an integral.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mdm_schedules import schedules as families
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, check_int, shown
from mdm_schedules.plan import MAX_STEPS, check_plan
from mdm_schedules.schedules import EnergyOptimal, Schedule, SquaredSine, Tabulated

Array = npt.NDArray[np.float64]
Density = Callable[["_Path"], Array]

MAX_STATES = 1 << 25  # states of one enumeration: about 1 GiB at the peak
MAX_PATTERN_TOKENS = 24
_TINY, _NOISY = 1e-290, 1e-9
_LOW, _HIGH = math.log(1e-300), math.log(2**30 - 1)  # at the latter t = 1 - 2^-30, without rounding

# (p, q) with gamma ~ t^p at 0 and 1 - gamma ~ (1 - t)^q at 1; a type listed here also keeps its digits near both ends
_ORDERS: dict[type[Schedule], Callable[[Any], tuple[float, float]]] = {
    families.Beta: lambda s: (s.a, s.b),
    families.Cosine: lambda s: (1, 0.5),
    families.Geometric: lambda s: (0.5, 0.5),
    families.Linear: lambda s: (0.5, 0.5),
    families.LogLinear: lambda s: (0.5, 0.5),
    families.Polynomial: lambda s: (s.p / 2, 0.5),
    families.Sine: lambda s: (0.5, 1),
    families.SquaredSine: lambda s: (1, 1),
    families.Tabulated: lambda s: (1, 1),
}


class Energy(float):
    """A float that carries `error`, the estimated absolute error of its integral (0 where the value is `inf`)."""

    error: float

    def __new__(cls, value: float, error: float = 0.0) -> Energy:
        energy = super().__new__(cls, value)
        energy.error = error
        return energy

@dataclass(frozen=True)
class _Path:
    """One token on a grid of x: P(revealed), P(masked), d alpha/dx and d gamma/dx."""

    reveal: Array
    mask: Array
    rise: Array
    weight: Array


def geodesic_energy(schedule: Schedule | str, gamma: Schedule | str | None = None, num_tokens: int = 1) -> Energy:
    """Geodesic energy E_g: squared speed of sqrt(p_t) on the unit sphere, summed over tokens (Definition 2.3).

    Scaled by 4 (the Fisher-Rao metric), so that it is n * E with E of Eq. 14; pi^2 * n is the least.

    Args:
        schedule: alpha, a Schedule or its spec string.
        gamma: the interpolation, a Schedule or spec string standing for its own `gamma`; None for gamma(t) = t.
        num_tokens: n >= 1.

    Returns:
        A float >= n * pi^2 with the attribute `error`; `inf` where the integral diverges. For schedules that are not
        of this package the ends are extrapolated, and orders within 1e-3 of divergence count as divergent.

    Raises:
        InvalidTypeError, InvalidValueError: an argument that is none of these, or a curve too steep for float64.
    """
    tokens = check_int("num_tokens", num_tokens, 1, 1 << 52)

    def density(path: _Path) -> Array:
        # y = (sqrt mask, sqrt reveal): the other coordinates of the sphere stay 0 on the way to a clean token
        speed: Array = path.rise / 2 / np.sqrt([path.mask, path.reveal])
        return np.asarray(4 * tokens * np.sum(speed**2, axis=0) / path.weight)

    return _integrate(schedule, gamma, density)


def conditional_kinetic_energy(
    schedule: Schedule | str, gamma: Schedule | str | None = None, num_tokens: int = 1
) -> Energy:
    """Conditional kinetic energy E_c, by enumeration of the 2^n mask patterns of one clean sequence (Definition 2.2).

    Equals n * 2^(n-1) * E (Theorem 3.1), with E of Eq. 14.

    Args:
        schedule, gamma: as for `geodesic_energy`.
        num_tokens: n in [1, 24].

    Returns:
        A float with the attribute `error`; `inf` where the integral diverges.

    Raises:
        InvalidTypeError, InvalidValueError: as `geodesic_energy`.
    """
    example = f"at most {MAX_PATTERN_TOKENS}, since all 2**num_tokens mask patterns are enumerated"
    n = check_int("num_tokens", num_tokens, 1, MAX_PATTERN_TOKENS, example)
    patterns, revealed = np.arange(1 << n), np.zeros(1, dtype=np.int64)
    for _ in range(n):
        revealed = np.concatenate([revealed, revealed + 1])
    moves = np.zeros(n)  # transitions out of patterns with k revealed tokens: each reveals one of the masked
    for token in range(n):
        moves += np.bincount(revealed[patterns & (1 << token) == 0], minlength=n)
    return _integrate(schedule, gamma, _kinetic_density(moves))


def kinetic_energy(
    schedule: Schedule | str, gamma: Schedule | str | None = None, distribution: torch.Tensor | None = None
) -> Energy:
    """Kinetic energy E_k of a sequence distribution, by enumeration of all partly masked sequences (Definition 2.1).

    Equals n * (d+1)^(n-1) * E (Theorem 3.2) for full support, and less otherwise: transitions that never happen count
    for nothing.

    Args:
        schedule, gamma: as for `geodesic_energy`.
        distribution: probabilities [d]*n (n axes of d letters each), >= 0, summing to 1 within 1e-6; (d+1)^n states
            must be at most 2^25.

    Returns:
        A float with the attribute `error`; `inf` where the integral diverges.

    Raises:
        InvalidTypeError, InvalidValueError: as `geodesic_energy`; a distribution that is none; too many states.
    """
    return _integrate(schedule, gamma, _kinetic_density(_marginal_moves(_check_distribution(distribution))))


def token_energy(schedule: Schedule | str, gamma: Schedule | str | None = None) -> Energy:
    """Energy of one masked token in closed form, integral of alpha_dot^2 / (gamma_dot alpha (1 - alpha)) dt (Eq. 14).

    Finite if and only if 2p > q at both ends, where alpha is optimal for an interpolation that leaves the end like
    t^p and gamma leaves it like t^q: for Beta(a, b) under Beta(c, d), 2a > c and 2b > d, and then it is
    pi^2 B(2a - c, 2b - d) B(c, d) / B(a, b)^2. Linear under gamma(t) = t is infinite. At least pi^2 (Theorem 3.6).

    Args, returns, raises: as `geodesic_energy`.
    """
    return _integrate(schedule, gamma, lambda path: path.rise / path.reveal * (path.rise / path.mask) / path.weight)


def energy_excess(schedule: Schedule | str, gamma: Schedule | str | None = None) -> Energy:
    """`token_energy` over its minimum pi^2: 1 for the optimal schedule, `inf` where it diverges, free of scale."""
    energy = token_energy(schedule, gamma)
    return Energy(energy / math.pi**2, energy.error / math.pi**2)


def discrete_energy(
    schedule_or_plan: Schedule | str | torch.Tensor | list[int],
    steps: int | None = None,
    gamma: Schedule | str | None = None,
) -> float:
    """Energy of K steps at the times i / K: sum of 8 (1 - cos theta_i) / (gamma increment) (App. D.5).

    theta_i is the angle between sqrt(p) before and after step i. A plan of counts [K] that sums to N has revealed
    cumulative / N. Tends to `token_energy` as K grows, from below for the optimum. Under gamma(t) = t the schedule
    alpha* is its exact minimiser; under another gamma it is so up to O(1/K^2), because chords are shorter than arcs.

    Args:
        schedule_or_plan: a Schedule or spec string with `steps`; or a plan, integers [K] >= 0.
        steps: K in [1, 2^24]; for a plan None, or its length.
        gamma: as for `geodesic_energy`.

    Raises:
        InvalidTypeError, InvalidValueError: an argument that is none of these, or a plan that reveals nothing.
    """
    if isinstance(schedule_or_plan, Schedule | str):
        if steps is None:
            raise InvalidTypeError("the energy of a schedule needs steps; for example discrete_energy('linear', 16)")
        k = check_int("steps", steps, 1, MAX_STEPS, example="discrete_energy('linear', 16)")
        angles = _angles(_resolve("schedule", schedule_or_plan), np.arange(k + 1) / k)
    else:
        revealed = _cumulative(schedule_or_plan)
        k = check_int("steps", len(revealed) - 1 if steps is None else steps, 1, MAX_STEPS)
        if k != len(revealed) - 1:
            raise InvalidValueError(f"steps is {k}, but the plan has {len(revealed) - 1} steps; leave steps out")
        left = revealed[-1] - revealed
        angles = np.arctan2(np.sqrt(revealed), np.sqrt(left)), np.arctan2(np.sqrt(left), np.sqrt(revealed))
    theta = _increments(*angles)
    span = _increments(*_angles(_resolve_gamma(gamma), np.arange(k + 1) / k)) * (2 / math.pi)
    with np.errstate(divide="ignore", invalid="ignore"):
        # 2 (1 - cos theta) is the squared chord, 4 sin^2(theta / 2) without cancellation
        terms = np.where(theta == 0, 0.0, 16 * np.sin(theta / 2) ** 2 / span)
    return float(terms.sum())


def _angles(schedule: Schedule, times: Array) -> tuple[Array, Array]:
    """arcsin sqrt alpha, and its complement to pi / 2 without cancellation."""
    t = torch.from_numpy(times)
    reveal, mask = np.sqrt(schedule._alpha(t).numpy()), np.sqrt(schedule._masked(t).numpy())
    return np.arctan2(reveal, mask), np.arctan2(mask, reveal)


def _increments(below: Array, above: Array) -> Array:
    """Differences of an angle, each taken from the end it is nearer to."""
    return np.where(below[1:] < above[1:], np.diff(below), -np.diff(above))


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
    """Sum of p(z) / p(x) Q(z, x)^2 over transitions z -> x, of which moves[k] (by weight) start with k tokens revealed.

    A state with k of n tokens revealed has p proportional to alpha^k (1 - alpha)^(n - k), and time enters in no other
    way, so transitions are summed by k once and not anew at every t. In logarithms, since p(z) alone would underflow.
    """
    n = len(moves)

    def density(path: _Path) -> Array:
        reveal, mask = np.log(path.reveal), np.log(path.mask)
        rate = np.log(path.rise) - mask  # a masked token is revealed at the rate alpha_dot / (1 - alpha)
        total = np.zeros_like(reveal)
        for k in range(n):
            before, after = k * reveal + (n - k) * mask, (k + 1) * reveal + (n - k - 1) * mask
            total += moves[k] * np.exp(before - after + 2 * rate - np.log(path.weight))
        return total

    return density


def _marginal_moves(p: Array) -> Array:
    """For each k, the sum of p(z)/p(x) P(letter | z)^2 over transitions from states z with k revealed tokens."""
    n, d = p.ndim, p.shape[0]
    for axis in range(n):  # index d on an axis: masked, that is summed over
        p = np.concatenate([p, p.sum(axis, keepdims=True)], axis)
    masked = np.arange(d + 1) == d
    revealed = sum(
        (~masked).astype(np.int8).reshape([-1 if axis == other else 1 for other in range(n)]) for axis in range(n)
    )
    moves = np.zeros(n)
    for axis in range(n):
        source, target = p.take([d], axis), p.take(range(d), axis)
        happens = target > 0
        letter = np.divide(target, source, out=np.zeros_like(target), where=happens)
        terms = np.divide(source, target, out=np.zeros_like(target), where=happens) * letter**2
        level = np.broadcast_to(np.asarray(revealed).take([d], axis), target.shape)
        moves += np.bincount(level.ravel(), weights=terms.ravel(), minlength=n)
    return moves


def _check_distribution(p: Any) -> Array:
    example = "for example kinetic_energy(schedule, distribution=torch.full((2, 2, 2), 1 / 8))"
    try:
        # numpy has no bfloat16
        array = np.asarray(p.detach().cpu().double() if isinstance(p, torch.Tensor) and p.is_floating_point() else p)
        if array.dtype.kind not in "fiu":
            raise TypeError
    except (TypeError, ValueError, RuntimeError):
        raise InvalidTypeError(f"distribution must be real probabilities [d]*n, got {shown(p)}; {example}") from None
    n, d = array.ndim, array.shape[0] if array.ndim else 0
    if d == 0 or set(array.shape) != {d}:
        raise InvalidValueError(f"distribution must have n axes of equal length d, got {array.shape}; {example}")
    if (d + 1) ** n > MAX_STATES:
        raise InvalidValueError(
            f"{n} tokens of {d} letters have (d+1)^n = {(d + 1) ** n} partly masked states, at most {MAX_STATES} "
            "can be enumerated; for full support the energy is n * (d+1)^(n-1) * token_energy(schedule, gamma)"
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all() or (array < 0).any():
        bad = array[~(array >= 0) | np.isinf(array)][0]
        raise InvalidValueError(f"distribution must hold finite probabilities >= 0, got {bad}")
    if abs(array.sum() - 1) > 1e-6:
        raise InvalidValueError(f"distribution must sum to 1 within 1e-6, got {array.sum()!r}")
    return array


def _resolve(name: str, value: Any) -> Schedule:
    if not isinstance(value, Schedule | str):
        raise InvalidTypeError(
            f"{name} must be a Schedule or a spec string such as 'beta(a=0.9, b=0.3)', got {shown(value)}"
        )
    from mdm_schedules.registry import get_schedule

    schedule = get_schedule(value)
    while isinstance(schedule, EnergyOptimal) and not callable(schedule.interpolation):
        schedule = schedule.interpolation or SquaredSine()
    return schedule


def _resolve_gamma(gamma: Any) -> Schedule:
    return SquaredSine() if gamma is None else _resolve("gamma", gamma)  # its gamma(t) is t


def _path(schedule: Schedule, gamma: Schedule, x: Array) -> _Path:
    from scipy.special import expit

    t = expit(x)
    clock = t * np.where(x > 0, 1 - t, expit(-x))  # dt/dx
    time = torch.from_numpy(t)
    return _Path(
        schedule._alpha(time).numpy(),
        schedule._masked(time).numpy(),
        schedule._alpha_dot(time).numpy() * clock,
        gamma._gamma_dot(time).numpy() * clock,
    )


def _usable(schedule: Schedule, gamma: Schedule, x: Array) -> npt.NDArray[np.bool_]:
    """Where nothing under- or overflows, and no cancellation in alpha or 1 - alpha of a foreign schedule is felt."""
    good = np.ones(x.shape, dtype=bool)
    for one, other in ((schedule, gamma), (gamma, schedule)):
        path = _path(one, other, x)
        good &= np.minimum(path.reveal, path.mask) > (_TINY if type(one) in _ORDERS else _NOISY)
        good &= (path.rise > _TINY) & (path.rise < 1 / _TINY)
        good &= (path.weight > _TINY) & (path.weight < 1 / _TINY)
    return good


def _reach(schedule: Schedule, gamma: Schedule, center: float, limit: float) -> float:
    """The farthest usable x from `center` towards `limit`."""
    for _ in range(5):
        x = np.linspace(center, limit, 65)
        bad = np.flatnonzero(~_usable(schedule, gamma, x))
        if len(bad) == 0:
            return limit
        center, limit = float(x[max(bad[0] - 1, 0)]), float(x[bad[0]])
    return center


def _order(schedule: Schedule, x: float, inward: float) -> float:
    """p where gamma leaves the end beyond x like t^p; measured, and freed of its first-order error, if not known."""
    if type(schedule) in _ORDERS:
        return _ORDERS[type(schedule)](schedule)[x > 0]
    path = _path(schedule, schedule, np.array([x, x + inward]))
    near, far = (path.reveal, path.mask) if x < 0 else (path.mask, path.reveal)
    slope = path.weight / (2 / math.pi * np.arctan2(np.sqrt(near), np.sqrt(far)))
    return float(slope[0] - (slope[1] - slope[0]) / math.expm1(abs(inward)))


def _tail(schedule: Schedule, gamma: Schedule, density: Density, x: float, inward: float) -> Energy:
    """Integral from x to the end beyond it, where density ~ e^(-k |x|) with k = 2 p - q; infinite where k <= 0."""
    exact = type(schedule) in _ORDERS and type(gamma) in _ORDERS
    k = 2 * _order(schedule, x, inward) - _order(gamma, x, inward)
    if k <= (1e-12 if exact else 1e-3):
        return Energy(math.inf)
    here, there = density(_path(schedule, gamma, np.array([x, x + inward])))
    if not here > 0:
        return Energy(0.0)
    # density ~ e^(-k |x|) (1 + c e^-|x|): c e^-|x| shows in the local slope, and the integral has it over 1 + k
    correction = (k * abs(inward) - math.log(there / here)) / math.expm1(abs(inward)) / (1 + k)
    return Energy(here / k * (1 + min(max(correction, -0.5), 0.5)), float(here / k * abs(correction)))


def _integrate(schedule_or_spec: Any, gamma_or_spec: Any, density: Density) -> Energy:
    from scipy.integrate import quad
    from scipy.special import logit

    schedule, gamma = _resolve("schedule", schedule_or_spec), _resolve_gamma(gamma_or_spec)
    tables = [s._knots(torch.device("cpu"))[0][1:-1].numpy() for s in (schedule, gamma) if isinstance(s, Tabulated)]
    knots = logit(np.concatenate([np.zeros(0), *tables]))
    middle = float(schedule._inverse(torch.tensor([0.5], dtype=torch.float64, device="cpu"))[0])
    center = float(np.clip(logit(middle), _LOW, _HIGH))
    if not _usable(schedule, gamma, np.array([center])).all():
        raise InvalidValueError(f"{shown(schedule)} or {shown(gamma)} is too steep for float64 near t = {middle:g}")
    low = _reach(schedule, gamma, center, _LOW)
    high = _reach(schedule, gamma, center, float(np.max(knots + 2, initial=_HIGH)))
    inward = min(math.log(2), (high - low) / 4)
    tails = [_tail(schedule, gamma, density, low, inward), _tail(schedule, gamma, density, high, -inward)]
    if math.inf in tails:
        return Energy(math.inf)
    # panels grow with the distance from the middle; all share the nodes of one quadrature on [0, 1]
    grading = np.linspace(0, 1, 41) ** 2
    edges = np.concatenate([center + (low - center) * grading, center + (high - center) * grading, knots])
    edges = np.unique(np.clip(edges, low, high))
    left, width = edges[:-1], np.diff(edges)

    def panels(u: float) -> float:
        return float(density(_path(schedule, gamma, left + u * width)) @ width)

    value, error, *_ = quad(panels, 0, 1, epsabs=0, epsrel=1e-11, limit=50, full_output=1)
    total = value + sum(tails)
    # the last term: near t = 1 the nodes are rounded, for which quad cannot answer
    error = float(error + sum(tail.error for tail in tails) + 5e-11 * total)
    if not error <= 1e-6 * total:
        warnings.warn(f"the energy of {shown(schedule)} is {total:g} with an error of up to {error:g}", stacklevel=3)
    return Energy(total, error)
