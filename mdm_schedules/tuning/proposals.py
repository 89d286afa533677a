"""What is worth checking without a search: common schedules, the paper's, and what an information
profile predicts.
"""

from __future__ import annotations

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

PREDICTED = "predicted"  # how the origins begin that come from a profile


def baselines(given: Any) -> list[Candidate]:
    """The schedules to beat; the first is the one that wins unless another is ahead."""
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
    found: dict[Schedule, str] = {}
    for schedule in (Linear(), Sine(), SquaredSine(), Cosine()):
        found[schedule] = schedule.name
    for preset in list_presets():
        if order is not None and order != preset.order:
            continue
        for count in (
            preset.steps if steps == [None] else [step for step in steps if step is not None]
        ):
            found.setdefault(get_schedule(preset.best(count).schedule), PREFIX + preset.name)
    return [Candidate(schedule, origin) for schedule, origin in found.items()]


def predicted(profile: InformationProfile, steps: Sequence[int | None]) -> list[Candidate]:
    """The best Beta and the best plan by the profile at each number of steps, and its schedule for
    all of them.
    """
    counts = [count for count in steps if count is not None]
    if not counts:
        raise InvalidValueError(
            "a profile predicts for a number of steps; give steps=16, or steps=[8, 16]"
        )
    found = []
    for count in sorted({min(count, profile.num_tokens) for count in counts}):
        found.append(Candidate(profile.fit_beta(count), f"{PREDICTED}: best Beta at {count}"))
        found.append(Candidate(profile.schedule(count), f"{PREDICTED}: best plan at {count}"))
    return [*found, Candidate(profile.schedule(), f"{PREDICTED}: for all steps")]


def predicted_cost(
    profile: InformationProfile, schedule: Schedule, steps: int | None
) -> float | None:
    """Nats by which a schedule's samples diverge, in random order; None where the number of steps
    is not known.
    """
    return None if steps is None else profile.cost(schedule.plan(profile.num_tokens, steps))


def as_beta(schedule: Schedule) -> tuple[float, float] | None:
    """(a, b) of a schedule that is a Beta, under whatever name; None for others."""
    if isinstance(schedule, Beta):
        return schedule.a, schedule.b
    return {Linear(): (0.5, 0.5), SquaredSine(): (1.0, 1.0)}.get(schedule)
