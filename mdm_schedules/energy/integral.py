"""The integral behind every energy, its error, and whether there is one.

No energy depends on the clock: with x any increasing function of t, alpha_dot^2 / gamma_dot dt =
(d alpha/dx)^2 / (d gamma/dx) dx, and rates scale alike. They are integrated in x = log(t / (1 -
t)), where both ends are far away and each schedule falls off exponentially; beyond what floats
hold, the tail is the power law that the schedules have there, which also decides whether there is
an integral, times a series that is extrapolated.
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
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, shown
from mdm_schedules.schedules import EnergyOptimal, Schedule, SquaredSine, Tabulated

Array = npt.NDArray[np.float64]
Density = Callable[["Path"], Array]

_TINY, _NOISY = 1e-290, 1e-9
_LOW, _HIGH = math.log(1e-300), math.log(2**30 - 1)  # at the latter t = 1 - 2^-30, without rounding

# (p, q) with gamma ~ t^p at 0 and 1 - gamma ~ (1 - t)^q at 1; a type listed here also keeps its
# digits near both ends
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
    """A float that carries `error`, the estimated absolute error of its integral (0 where the
    value is `inf`).
    """

    error: float

    def __new__(cls, value: float, error: float = 0.0) -> Energy:
        energy = super().__new__(cls, value)
        energy.error = error
        return energy


@dataclass(frozen=True)
class Path:
    """One token on a grid of x: P(revealed), P(masked), d alpha/dx and d gamma/dx."""

    reveal: Array
    mask: Array
    rise: Array
    weight: Array


def resolve(name: str, value: Any) -> Schedule:
    if not isinstance(value, Schedule | str):
        raise InvalidTypeError(
            f"{name} must be a Schedule or a spec string such as 'beta(a=0.9, b=0.3)', got "
            f"{shown(value)}"
        )
    from mdm_schedules.registry import get_schedule

    schedule = get_schedule(value)
    while isinstance(schedule, EnergyOptimal) and not callable(schedule.interpolation):
        schedule = schedule.interpolation or SquaredSine()
    return schedule


def resolve_gamma(gamma: Any) -> Schedule:
    return SquaredSine() if gamma is None else resolve("gamma", gamma)  # its gamma(t) is t


def _path(schedule: Schedule, gamma: Schedule, x: Array) -> Path:
    from scipy.special import expit

    t = expit(x)
    clock = t * np.where(x > 0, 1 - t, expit(-x))  # dt/dx
    time = torch.from_numpy(t)
    return Path(
        schedule._alpha(time).numpy(),
        schedule._masked(time).numpy(),
        schedule._alpha_dot(time).numpy() * clock,
        gamma._gamma_dot(time).numpy() * clock,
    )


def _usable(schedule: Schedule, gamma: Schedule, x: Array) -> npt.NDArray[np.bool_]:
    """Where nothing under- or overflows, and no cancellation in alpha or 1 - alpha of a foreign
    schedule is felt.
    """
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
    """p where gamma leaves the end beyond x like t^p; measured, and freed of its first-order
    error, if not known.
    """
    if type(schedule) in _ORDERS:
        return _ORDERS[type(schedule)](schedule)[inward < 0]
    path = _path(schedule, schedule, np.array([x, x + inward]))
    near, far = (path.reveal, path.mask) if inward > 0 else (path.mask, path.reveal)
    slope = path.weight / (2 / math.pi * np.arctan2(np.sqrt(near), np.sqrt(far)))
    return float(slope[0] - (slope[1] - slope[0]) / math.expm1(abs(inward)))


def _gap(schedule: Schedule, inward: float) -> float:
    """r where gamma leaves the end like t^p (1 + c t^r)."""
    return min(1.0, schedule.p) if isinstance(schedule, families.Polynomial) and inward > 0 else 1.0


def _tail(schedule: Schedule, gamma: Schedule, density: Density, x: float, room: float) -> Energy:
    """Integral from x to the end beyond it, where density ~ e^(-k |x|) with k = 2 p - q; infinite
    where k <= 0.

    It is told from the density between x and x + 2 room.
    """
    from scipy.special import expit

    exact = type(schedule) in _ORDERS and type(gamma) in _ORDERS
    inward = math.copysign(min(math.log(2), abs(room)), room)
    k = 2 * _order(schedule, x, inward) - _order(gamma, x, inward)
    if k <= (1e-12 if exact else 1e-3):
        return Energy(math.inf)
    count = 7 if exact else 2
    gaps = _gap(schedule, inward), _gap(gamma, inward), 1.0
    r = min(gaps)
    exponents = np.unique(np.round(np.outer(gaps, np.arange(count)) / r, 6))[:count]
    nodes = x + math.copysign(min(math.log(2) / r, 2 * abs(room) / count), room) * np.arange(
        count, dtype=np.float64
    )
    values = density(_path(schedule, gamma, nodes))
    if not values[0] > 0:
        return Energy(0.0)
    t = expit(nodes)  # rounded near 1, hence not the nodes themselves
    depth = math.copysign(1, -room) * (np.log(t) - np.log1p(-t))
    # log density + k |x| is a sum of power series in e^(-r |x|), one for each r; ever more of their
    # terms are determined by ever more nodes
    u, logs = np.exp(r * (depth[0] - depth)), np.log(values / values[0]) + k * (depth - depth[0])
    shares = [1.0]
    for used in range(2, count + 1):
        if not (np.isfinite(logs[:used]).all() and np.isfinite(u[:used]).all()):
            break
        shares.append(_share(u[:used], logs[:used], exponents[:used], k / r))
    # the number of terms that differs least from one less and one more; four such differences held
    # every known error, and of schedules whose series is not known one difference is the whole
    # correction
    changes = np.nan_to_num(np.abs(np.diff([0.0, *shares])), nan=math.inf)
    doubts = np.maximum(changes, np.append(changes[1:], 0 if len(changes) == 2 else math.inf))
    best = int(np.argmin(doubts)) if len(changes) > 1 else 0
    return Energy(
        values[0] / k * shares[best], float((4 if exact else 1) * values[0] / k * doubts[best])
    )


def _share(u: Array, logs: Array, exponents: Array, power: float) -> float:
    """Integral of e^(P(s) - P(1)) d(s^power) over [0, 1], with P the sum of s^exponents through
    (u, logs).
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

    # either is smooth where it is used
    return float(
        quad(steep if power > 1 else flat, 0, 1, epsabs=0, epsrel=1e-12, limit=100, full_output=1)[
            0
        ]
    )


