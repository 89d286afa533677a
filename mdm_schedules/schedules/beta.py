"""The two-number family of arXiv 2509.13866 (Section 4): alpha = sin^2(pi/2 * BetaCDF(t; a, b))."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import torch

from mdm_schedules.checks import check_real
from mdm_schedules.schedules.base import Schedule
from mdm_schedules.schedules.curves import exact_ends

# what the formulas here are tested for
MAX_SHAPE = 1e6
MAX_TERMS = 100_000  # of a continued fraction; about sqrt(MAX_SHAPE) are needed


def _stirling(x: float) -> float:
    """log Gamma(x) less Stirling's formula."""
    if x < 30:
        return math.lgamma(x) - ((x - 0.5) * math.log(x) - x + math.log(2 * math.pi) / 2)
    # The asymptotic series, whose first term left out is below 1e-16 from 30 on.
    return (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * x * x)) / (x * x)) / (x * x)) / x


def _special(function: str, a: float, b: float, x: torch.Tensor) -> torch.Tensor:
    from scipy import special  # here, so that importing the package stays quick

    compute: Callable[..., Any] = getattr(special, function)
    # from_numpy, because as_tensor would go by way of torch's default device
    return torch.from_numpy(np.asarray(compute(a, b, x.cpu().numpy()))).to(x.device)


