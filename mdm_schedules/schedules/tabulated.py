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
MAX_SLOPE = 1e300  # of gamma between two knots, so that nothing computed from it overflows


@dataclass(frozen=True, repr=False, init=False)
class Tabulated(Schedule):
    """alpha through knots (t_i, alpha_i), joined by arcs of least energy.

    The arcs are linear in (2/pi) arcsin sqrt alpha.

    Args:
        alpha: 2 to 2**20 strictly increasing numbers from 0 to 1.
        t: as many strictly increasing times from 0 to 1; None spaces them evenly. Knots so close
            that the slope between them leaves float64 (above 1e300) are refused.

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
        # Knots close in time but not in alpha make a slope that overflows in every energy.
        if self.t_knots is not None:
            slopes = self._gamma_dot(torch.tensor(self.t_knots, dtype=torch.float64, device="cpu"))
            i = int(slopes[:-1].argmax())
            if not float(slopes[i]) < MAX_SLOPE:
                raise InvalidValueError(
                    f"t has knots too close for float64: {self.t_knots[i]!r} and "
                    f"{self.t_knots[i + 1]!r}, where alpha rises from {self.alpha_knots[i]!r} to "
                    f"{self.alpha_knots[i + 1]!r}; merge them"
                )

    @property
    def params(self) -> dict[str, Any]:
        return {"alpha": self.alpha_knots, "t": self.t_knots}

    def _knots(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Times, gamma, and 1 - gamma without cancellation."""
        alpha = torch.tensor(self.alpha_knots, dtype=torch.float64, device=device)
        # Between two knots gamma is linear in t, which is the path of least energy from one to the
        # other.
        reveal, mask = alpha.sqrt(), (1 - alpha).sqrt()
        gamma, rest = (
            torch.atan2(one, other) * (2 / math.pi)
            for one, other in ((reveal, mask), (mask, reveal))
        )
        if self.t_knots is None:
            times = torch.linspace(0, 1, len(alpha), dtype=torch.float64, device=device)
        else:
            times = torch.tensor(self.t_knots, dtype=torch.float64, device=device)
        return times, gamma, rest

    def _alpha(self, t: torch.Tensor) -> torch.Tensor:
        return exact_ends(t, torch.sin(math.pi / 2 * self._gamma(t)).square())

    def _alpha_dot(self, t: torch.Tensor) -> torch.Tensor:
        gamma, rest, slope = self._arc(t)
        return math.pi / 2 * torch.sin(math.pi * torch.minimum(gamma, rest)) * slope

    def _masked(self, t: torch.Tensor) -> torch.Tensor:
        return torch.sin(math.pi / 2 * self._arc(t)[1]).square()

    def _inverse(self, alpha: torch.Tensor) -> torch.Tensor:
        times, gammas, _ = self._knots(alpha.device)
        gamma = torch.atan2(alpha.sqrt(), (1 - alpha).sqrt()) * (2 / math.pi)
        left = _piece(gamma, gammas)
        slope = (times[left + 1] - times[left]) / (gammas[left + 1] - gammas[left])
        return exact_ends(alpha, times[left] + slope * (gamma - gammas[left]))

    def _gamma(self, t: torch.Tensor) -> torch.Tensor:
        return exact_ends(t, self._arc(t)[0])

    def _gamma_dot(self, t: torch.Tensor) -> torch.Tensor:
        return self._arc(t)[2]

    def _end_orders(self) -> tuple[float, float]:
        return 1.0, 1.0

    def _arc(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """gamma from the knot to the left, 1 - gamma from the one to the right, and the slope."""
        times, gammas, rests = self._knots(t.device)
        left = _piece(t, times)
        right = left + 1
        rise = torch.where(
            gammas[left] < 0.5, gammas[right] - gammas[left], rests[left] - rests[right]
        )
        slope = rise / (times[right] - times[left])
        gamma = gammas[left] + slope * (t - times[left])
        return gamma, rests[right] + slope * (times[right] - t), slope


def _piece(x: torch.Tensor, knots: torch.Tensor) -> torch.Tensor:
    """The knot at which the piece around x begins; a knot belongs to the piece to its right."""
    index: torch.Tensor = torch.searchsorted(knots, x.contiguous(), right=True) - 1
    return index.clamp(0, len(knots) - 2)


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
