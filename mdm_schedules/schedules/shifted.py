"""The rational time shift of OmniVoice and of flow matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from mdm_schedules.checks import check_real
from mdm_schedules.schedules.base import Schedule


@dataclass(frozen=True, repr=False)
class Shifted(Schedule):
    """alpha = s t / (1 + (s - 1) t): a linear schedule with its time shifted by s > 0.

    OmniVoice writes s as `t_shift` and has 0.1, the default here. Below 1 few tokens come early and
    many late; 1 is linear; 1/s is the mirror image, alpha(t) to 1 - alpha(1 - t). Flow matching
    (Stable Diffusion 3, arXiv 2403.03206, Section 5.3.2) shifts noise time by the same formula,
    which is 1/s here. The slope falls or rises from s at t = 0 to 1/s at t = 1.
    """

    shift: float = 0.1
    name: ClassVar[str] = "shifted"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shift", check_real("shift", self.shift, 1e-6, 1e6))

    def _below(self, t: torch.Tensor) -> torch.Tensor:
        """The denominator, as a sum of positive terms: 1 + (s - 1) t would cancel near t = 1."""
        return (1 - t) + self.shift * t

    def _alpha(self, t: torch.Tensor) -> torch.Tensor:
        return self.shift * t / self._below(t)

    def _masked(self, t: torch.Tensor) -> torch.Tensor:
        return (1 - t) / self._below(t)

    def _alpha_dot(self, t: torch.Tensor) -> torch.Tensor:
        return self.shift / self._below(t).square()

    def _inverse(self, alpha: torch.Tensor) -> torch.Tensor:
        return alpha / (self.shift * (1 - alpha) + alpha)

    def _end_orders(self) -> tuple[float, float]:
        return 0.5, 0.5