def integrate(schedule_or_spec: Any, gamma_or_spec: Any, density: Density) -> Energy:
    from scipy.integrate import quad
    from scipy.special import logit

    schedule, gamma = resolve("schedule", schedule_or_spec), resolve_gamma(gamma_or_spec)
    tables = [
        s._knots(torch.device("cpu"))[0][1:-1].numpy()
        for s in (schedule, gamma)
        if isinstance(s, Tabulated)
    ]
    knots = logit(np.concatenate([np.zeros(0), *tables]))
    middle = float(schedule._inverse(torch.tensor([0.5], dtype=torch.float64, device="cpu"))[0])
    center = float(np.clip(logit(middle), _LOW, _HIGH))
    if not _usable(schedule, gamma, np.array([center])).all():
        raise InvalidValueError(
            f"{shown(schedule)} or {shown(gamma)} is too steep for float64 near t = {middle:g}"
        )
    low = _reach(schedule, gamma, center, _LOW)
    high = _reach(schedule, gamma, center, float(np.max(knots + 2, initial=_HIGH)))
    room = (high - low) / 4
    tails = [
        _tail(schedule, gamma, density, low, room),
        _tail(schedule, gamma, density, high, -room),
    ]
    if math.inf in tails:
        return Energy(math.inf)
    # panels grow with the distance from the middle; all share the nodes of one quadrature on [0, 1]
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
    # the last term: near t = 1 the nodes are rounded, for which quad cannot answer
    error = float(error + sum(tail.error for tail in tails) + 5e-11 * total)
    if not error <= 1e-6 * total:
        warnings.warn(
            f"the energy of {shown(schedule)} is {total:g} with an error of up to {error:g}",
            stacklevel=3,
        )
    return Energy(total, error)
