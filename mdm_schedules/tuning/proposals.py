"""Candidates that need no search: common and published schedules, and a profile's predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mdm_schedules.checks import shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.lookup import get_schedule
from mdm_schedules.presets import PREFIX, list_presets
from mdm_schedules.schedules import Beta, Cosine, Linear, Schedule, Sine, SquaredSine
from mdm_schedules.tuning.selection import Candidate

if TYPE_CHECKING:
    from mdm_schedules.information import InformationProfile

PREDICTED = "predicted"  # prefix of every origin that comes from a profile


def baselines(given: Any) -> list[Candidate]:
    """The schedules to beat; the first one wins unless a candidate is ahead of it."""
    if isinstance(given, str | Schedule):
        given = [given]
    if not isinstance(given, Sequence) or not given:
        raise InvalidTypeError(
            f"baselines must be schedules such as ['linear'], got {shown(given)}"
        )
    found = [get_schedule(one) for one in given]
    return [
        Candidate(found[0], "baseline"),
        *(Candidate(one, f"baseline {one.name}") for one in found[1:]),
    ]


def usual(steps: Sequence[int | None], order: str | None = None) -> list[Candidate]:
    """Linear, sine, squared sine, cosine, and the paper's best for every task at these steps.

    Args:
        steps: numbers of steps; [None] where they are not known.
        order: the remasking policy in use: presets measured with another are left out. None keeps
            them all.
    """
    # Keyed by schedule, so that a preset equal to a common schedule is scored once.
    found: dict[Schedule, str] = {}
    for schedule in (Linear(), Sine(), SquaredSine(), Cosine()):
        found[schedule] = schedule.name
    for preset in list_presets():
        if order is not None and order != preset.order:
            continue
        for count in (
            preset.steps if steps == [None] else [step for step in steps if step is not None]
        ):
            # Several tasks share a best schedule; the first name stays.
            found.setdefault(get_schedule(preset.best(count).schedule), PREFIX + preset.name)
    return [Candidate(schedule, origin) for schedule, origin in found.items()]


def fewer_steps(baseline: Candidate, steps: int | None) -> list[Candidate]:
    """The baseline in fewer passes: what a commit rule that saves passes is to be compared with."""
    counts = sorted({max(1, math.ceil(share * (steps or 1))) for share in (0.5, 0.75)} - {steps})
    return [
        Candidate(baseline.schedule, f"baseline in {count} steps", (("steps", count),))
        for count in counts
    ]


def predicted(profile: InformationProfile, steps: Sequence[int | None]) -> list[Candidate]:
    """The best Beta and the best plan for each number of steps, and the profile's general schedule.

    Raises:
        InvalidValueError: no number of steps is given.
    """
    counts = [count for count in steps if count is not None]
    if not counts:
        raise InvalidValueError(
            "a profile predicts for a number of steps; give steps=16, or steps=[8, 16]"
        )
    found = []
    # More steps than tokens cannot each reveal a token, so such counts share one prediction.
    for count in sorted({min(count, profile.num_tokens) for count in counts}):
        found.append(Candidate(profile.fit_beta(count), f"{PREDICTED}: best Beta at {count}"))
        found.append(Candidate(profile.schedule(count), f"{PREDICTED}: best plan at {count}"))
    return [*found, Candidate(profile.schedule(), f"{PREDICTED}: for all steps")]


def predicted_cost(
    profile: InformationProfile, schedule: Schedule, steps: int | None
) -> float | None:
    """Divergence of a schedule's samples in random order, in nats; None if `steps` is unknown."""
    return None if steps is None else profile.cost(schedule.plan(profile.num_tokens, steps))


def as_beta(schedule: Schedule) -> tuple[float, float] | None:
    """(a, b) of a Beta, also of one written as linear or squared sine; None for other schedules."""
    if isinstance(schedule, Beta):
        return schedule.a, schedule.b
    # arXiv 2509.13866, Prop. 3.7
    return {Linear(): (0.5, 0.5), SquaredSine(): (1.0, 1.0)}.get(schedule)
