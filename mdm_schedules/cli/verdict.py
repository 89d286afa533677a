"""What a tuning run found, in one plain sentence, and the line of Python that uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdm_schedules.tuning import TuningResult

LONGEST = 80  # characters of a schedule that a line of Python can hold


def sentence(found: TuningResult, steps: int | None, saved: str | None) -> str:
    """Which schedule, by how much over linear and how sure, at which steps and order, and its use.

    Args:
        found: the result.
        steps: one of the numbers of steps that were tuned.
        saved: folder or Hub id that the winner was saved in, or None.
    """
    # here, so that --help imports no torch
    from mdm_schedules.tuning.decoding import words
    from mdm_schedules.tuning.verdicts import finding

    choice = found.choice_at(steps)
    tokens = found.objective.num_tokens
    sampler = {**found.objective.sampler, **choice.decoding.given}
    order = sampler.get("remasking", "low_confidence")
    where = (
        f"At {choice.steps} steps in {order} order"
        if choice.steps is not None
        else f"In {order} order"
    )
    base, name, other = (
        words(one, choice.steps, tokens)
        for one in (found.baseline.decoding, choice.decoding, choice.challenger.decoding)
    )
    what = f"use {name}, not {base}" if choice.won else f"keep {name}"
    told = finding(choice, other, found.book.one_prompt).rstrip(".")
    spec, steps = choice.schedule.spec, choice.decoding.steps(choice.steps)
    return (
        f"{where} {what} ({found.objective.metric}): {told[0].lower()}{told[1:]}. "
        f"In Python: {_line(spec, steps, sampler, saved)}"
    )


def _line(spec: str, steps: int | None, sampler: dict[str, Any], saved: str | None) -> str:
    if len(spec) > LONGEST:
        spec = saved or "FOLDER"
    options: dict[str, Any] = {"schedule": spec, "steps": steps, **sampler}
    told = ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)
    need = "  # --output FOLDER saves it" if spec == "FOLDER" else ""
    return f"model.generate(input_ids, {told}){need}"
