"""The integral behind every energy, its error, and whether there is one.

No energy depends on the clock: with x any increasing function of t, alpha_dot^2 / gamma_dot dt =
(d alpha/dx)^2 / (d gamma/dx) dx, and rates scale alike. They are integrated in x = log(t / (1 -
t)), where both ends are far away and each schedule falls off exponentially. Near t = 1 everything
is evaluated at 1 - t itself, for t is rounded there. What lies beyond the last float is the tail.

**The tail.** Let the gamma of the schedule leave an end like s^p (1 + c s^r + ...), with s = t or
1 - t the distance from it and (p, r) from `_end_orders` and `_end_gaps`, and the weighing gamma
like s^q. Then the rise of alpha per unit of x is ~ s^(2p), alpha itself ~ s^(2p), the rise of gamma
~ s^q, and every density here, rise^2 / (alpha * gamma rise), is

    density(s) = C s^k exp(P(s)),    k = 2 p - q,    P = c_1 s^r + c_2 s^(2r) + ...    (P(0) = 0).

As ds = s |dx|, the integral beyond s_0 converges if and only if k > 0, and it is

    integral of C s^(k-1) e^P(s) ds over [0, s_0]
        = density(s_0) / k * share,    share = integral of e^(P(u s_0) - P(s_0)) d(u^k) over [0, 1].

P is read off log density - k log s at m nodes further in, s_0 2^(j/r), as the polynomial in s^r
through them. m = 1, ..., 7 gives as many values of the share, which first approach the truth and
then drift off with rounding. The one that differs least from both neighbours is taken. Its error is
at most four such differences, an empirical bound: `test_the_error_is_a_bound_on_a_random_sweep` in
tests/energy/test_energies.py checks it, with the quadrature's, against the closed form for pairs
of betas.
If the orders at an end are unknown, p and q are measured there, two nodes are used, and the error
is the size of the correction itself.
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

from mdm_schedules.checks import shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.schedules import EnergyOptimal, Schedule, SquaredSine, Tabulated

Array = npt.NDArray[np.float64]
Density = Callable[["Path"], Array]

_TINY, _NOISY = 1e-290, 1e-9
_LOW = math.log(1e-300)
_HIGH = math.log(2**50)
_LATE = 2.0**-7  # value of 1 - t below which rounding of t begins to matter
_HIGH_UNKNOWN = math.log(2**30 - 1)  # t = 1 - 2^-30, without rounding


class Energy(float):
    """A float with the attribute `error`, the estimated absolute error of its integral.

    The error of an infinite energy is 0.
    """

    error: float

    def __new__(cls, value: float, error: float = 0.0) -> Energy:
        energy = super().__new__(cls, value)
        energy.error = error
        return energy


@dataclass(frozen=True)
class Path:
    """One token on a grid of x: P(revealed), P(masked), and the slopes d alpha/dx and d gamma/dx.

    An energy is the integral over x of a density that is quadratic in `alpha_rise` and is *divided*
    by `gamma_rise`, since the weight of the energy is 1 / gamma_dot.
    """

    reveal: Array
    mask: Array
    alpha_rise: Array
    gamma_rise: Array


def resolve(name: str, value: Any) -> Schedule:
    if not isinstance(value, Schedule | str):
        raise InvalidTypeError(
            f"{name} must be a Schedule or a spec string such as 'beta(a=0.9, b=0.3)', got "
            f"{shown(value)}"
        )
    from mdm_schedules.lookup import get_schedule

    schedule = get_schedule(value)
    # The optimum for a schedule's own gamma is that schedule itself.
    while isinstance(schedule, EnergyOptimal) and not callable(schedule.interpolation):
        schedule = schedule.interpolation or SquaredSine()
    return schedule


def resolve_gamma(gamma: Any) -> Schedule:
    return SquaredSine() if gamma is None else resolve("gamma", gamma)  # its gamma(t) is t


def _known(*schedules: Schedule) -> bool:
    return all(schedule._end_orders() is not None for schedule in schedules)


def _path(schedule: Schedule, gamma: Schedule, x: Array) -> Path:
    from scipy.special import expit

    t, rest = torch.from_numpy(expit(x)), torch.from_numpy(expit(-x))
    orders, gamma_orders = schedule._end_orders(), gamma._end_orders()
    if not (orders and gamma_orders):
        rest = torch.where(rest < 0.5, 1 - t, rest)  # t is rounded near 1; at least both agree
    clock = t * rest  # dt/dx
    path = Path(
        schedule._alpha(t).numpy(),
        schedule._masked(t).numpy(),
        (schedule._alpha_dot(t) * clock).numpy(),
        (gamma._gamma_dot(t) * clock).numpy(),
    )
    # Near t = 1 evaluate at 1 - t itself, since t is rounded there.
    late = rest.numpy() < _LATE
    if orders and gamma_orders and late.any():
        rest, clock = rest[late], clock[late]
        _, _, angle, _ = schedule._late(rest, orders[1])
        t, _, _, steeper = gamma._late(rest, gamma_orders[1])
        path.reveal[late] = schedule._alpha_noise(rest).numpy()
        path.mask[late] = torch.sin(angle).square().numpy()
        path.alpha_rise[late] = (-schedule._alpha_noise_dot(rest) * clock).numpy()
        path.gamma_rise[late] = (gamma._gamma_dot(t) * steeper * clock).numpy()
    return path


def _usable(schedule: Schedule, gamma: Schedule, x: Array) -> npt.NDArray[np.bool_]:
    """Where nothing under- or overflows, and no cancellation matters.

    Third-party schedules may lose digits in alpha or 1 - alpha near an end.
    """
    good = np.ones(x.shape, dtype=bool)
    for one, other in ((schedule, gamma), (gamma, schedule)):
        path = _path(one, other, x)
        good &= np.minimum(path.reveal, path.mask) > (_TINY if _known(one) else _NOISY)
        good &= (path.alpha_rise > _TINY) & (path.alpha_rise < 1 / _TINY)
        good &= (path.gamma_rise > _TINY) & (path.gamma_rise < 1 / _TINY)
    return good


def _reach(schedule: Schedule, gamma: Schedule, center: float, limit: float) -> float:
    """The farthest usable x from `center` towards `limit`."""
    # Each round narrows the gap between usable and unusable points by a factor of 64.
    for _ in range(5):
        x = np.linspace(center, limit, 65)
        bad = np.flatnonzero(~_usable(schedule, gamma, x))
        if len(bad) == 0:
            return limit
        center, limit = float(x[max(bad[0] - 1, 0)]), float(x[bad[0]])
    return center


def _order(schedule: Schedule, x: float, inward: float) -> float:
    """The power p with which gamma leaves the end beyond x, like t^p.

    If it is unknown, it is measured and corrected to first order.
    """
    orders = schedule._end_orders()
    if orders is not None:
        return orders[inward < 0]
    path = _path(schedule, schedule, np.array([x, x + inward]))
    near, far = (path.reveal, path.mask) if inward > 0 else (path.mask, path.reveal)
    # d log gamma / dx, which tends to p at the end; two points cancel its first-order error.
    slope = path.gamma_rise / (2 / math.pi * np.arctan2(np.sqrt(near), np.sqrt(far)))
    return float(slope[0] - (slope[1] - slope[0]) / math.expm1(abs(inward)))


def _tail(schedule: Schedule, gamma: Schedule, density: Density, x: float, room: float) -> Energy:
    """Integral from x to the end beyond it, read off the density between x and x + 2 room.

    Infinite where k <= 0; the derivation is at the top of this file.
    """
    from scipy.special import expit

    exact = _known(schedule, gamma)
    inward = math.copysign(min(math.log(2), abs(room)), room)
    k = 2 * _order(schedule, x, inward) - _order(gamma, x, inward)
    if k <= (1e-12 if exact else 1e-3):
        return Energy(math.inf)
    count = 7 if exact else 2
    end = int(inward < 0)
    # Corrections to the leading power come from both curves and from the clock.
    gaps = schedule._end_gaps()[end], gamma._end_gaps()[end], 1.0
    r = min(gaps)
    exponents = np.unique(np.round(np.outer(gaps, np.arange(count)) / r, 6))[:count]
    nodes = x + math.copysign(min(math.log(2) / r, 2 * abs(room) / count), room) * np.arange(
        count, dtype=np.float64
    )
    values = density(_path(schedule, gamma, nodes))
    # An underflow: nothing beyond x is left to count.
    if not values[0] > 0:
        return Energy(0.0)
    if not exact:  # t is rounded near 1, and with it the nodes
        t = expit(nodes)
        nodes = np.log(t) - np.log1p(-t)
    depth = math.copysign(1, -room) * nodes
    u, logs = np.exp(r * (depth[0] - depth)), np.log(values / values[0]) + k * (depth - depth[0])
    # More nodes approach the truth first and rounding later; take the most stable value.
    shares = [1.0]
    for used in range(2, count + 1):
        if not (np.isfinite(logs[:used]).all() and np.isfinite(u[:used]).all()):
            break
        shares.append(_share(u[:used], logs[:used], exponents[:used], k / r))
    changes = np.nan_to_num(np.abs(np.diff([0.0, *shares])), nan=math.inf)
    doubts = np.maximum(changes, np.append(changes[1:], 0 if len(changes) == 2 else math.inf))
    best = int(np.argmin(doubts)) if len(changes) > 1 else 0
    return Energy(
        values[0] / k * shares[best], float((4 if exact else 1) * values[0] / k * doubts[best])
    )


def _share(u: Array, logs: Array, exponents: Array, power: float) -> float:
    """Integral of e^(P(s) - P(1)) d(s^power) over [0, 1].

    P is the sum of s^exponents through the points (u, logs).
    """
    from scipy.integrate import quad

    try:
        factors = np.linalg.solve(u[:, None] ** exponents, logs)
    except np.linalg.LinAlgError:  # nodes too close to each other
        return math.nan

    def ratio(s: float) -> float:
        return math.exp(min(float(factors @ (s**exponents - 1)), 700.0))

    def steep(s: float) -> float:
        return power * float(s ** (power - 1)) * ratio(s)

    def flat(v: float) -> float:
        return ratio(v ** (1 / power))

    # Each form is smooth where it is used.
    return float(
        quad(steep if power > 1 else flat, 0, 1, epsabs=0, epsrel=1e-12, limit=100, full_output=1)[
            0
        ]
    )


def integrate(schedule_or_spec: Any, gamma_or_spec: Any, density: Density) -> Energy:
    from scipy.integrate import quad
    from scipy.special import logit

    schedule, gamma = resolve("schedule", schedule_or_spec), resolve_gamma(gamma_or_spec)
    # Slopes jump at knots, so panels must end there.
    tables = [
        s._knots(torch.device("cpu"))[0][1:-1].numpy()
        for s in (schedule, gamma)
        if isinstance(s, Tabulated)
    ]
    knots = logit(np.concatenate([np.zeros(0), *tables]))
    middle = float(schedule._inverse(torch.tensor([0.5], dtype=torch.float64, device="cpu"))[0])
    last = _HIGH if _known(schedule, gamma) else _HIGH_UNKNOWN
    center = float(np.clip(logit(middle), _LOW, last))
    if not _usable(schedule, gamma, np.array([center])).all():
        raise InvalidValueError(
            f"{shown(schedule)} or {shown(gamma)} is too steep for float64 near t = {middle:g}"
        )
    low = _reach(schedule, gamma, center, _LOW)
    high = _reach(schedule, gamma, center, float(np.max(knots + 2, initial=last)))
    room = (high - low) / 4
    tails = [
        _tail(schedule, gamma, density, low, room),
        _tail(schedule, gamma, density, high, -room),
    ]
    # The rest of the integral is finite, so the tails alone decide convergence.
    if math.inf in tails:
        return Energy(math.inf)
    # Panels grow with the distance from the middle; all share one quadrature on [0, 1].
    grading = np.linspace(0, 1, 41) ** 2
    edges = np.concatenate(
        [center + (low - center) * grading, center + (high - center) * grading, knots]
    )
    edges = np.unique(np.clip(edges, low, high))
    left, width = edges[:-1], np.diff(edges)

    def panels(u: float) -> float:
        return float(density(_path(schedule, gamma, left + u * width)) @ width)

    value, error, *_ = quad(panels, 0, 1, epsabs=0, epsrel=1e-11, limit=50, full_output=1)
    total = value + sum(tails)
    # The last term covers rounded nodes near t = 1, which quad cannot see.
    error = float(error + sum(tail.error for tail in tails) + 5e-11 * total)
    if not error <= 1e-6 * total:
        warnings.warn(
            f"the energy of {shown(schedule)} is {total:g} with an error of up to {error:g}",
            stacklevel=3,
        )
    return Energy(total, error)
