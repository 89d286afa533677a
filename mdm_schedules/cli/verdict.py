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
    from mdm_schedules.tuning.decoding import words  # here, so that --help imports no torch

    choice = found.choice_at(steps)
    gain, tokens = choice.gain, found.objective.num_tokens
    sampler = {**found.objective.sampler, **choice.decoding.given}
    order = sampler.get("remasking", "low_confidence")
    where = (
        f"At {choice.steps} steps in {order} order"
        if choice.steps is not None
        else f"In {order} order"
    )
    base = words(found.baseline.decoding, choice.steps, tokens).removesuffix("()")
    name = words(choice.decoding, choice.steps, tokens)
    other = words(choice.challenger.decoding, choice.steps, tokens)
    metric = found.objective.metric
    if choice.won:
        text = f"{where} use {name}: {metric} {gain} against {base}"
        text += {
            "one number": " (one number each, so how sure that is cannot be said)",
            "unchecked": " on the instances that chose it, which is no check",
        }.get(choice.finding, f", on {gain.evidence('' if choice.fresh else 'held-out ')}")
    elif choice.finding == "best already":
        text = f"{where} keep {name}: no candidate was ahead of it"
    elif choice.finding == "too few instances":
        more = f"{choice.needed} more held-out ones would" if choice.held_out else "more would"
        text = f"{where} keep {name}: too few instances to tell whether {other} is better, {more}"
    elif choice.finding == "too many passes":
        text = f"{where} keep {name}: the best other, {other}, spends too many passes"
    else:
        held = choice.decided.evidence("held-out ")
        text = (
            f"{where} keep {name}: no difference found; the best other, {other}, gained "
            f"{choice.decided} on {held}"
        )
    if found.book.one_prompt:
        text += " (all of one prompt, so nothing is known of others)"
    spec, steps = choice.schedule.spec, choice.decoding.steps(choice.steps)
    return f"{text}. In Python: {_line(spec, steps, sampler, saved)}"


def _line(spec: str, steps: int | None, sampler: dict[str, Any], saved: str | None) -> str:
    if len(spec) > LONGEST:
        spec = saved or "FOLDER"
    options: dict[str, Any] = {"schedule": spec, "steps": steps, **sampler}
    told = ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)
    need = "  # --output FOLDER saves it" if spec == "FOLDER" else ""
    return f"model.generate(input_ids, {told}){need}"
