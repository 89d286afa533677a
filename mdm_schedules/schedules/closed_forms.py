"""Schedules with elementary formulas.

Each docstring says where the field uses the schedule and what its ends do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from mdm_schedules.checks import check_real
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.schedules.base import Schedule
from mdm_schedules.schedules.curves import exact_ends

HALF_PI = math.pi / 2


@dataclass(frozen=True, repr=False)
class Linear(Schedule):
    """alpha = t: equal numbers of tokens per step (LLaDA, Dream).

    It is Beta(0.5, 0.5) (arXiv 2509.13866, Prop. 3.7).
    """

    name: ClassVar[str] = "linear"

    def _alpha(self, t: torch.Tensor) -> torch.Tensor:
        return t.clone()

    def _alpha_dot(self, t: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(t)

    def _inverse(self, alpha: torch.Tensor) -> torch.Tensor:
        return alpha.clone()

    def _end_orders(self) -> tuple[float, float]:
        return 0.5, 0.5


@dataclass(frozen=True, repr=False)
class LogLinear(Linear):
    """MDLM's log-linear noise, by which alpha is linear (arXiv 2406.07524).

    The total noise is -log(1 - (1 - eps) tau). MDLM keeps eps = 1e-3 away from the end; here the
    ends are exact, hence alpha = t.
    """

    name: ClassVar[str] = "log_linear"


@dataclass(frozen=True, repr=False)
class Sine(Schedule):
    """alpha = sin(pi t / 2): many tokens early, few late.

    It is MDLM's "cosine" noise in generation time.
    """

    name: ClassVar[str] = "sine"

    def _alpha(self, t: torch.Tensor) -> torch.Tensor:
        return torch.sin(HALF_PI * t)

    def _alpha_dot(self, t: torch.Tensor) -> torch.Tensor:
        return HALF_PI * torch.sin(HALF_PI * (1 - t))

    def _masked(self, t: torch.Tensor) -> torch.Tensor:
        return 2 * torch.sin(HALF_PI / 2 * (1 - t)).square()

    def _inverse(self, alpha: torch.Tensor) -> torch.Tensor:
        return torch.asin(alpha) / HALF_PI

    def _end_orders(self) -> tuple[float, float]:
        return 0.5, 1.0

    def _gamma_dot(self, t: torch.Tensor) -> torch.Tensor:
        # alpha_dot / sqrt(1 - alpha) = (pi/2) sqrt(1 + alpha), which removes the 0/0 at t = 1
        alpha = self._alpha(t)
        return 0.5 * ((1 + alpha) / alpha).sqrt()


@dataclass(frozen=True, repr=False)
class SquaredSine(Schedule):
    """alpha = sin^2(pi t / 2), energy-optimal for gamma = t; it is Beta(1, 1).

    In noise time it is "cosine squared" (MDLM).
    """

    name: ClassVar[str] = "squared_sine"

    def _alpha(self, t: torch.Tensor) -> torch.Tensor:
        return torch.sin(HALF_PI * t).square()

    def _alpha_dot(self, t: torch.Tensor) -> torch.Tensor:
        return math.pi * torch.sin(HALF_PI * t) * torch.sin(HALF_PI * (1 - t))

    def _masked(self, t: torch.Tensor) -> torch.Tensor:
        return torch.sin(HALF_PI * (1 - t)).square()

    def _inverse(self, alpha: torch.Tensor) -> torch.Tensor:
        return torch.atan2(alpha.sqrt(), (1 - alpha).sqrt()) / HALF_PI

    def _gamma(self, t: torch.Tensor) -> torch.Tensor:
        return t.clone()

    def _gamma_dot(self, t: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(t)

    def _end_orders(self) -> tuple[float, float]:
        return 1.0, 1.0


@dataclass(frozen=True, repr=False)
class Cosine(Schedule):
    """MaskGIT's cosine, alpha = 1 - cos(pi t / 2): few tokens early, many late.

    Source: arXiv 2202.04200. aMUSEd, dLLM and MD4 use it too.
    """

    name: ClassVar[str] = "cosine"

    def _alpha(self, t: torch.Tensor) -> torch.Tensor:
        # = 1 - cos without cancellation near 0
        return exact_ends(t, 2 * torch.sin(HALF_PI / 2 * t).square())

    def _alpha_dot(self, t: torch.Tensor) -> torch.Tensor:
        return HALF_PI * torch.sin(HALF_PI * t)

    def _masked(self, t: torch.Tensor) -> torch.Tensor:
        return torch.sin(HALF_PI * (1 - t))

    def _inverse(self, alpha: torch.Tensor) -> torch.Tensor:
        return exact_ends(alpha, torch.asin((alpha / 2).sqrt()) * (2 / HALF_PI))

    def _roots(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return math.sqrt(2) * torch.sin(HALF_PI / 2 * t), self._masked(t).sqrt()

    def _end_orders(self) -> tuple[float, float]:
        return 1.0, 0.5

    def _gamma_dot(self, t: torch.Tensor) -> torch.Tensor:
        # alpha_dot / sqrt(alpha) = (pi/2) sqrt(2 - alpha), which removes the 0/0 at t = 0
        masked = self._masked(t)
        return 0.5 * ((1 + masked) / masked).sqrt()


@dataclass(frozen=True, repr=False)
class Polynomial(Schedule):
    """alpha = t^p, p > 0 (MaskGIT's square and cubic, arXiv 2202.04200).

    p > 1 starts slowly, p < 1 starts fast. MD4's "polynomial" is the mirror image, a masked
    fraction of tau^p, that is 1 - (1 - t)^p in generation time.
    """

    p: float = 2.0
    name: ClassVar[str] = "polynomial"

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", check_real("p", self.p, 0, low_open=True))

    def _alpha(self, t: torch.Tensor) -> torch.Tensor:
        return t**self.p

    def _alpha_dot(self, t: torch.Tensor) -> torch.Tensor:
        return self.p * t ** (self.p - 1)

    def _masked(self, t: torch.Tensor) -> torch.Tensor:
        return torch.expm1(torch.special.xlogy(self.p, t)).abs()

    def _inverse(self, alpha: torch.Tensor) -> torch.Tensor:
        return alpha ** (1 / self.p)

    def _roots(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return t ** (self.p / 2), self._masked(t).sqrt()

    def _end_orders(self) -> tuple[float, float]:
        return self.p / 2, 0.5

    def _end_gaps(self) -> tuple[float, float]:
        return min(1.0, self.p), 1.0  # gamma = (2/pi) arcsin t^(p/2) is a series in t^p

    def _alpha_noise(self, tau: torch.Tensor) -> torch.Tensor:
        return torch.exp(torch.special.xlog1py(self.p, -tau))

    def _alpha_noise_dot(self, tau: torch.Tensor) -> torch.Tensor:
        return -self.p * torch.exp(torch.special.xlog1py(self.p - 1, -tau))

    def _gamma_dot(self, t: torch.Tensor) -> torch.Tensor:
        return self.p / math.pi * t ** (self.p / 2 - 1) / self._masked(t).sqrt()


@dataclass(frozen=True, repr=False)
class Geometric(Schedule):
    """Geometric noise: exp(-sigma(tau)), sigma = sigma_min^(1-tau) sigma_max^tau.

    Sources: MD4 (arXiv 2406.04329), SEDD, MDLM. Those systems stop at exp(-sigma_min) and
    exp(-sigma_max); here alpha is that curve stretched to reach 0 and 1 exactly:
    (exp(-sigma) - exp(-sigma_max)) / (exp(-sigma_min) - exp(-sigma_max)). Defaults are MD4's.
    """

    sigma_min: float = 1e-5
    sigma_max: float = 20.0
    name: ClassVar[str] = "geometric"

    def __post_init__(self) -> None:
        for key in ("sigma_min", "sigma_max"):
            object.__setattr__(self, key, check_real(key, getattr(self, key), 1e-12, 700))
        if not self.sigma_min < self.sigma_max:
            raise InvalidValueError(
                f"sigma_min must be below sigma_max, got {self.sigma_min!r} and {self.sigma_max!r}"
            )

    @property
    def _log_ratio(self) -> float:
        return math.log1p((self.sigma_max - self.sigma_min) / self.sigma_min)

    # alpha = expm1(sigma_max - sigma) / expm1(sigma_max - sigma_min): differences of exponentials
    # would cancel
    def _above(self, t: torch.Tensor) -> torch.Tensor:
        return self.sigma_min * torch.expm1((1 - t) * self._log_ratio)  # sigma - sigma_min

    def _below(self, t: torch.Tensor) -> torch.Tensor:
        return -self.sigma_max * torch.expm1(-t * self._log_ratio)  # sigma_max - sigma

    def _alpha(self, t: torch.Tensor) -> torch.Tensor:
        return exact_ends(
            t, torch.expm1(self._below(t)) / math.expm1(self.sigma_max - self.sigma_min)
        )

    def _masked(self, t: torch.Tensor) -> torch.Tensor:
        return torch.expm1(-self._above(t)) / math.expm1(self.sigma_min - self.sigma_max)

    def _alpha_dot(self, t: torch.Tensor) -> torch.Tensor:
        sigma_dot = self.sigma_max * torch.exp(-t * self._log_ratio) * self._log_ratio
        return torch.exp(-self._above(t)) * sigma_dot / -math.expm1(self.sigma_min - self.sigma_max)

    def _inverse(self, alpha: torch.Tensor) -> torch.Tensor:
        span = self.sigma_max - self.sigma_min
        below = torch.log1p(alpha * math.expm1(span))
        above = -torch.log1p((1 - alpha) * math.expm1(-span))
        from_zero = -torch.log1p(-below / self.sigma_max) / self._log_ratio
        from_one = 1 - torch.log1p(above / self.sigma_min) / self._log_ratio
        return exact_ends(alpha, torch.where(alpha < 0.5, from_zero, from_one))

    def _roots(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # each root by itself: alpha is as small as exp(-700) t
        height = math.expm1(self.sigma_max - self.sigma_min)
        reveal = torch.expm1(self._below(t)).sqrt() / math.sqrt(height)
        return torch.where(t == 1, 1.0, reveal), self._masked(t).sqrt()

    def _end_orders(self) -> tuple[float, float]:
        return 0.5, 0.5
