"""The closed-form optimum of all three energies for a given gamma.

Source: arXiv 2509.13866, Lemma 3.5 and Theorem 3.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from mdm_schedules.checks import shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.schedules.base import Schedule, schedules
from mdm_schedules.schedules.curves import end_limits, exact_ends


@dataclass(frozen=True, repr=False, init=False)
class EnergyOptimal(Schedule):
    """alpha*(t) = sin^2(pi/2 * gamma(t)): the least energy (pi^2) under the weight 1/gamma_dot.

    Args:
        gamma: None for gamma(t) = t; a Schedule or its spec, standing for its own `gamma` as in the
            energy functions; or a function of a float64 tensor, increasing from 0 to 1 and
            differentiable by torch. A schedule with a function works everywhere but cannot be
            saved; tabulate it first.
    """

    interpolation: Schedule | Callable[[torch.Tensor], torch.Tensor] | None = None
    name: ClassVar[str] = "energy_optimal"

    def __init__(
        self, gamma: Schedule | str | Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> None:
        if isinstance(gamma, str):
            gamma = schedules.read(gamma)
        if gamma is not None and not isinstance(gamma, Schedule):
            _check_function(gamma)
        # The optimum for a schedule's own gamma is that schedule, so every method below hands on to
        # it and nothing is computed twice through gamma.
        object.__setattr__(self, "interpolation", gamma)

    @property
    def params(self) -> dict[str, object]:
        return {"gamma": self.interpolation}

    def _alpha(self, t: torch.Tensor) -> torch.Tensor:
        if isinstance(self.interpolation, Schedule):
            return self.interpolation._alpha(t)
        return torch.sin(math.pi / 2 * self._gamma(t)).square()

    def _alpha_dot(self, t: torch.Tensor) -> torch.Tensor:
        if isinstance(self.interpolation, Schedule):
            return self.interpolation._alpha_dot(t)
        gamma = self._gamma(t)
        slope = (
            math.pi / 2 * torch.sin(math.pi * torch.minimum(gamma, 1 - gamma)) * self._gamma_dot(t)
        )
        if bool(slope.isnan().any()):  # 0 * inf where gamma starts or ends vertically
            slope = torch.where(slope.isnan(), end_limits(t, self._alpha, self._masked), slope)
        return slope

    def _masked(self, t: torch.Tensor) -> torch.Tensor:
        if isinstance(self.interpolation, Schedule):
            return self.interpolation._masked(t)
        return torch.sin(math.pi / 2 * (1 - self._gamma(t))).square()

    def _loss_weight(self, t: torch.Tensor) -> torch.Tensor:
        if isinstance(self.interpolation, Schedule):
            return self.interpolation._loss_weight(t)
        return super()._loss_weight(t)

    def _inverse(self, alpha: torch.Tensor) -> torch.Tensor:
        if isinstance(self.interpolation, Schedule):
            return self.interpolation._inverse(alpha)
        if self.interpolation is None:
            return torch.atan2(alpha.sqrt(), (1 - alpha).sqrt()) * (2 / math.pi)
        return super()._inverse(alpha)

    def _roots(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(self.interpolation, Schedule):
            return self.interpolation._roots(t)
        return super()._roots(t)

    def _end_orders(self) -> tuple[float, float] | None:
        if isinstance(self.interpolation, Schedule):
            return self.interpolation._end_orders()
        return (1.0, 1.0) if self.interpolation is None else None

    def _end_gaps(self) -> tuple[float, float]:
        if isinstance(self.interpolation, Schedule):
            return self.interpolation._end_gaps()
        return super()._end_gaps()

    def _alpha_noise(self, tau: torch.Tensor) -> torch.Tensor:
        if isinstance(self.interpolation, Schedule):
            return self.interpolation._alpha_noise(tau)
        return super()._alpha_noise(tau)

    def _alpha_noise_dot(self, tau: torch.Tensor) -> torch.Tensor:
        if isinstance(self.interpolation, Schedule):
            return self.interpolation._alpha_noise_dot(tau)
        return super()._alpha_noise_dot(tau)

    def _gamma(self, t: torch.Tensor) -> torch.Tensor:
        if isinstance(self.interpolation, Schedule):
            return self.interpolation._gamma(t)
        return (
            t.clone()
            if self.interpolation is None
            else exact_ends(t, self.interpolation(t).double())
        )

    def _gamma_dot(self, t: torch.Tensor) -> torch.Tensor:
        if isinstance(self.interpolation, Schedule):
            return self.interpolation._gamma_dot(t)
        if self.interpolation is None:
            return torch.ones_like(t)
        with torch.enable_grad():
            leaf = t.detach().clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.interpolation(leaf).sum(), leaf)
        return slope.to(t)


def _check_function(gamma: object) -> None:
    if not callable(gamma):
        raise InvalidTypeError(
            "gamma must be None, a Schedule, a spec string or a function of a tensor, got "
            f"{shown(gamma)}; "
            "for example EnergyOptimal(gamma='beta(a=0.9, b=0.3)')"
        )
    # Tried at the door: ends, shape, differentiability, and monotony on a grid.
    grid = torch.linspace(0, 1, 1025, dtype=torch.float64, device="cpu", requires_grad=True)
    try:
        with torch.enable_grad():
            values = gamma(grid)
    except Exception as error:
        raise InvalidTypeError(
            f"gamma must be a function of a float64 tensor; called with one it raised {error!r}"
        ) from error
    if (
        not isinstance(values, torch.Tensor)
        or values.shape != grid.shape
        or not values.requires_grad
    ):
        raise InvalidTypeError(
            "gamma must map a float64 tensor to a tensor of its shape, differentiable by torch"
        )
    values = values.detach()
    ends = abs(float(values[0])) < 1e-9 and abs(float(values[-1]) - 1) < 1e-9
    if not ends or not bool((values.diff() > 0).all()):
        raise InvalidValueError("gamma must increase strictly from gamma(0) = 0 to gamma(1) = 1")
