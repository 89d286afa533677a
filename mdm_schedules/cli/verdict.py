"""What a tuning run found, in one plain sentence, and the line of Python that uses it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdm_schedules.tuning import TuningResult

LONGEST = 80  # characters of a schedule that a sentence can hold


def sentence(found: TuningResult, steps: int | None, saved: str | None) -> str:
    """Which schedule, by how much over linear and how sure, at which steps and order, and its use.

    Args:
        found: the result.
        steps: one of the numbers of steps that were tuned.
        saved: folder or Hub id that the winner was saved in, or None.
    """
    choice, gain = found.choice_at(steps), found.choice_at(steps).gain
    sampler = dict(found.objective.sampler)
    order = sampler.get("remasking", "low_confidence")
    where = (
        f"At {choice.steps} steps in {order} order"
        if choice.steps is not None
        else f"In {order} order"
    )
    if math.isnan(gain.standard_error):
        spread = " (one instance, so how sure that is cannot be said)"
    else:
        kind = "held-out instances" if choice.held_out else "the instances that chose it"
        spread = f" ± {gain.standard_error:.2g} (standard error, {gain.instances} {kind})"
    by = f"{gain.difference:+.3g}{spread}"
    base = next(
        (trial.schedule.name for trial in found.trials if trial.origin == "baseline"), "linear"
    )
    spec = choice.schedule.spec
    name = spec if len(spec) <= LONGEST else f"the {choice.schedule.name} schedule that was found"
    if choice.won:
        text = f"{where} use {name}: {found.objective.metric} {by} against {base}"
        # a NaN is not above 0 either
        text += "" if gain.low > 0 else ", which may be chance: more instances would tell"
    elif choice.challenger.schedule == choice.schedule:
        text = f"{where} keep {name}: no candidate was ahead of it"
    else:
        other = choice.challenger.schedule.spec
        other = other if len(other) <= LONGEST else choice.challenger.origin
        text = f"{where} keep {name}: the best other, {other}, was not surely ahead ({by})"
    return f"{text}. In Python: {_line(spec, choice.steps, sampler, saved)}"


def _line(spec: str, steps: int | None, sampler: dict[str, Any], saved: str | None) -> str:
    if len(spec) > LONGEST:
        spec = saved or "FOLDER"
    options: dict[str, Any] = {"schedule": spec, "steps": steps, **sampler}
    told = ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)
    need = "  # --output FOLDER saves it" if spec == "FOLDER" else ""
    return f"model.generate(input_ids, {told}){need}"