@dataclass(frozen=True, repr=False)
class Beta(Schedule):
    """alpha = sin^2(pi/2 BetaCDF(t; a, b)), the paper's family for any task; a, b in (0, 1e6].

    It is energy-optimal for gamma = the CDF of a Beta(a, b) law (arXiv 2509.13866).
    Beta(0.5, 0.5) is linear and Beta(1, 1) the squared sine (Prop. 3.7). a above b reveals few
    tokens early and many late. At t = 0 alpha grows like t^(2a), so the slope there is infinite for
    a < 0.5 and zero for a > 0.5; likewise with b at t = 1.
    """

    a: float
    b: float
    name: ClassVar[str] = "beta"

    def __post_init__(self) -> None:
        for key in ("a", "b"):
            object.__setattr__(
                self, key, check_real(key, getattr(self, key), 0, MAX_SHAPE, low_open=True)
            )

    def _halves(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """gamma(t) and 1 - gamma(t), each without cancellation."""
        return _special("betainc", self.a, self.b, t), _special("betaincc", self.a, self.b, t)

    def _alpha(self, t: torch.Tensor) -> torch.Tensor:
        low, high = self._halves(t)
        # from the nearer end, so that both alpha near 0 and 1 - alpha near 0 keep their digits
        below = torch.sin(math.pi / 2 * low).square()
        above = 1 - torch.sin(math.pi / 2 * high).square()
        return exact_ends(t, torch.where(low < 0.5, below, above))

    def _masked(self, t: torch.Tensor) -> torch.Tensor:
        low, high = self._halves(t)
        return torch.where(
            low < 0.5,
            1 - torch.sin(math.pi / 2 * low).square(),
            torch.sin(math.pi / 2 * high).square(),
        )

    def _loss_weight(self, t: torch.Tensor) -> torch.Tensor:
        low, high = self._halves(t)
        tangent = torch.where(
            low < 0.5, torch.tan(math.pi / 2 * low), 1 / torch.tan(math.pi / 2 * high)
        )
        inside = math.pi * self._gamma_dot(t) * tangent
        # where both factors fall below the smallest float: twice gamma_dot / (1 - gamma), as so
        # small a tangent is its angle
        lost = (high < 1e-280) & (t < 1)
        if bool(lost.any()):
            inside[lost] = 2 * self.b / (t[lost] * (1 - t[lost]) * self._remainder(1 - t[lost]))
        return torch.where(t == 0, self._end_slope(self.a), torch.where(t == 1, math.inf, inside))

    def _remainder(self, x: torch.Tensor) -> torch.Tensor:
        """F = 2F1(a + b, 1; b + 1; x): at x = 1 - t, 1 - gamma is x^b (1 - x)^a F / (b B(a, b)).

        The continued fraction of the incomplete beta function (DLMF 8.17.22), by Lentz's method; it
        converges for x < (b + 1) / (a + b + 2), which holds far in the tail.
        """
        a, b = self.a, self.b
        # numerator and denominator of the convergents, each by the ratio to the one before it
        upper, lower = torch.ones_like(x), 1 / (1 - (a + b) / (b + 1) * x)
        value = lower.clone()
        for m in range(1, MAX_TERMS):
            for factor in (
                m / (b + 2 * m - 1) * ((a - m) / (b + 2 * m)),
                -(b + m) / (b + 2 * m) * ((a + b + m) / (b + 2 * m + 1)),
            ):
                upper, lower = 1 + factor * x / upper, 1 / (1 + factor * x * lower)
                value = value * upper * lower
            if bool(((upper * lower - 1).abs() < 1e-15).all()):
                break
        return value

    def _alpha_noise(self, tau: torch.Tensor) -> torch.Tensor:
        return Beta(self.b, self.a)._masked(tau)  # the mirror image

    def _alpha_noise_dot(self, tau: torch.Tensor) -> torch.Tensor:
        return -Beta(self.b, self.a)._alpha_dot(tau)

    def _end_orders(self) -> tuple[float, float]:
        return self.a, self.b

    def _alpha_dot(self, t: torch.Tensor) -> torch.Tensor:
        low, high = self._halves(t)
        inside = math.pi / 2 * torch.sin(math.pi * torch.minimum(low, high)) * self._gamma_dot(t)
        return torch.where(
            t == 0, self._end_slope(self.a), torch.where(t == 1, self._end_slope(self.b), inside)
        )

    def _end_slope(self, power: float) -> float:
        if power != 0.5:
            return 0.0 if power > 0.5 else math.inf
        # alpha ~ (pi/2)^2 (2 sqrt(x) / B)^2 = (pi / B)^2 x at distance x from the end
        return (math.pi * math.exp(-self._log_beta)) ** 2

    @property
    def _log_beta(self) -> float:
        return math.lgamma(self.a) + math.lgamma(self.b) - math.lgamma(self.a + self.b)

    def _inverse(self, alpha: torch.Tensor) -> torch.Tensor:
        low = torch.asin(alpha.sqrt()) * (2 / math.pi)
        high = torch.asin((1 - alpha).sqrt()) * (2 / math.pi)
        from_zero = self._quantile(self.a, self.b, low)
        # betainccinv stops short: 8e-10 off at a = b, 0.5
        from_one = 1 - self._quantile(self.b, self.a, high)
        t = torch.where((low < 0.5) | (from_zero < 0.5), from_zero, from_one)
        # both stop up to 1e-8 short of the middle where a is about b: one step of Newton's method,
        # if it helps
        gap = self._gap(t, low, high)
        nearer = (t - gap / self._gamma_dot(t)).clamp(0, 1)
        return exact_ends(
            alpha, torch.where(self._gap(nearer, low, high).abs() < gap.abs(), nearer, t)
        )

    def _quantile(self, a: float, b: float, low: torch.Tensor) -> torch.Tensor:
        """The t at which the CDF of a Beta(a, b) law is `low`."""
        # betaincinv is wrong or NaN near 0, where the CDF is t^a (1 + a (1 - b) t / (a + 1) + ...)
        # / (a B)
        start = torch.exp((low.log() + math.log(a) + self._log_beta) / a)
        near = start * (1 - (1 - b) / (a + 1) * start)
        # The first two terms are exact to rounding where the third, of order start^2, is below
        # 1e-16.
        return torch.where(start * (1 + b) < 1e-8, near, _special("betaincinv", a, b, low))

    def _gap(self, t: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """gamma(t) less its target, given as `low` = gamma and `high` = 1 - gamma."""
        below, above = self._halves(t)
        return torch.where(low < 0.5, below - low, high - above)

    def _gamma(self, t: torch.Tensor) -> torch.Tensor:
        low, high = self._halves(t)
        return exact_ends(t, torch.where(low < 0.5, low, 1 - high))

    def _gamma_dot(self, t: torch.Tensor) -> torch.Tensor:
        if max(self.a, self.b) > 100:
            return self._steep_density(t)
        log_density = (
            torch.special.xlogy(self.a - 1, t)
            + torch.special.xlog1py(self.b - 1, -t)
            - self._log_beta
        )
        return torch.exp(log_density)

    def _steep_density(self, t: torch.Tensor) -> torch.Tensor:
        """The same density relative to that at the mean.

        Logarithms of the size of a and b would lose digits. With s ~ a / (a + b), r ~ 1 - s:
        t^a (1 - t)^b = (t / s)^a ((1 - t) / r)^b s^a r^b, and s^a r^b / B(a, b) is
        sqrt(a b / (2 pi (a + b))) times Stirling's remainders. What rounding makes of s
        and r is put back exactly.
        """
        a, b = Fraction(self.a), Fraction(self.b)
        # The mean and its complement, with `gap` what rounding left between their sum and 1: exact
        # fractions, because a and b up to 1e6 multiply every error in the exponent.
        s, r = float(a / (a + b)), float(b / (a + b))
        gap = float(1 - Fraction(s) - Fraction(r))
        # a log(s (a + b) / a) + b log(r (a + b) / b)
        rest = float((Fraction(s) + Fraction(r) - 1) * (a + b))
        rest += _stirling(self.a + self.b) - _stirling(self.a) - _stirling(self.b)
        front = math.sqrt(self.a / (self.a + self.b) * self.b / (2 * math.pi))
        below = torch.where((t - s).abs() < s / 2, torch.log1p((t - s) / s), torch.log(t / s))
        near_one = torch.log1p(-t) - math.log(r)
        above = torch.where((t - s).abs() < r / 2, torch.log1p((s - t + gap) / r), near_one)
        # divided by t (1 - t) in the exponent: the quotient may be a float where its parts are not
        power = rest - torch.log(t) - torch.log1p(-t)
        inside = front * torch.exp(self.a * below + self.b * above + power)
        return torch.where((t > 0) & (t < 1), inside, self._end_density(t))

    def _end_density(self, t: torch.Tensor) -> torch.Tensor:
        limits = [
            0.0 if p > 1 else math.inf if p < 1 else max(self.a, self.b) for p in (self.a, self.b)
        ]
        return torch.where(t < 0.5, t.new_tensor(limits[0]), t.new_tensor(limits[1]))
