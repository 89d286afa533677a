"""A schedule given by knots, as found by tuning or by an information profile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.schedules.base import Schedule
from mdm_schedules.schedules.curves import exact_ends

MAX_KNOTS = 1 << 20


@dataclass(frozen=True, repr=False, init=False)
class Tabulated(Schedule):
    """alpha through knots (t_i, alpha_i), joined by arcs of least energy: linear in (2/pi) arcsin
    sqrt alpha.

    Args:
        alpha: 2 to 2**20 strictly increasing numbers from 0 to 1.
        t: as many strictly increasing times from 0 to 1; None spaces them evenly.

    The slope jumps at a knot, where the one to the right is returned. The arcs (arXiv 2509.13866,
    App. D.5) keep the energy finite, which straight lines in alpha would not.
    """

    alpha_knots: tuple[float, ...]
    t_knots: tuple[float, ...] | None
    name: ClassVar[str] = "tabulated"

    def __init__(self, alpha: Sequence[float], t: Sequence[float] | None = None) -> None:
        object.__setattr__(self, "alpha_knots", _check_knots("alpha", alpha))
        object.__setattr__(self, "t_knots", None if t is None else _check_knots("t", t))
        if t is not None and len(self.alpha_knots) != len(self.t_knots or ()):
            raise InvalidValueError(
                f"alpha has {len(self.alpha_knots)} knots and t has {len(self.t_knots or ())}"
            )

    @property
    def params(self) -> dict[str, Any]:
        return {"alpha": self.alpha_knots, "t": self.t_knots}

    def _knots(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        alpha = torch.tensor(self.alpha_knots, dtype=torch.float64, device=device)
        gamma = torch.atan2(alpha.sqrt(), (1 - alpha).sqrt()) * (2 / math.pi)
        if self.t_knots is None:
            return torch.linspace(0, 1, len(alpha), dtype=torch.float64, device=device), gamma
        return torch.tensor(self.t_knots, dtype=torch.float64, device=device), gamma

    def _alpha(self, t: torch.Tensor) -> torch.Tensor:
        return exact_ends(t, torch.sin(math.pi / 2 * self._gamma(t)).square())

    def _alpha_dot(self, t: torch.Tensor) -> torch.Tensor:
        nearer = torch.minimum(self._gamma(t), self._rest(t))
        return math.pi / 2 * torch.sin(math.pi * nearer) * self._gamma_dot(t)

    def _masked(self, t: torch.Tensor) -> torch.Tensor:
        return torch.sin(math.pi / 2 * self._rest(t)).square()

    def _inverse(self, alpha: torch.Tensor) -> torch.Tensor:
        times, gammas = self._knots(alpha.device)
        gamma = torch.atan2(alpha.sqrt(), (1 - alpha).sqrt()) * (2 / math.pi)
        return exact_ends(alpha, _interpolate(gamma, gammas, times)[0])

    def _gamma(self, t: torch.Tensor) -> torch.Tensor:
        return exact_ends(t, _interpolate(t, *self._knots(t.device))[0])

    def _gamma_dot(self, t: torch.Tensor) -> torch.Tensor:
        return _interpolate(t, *self._knots(t.device))[1]

    def _rest(self, t: torch.Tensor) -> torch.Tensor:
        """1 - gamma, without cancellation near t = 1."""
        times, gammas = self._knots(t.device)
        return _interpolate(1 - t, (1 - times).flip(0), (1 - gammas).flip(0))[0]


def _interpolate(
    x: torch.Tensor, xs: torch.Tensor, ys: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and right-hand slope at x of the piecewise-linear curve through (xs, ys)."""
    left = (torch.searchsorted(xs, x.contiguous(), right=True) - 1).clamp(0, len(xs) - 2)
    slope = (ys[left + 1] - ys[left]) / (xs[left + 1] - xs[left])
    return ys[left] + slope * (x - xs[left]), slope


def _check_knots(name: str, values: Any) -> tuple[float, ...]:
    try:
        if isinstance(values, torch.Tensor) and values.is_floating_point():
            values = values.detach().cpu().double()  # numpy has no bfloat16
        array = np.asarray(values)
        if array.dtype.kind not in "fiu" or array.ndim != 1:
            raise TypeError
    except (TypeError, ValueError, RuntimeError):
        raise InvalidTypeError(
            f"{name} must be a sequence of numbers, got {type(values).__name__}"
        ) from None
    if not 2 <= len(array) <= MAX_KNOTS:
        raise InvalidValueError(f"{name} must have 2 to {MAX_KNOTS} knots, got {len(array)}")
    numbers: list[float] = array.astype(np.float64).tolist()
    if not np.isfinite(numbers).all():
        raise InvalidValueError(
            f"{name} must hold finite numbers, got "
            f"{next(x for x in numbers if not math.isfinite(x))}"
        )
    if numbers[0] != 0 or numbers[-1] != 1:
        raise InvalidValueError(
            f"{name} must run from exactly 0 to exactly 1, got {numbers[0]!r} to {numbers[-1]!r}"
        )
    falls = np.flatnonzero(np.diff(numbers) <= 0)
    if len(falls):
        i = int(falls[0])
        raise InvalidValueError(
            f"{name} must increase strictly; knot {i + 1} is {numbers[i + 1]!r} after "
            f"{numbers[i]!r}"
        )
    return tuple(numbers)
