"""The objective without sampling: the prediction of an information profile."""

from __future__ import annotations

from typing import Any

from mdm_schedules.checks import check_int, shown
from mdm_schedules.errors import InvalidTypeError
from mdm_schedules.information import InformationProfile
from mdm_schedules.plan import MAX_STEPS
from mdm_schedules.schedules import Schedule
from mdm_schedules.tuning.objectives.base import Objective, needed_steps

_EXAMPLE = "ProfileObjective(profile, steps=16)"


class ProfileObjective(Objective):
    """Minus the divergence of a schedule's samples in random order, in nats (arXiv 2510.25544).

    For any other order the score is only a guide.

    Args:
        profile: an InformationProfile.
        steps: forward passes, if `tune` is given none.
    """

    name = "information profile"
    metric_name = "minus nats"
    # The theory covers random order only; naming it lets `tune` trust the prediction.
    remasking = "random"  # type: ignore[assignment]

    def __init__(self, profile: InformationProfile, steps: int | None = None) -> None:
        if not isinstance(profile, InformationProfile):
            raise InvalidTypeError(f"profile must be an InformationProfile, got {shown(profile)}")
        self.profile, self.num_tokens = profile, profile.num_tokens
        self.steps = None if steps is None else check_int("steps", steps, 1, MAX_STEPS, _EXAMPLE)

    def __call__(self, schedule: Schedule, steps: int | None = None) -> float:
        """Minus the cost of the schedule's plan, in nats."""
        return -self.profile.cost(
            schedule.plan(self.profile.num_tokens, needed_steps(steps, self.steps, _EXAMPLE))
        )

    def plan_key(self, schedule: Schedule, steps: int | None) -> str:
        """The plan, which alone determines the score."""
        count = needed_steps(steps, self.steps, _EXAMPLE)
        return str(schedule.plan(self.profile.num_tokens, count).tolist())

    def estimate_profile(self) -> Any:
        """The profile itself."""
        return self.profile
