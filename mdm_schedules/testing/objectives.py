"""The conformance suite for objectives of tuning."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from mdm_schedules.errors import MDMError
from mdm_schedules.schedules import Beta, Linear, Polynomial, Schedule
from mdm_schedules.testing.common import failing_as, require
from mdm_schedules.tuning.objectives.base import Scores
from mdm_schedules.tuning.scorebook import CheckedObjective


def check_objective(
    objective: Callable[..., Any],
    *,
    steps: int | None = None,
    tolerance: float = 1e-5,
    repeatable: bool = True,
) -> None:
    """Run the whole suite; raises AssertionError saying what is wrong.

    Args:
        objective: the objective under test, with few instances: it is asked about ten times.
        steps: what it is given where it takes `steps`; None takes its own, or 4 where it has none.
        tolerance: by which scores of equal questions may differ, relative to 1 + the score.
        repeatable: equal questions get equal answers; False for one with randomness of its own.
    """
    try:
        checked = CheckedObjective(objective)
    except MDMError as error:
        raise AssertionError(f"{objective!r}: {error}") from error
    _check_attributes(objective)
    if checked.takes_steps:
        steps = (checked.steps or 4) if steps is None else steps
    else:
        require(steps is None, objective, "takes no `steps`; write it as score(schedule, steps)")
    everything = None if checked.num_instances is None else range(checked.num_instances)

    def ask(schedule: Schedule, instances: Sequence[int] | None = everything) -> Scores:
        try:
            answer = checked(schedule, steps, instances)
        except MDMError as error:
            raise AssertionError(f"{objective!r}: {error}") from error
        passes = answer.passes
        require(
            isinstance(passes, int) and passes >= 0,
            objective,
            f"passes must be an integer >= 0, got {passes!r}",
        )
        return answer

    def close(one: Sequence[float], other: Sequence[float]) -> bool:
        return all(
            a == b or math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
            for a, b in zip(one, other, strict=True)
        )

    schedule = Beta(0.9, 0.3)
    scores = ask(schedule).values
    if repeatable:
        require(
            close(ask(schedule).values, scores),
            objective,
            "gives the same schedule another score when asked again; seed it, or give "
            "repeatable=False",
        )
    if everything is not None and repeatable and not getattr(objective, "asked_together", False):
        backwards = ask(schedule, [*reversed(everything)]).values
        require(
            close(backwards[::-1], scores),
            objective,
            "the score of an instance depends on the order of `instances`",
        )
        require(
            close(ask(schedule, [everything[-1]]).values, scores[-1:]),
            objective,
            "the score of an instance depends on the others that are asked for",
        )
    _check_keys(objective, checked, steps, repeatable, lambda given: ask(given).values, close)


def _check_attributes(objective: Any) -> None:
    """What tuning, its reports and the Hub read."""
    for name in ("name", "metric_name", "model_name", "remasking"):
        value = getattr(objective, name, None)
        require(
            value is None or isinstance(value, str),
            objective,
            f"{name} must be text or None, got {value!r}",
        )
    for name in ("random_order", "asked_together"):
        value = getattr(objective, name, False)
        require(isinstance(value, bool), objective, f"{name} must be True or False, got {value!r}")
    steps = getattr(objective, "steps", None)
    require(
        steps is None or (isinstance(steps, int) and steps >= 1),
        objective,
        f"steps must be an integer >= 1 or None, got {steps!r}",
    )
    for name in ("sampler", "settings"):
        value = getattr(objective, name, {})
        with failing_as(objective, f"{name} as JSON"):
            same = json.loads(json.dumps(value))
        require(
            isinstance(value, dict) and same == value,
            objective,
            f"{name} must be a dict that JSON gives back as it is, got {value!r}",
        )


def _check_keys(
    objective: Any,
    checked: CheckedObjective,
    steps: int | None,
    repeatable: bool,
    score: Callable[[Schedule], Sequence[float]],
    close: Callable[[Sequence[float], Sequence[float]], bool],
) -> None:
    """Schedules with equal keys are scored once, so equal keys must mean equal scores."""
    own = getattr(objective, "plan_key", None)
    found: dict[str, tuple[Schedule, Sequence[float]]] = {}
    for schedule in (Linear(), Polynomial(1.0), Beta(0.2, 3.0)):
        with failing_as(objective, "plan_key"):
            given = None if own is None else own(schedule, steps)
            key = checked.key(schedule, steps)
        require(
            given is None or isinstance(given, str),
            objective,
            f"plan_key must return text or None, got {given!r}",
        )
        require(
            key == checked.key(schedule, steps),
            objective,
            f"plan_key gives {schedule!r} another key when asked again",
        )
        values = score(schedule)
        if key in found and repeatable:
            require(
                close(values, found[key][1]),
                objective,
                f"plan_key is the same for {found[key][0]!r} and {schedule!r}, whose scores differ",
            )
        found[key] = (schedule, values)
