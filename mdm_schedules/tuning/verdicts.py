"""What a check found, in one sentence."""

from __future__ import annotations

import math

from mdm_schedules.tuning.decoding import words
from mdm_schedules.tuning.scorebook import CheckedObjective
from mdm_schedules.tuning.selection import Choice


def plus_minus(value: float, error: float) -> str:
    """The value with its standard error, if it has one."""
    return f"{value:.4g}" if math.isnan(error) else f"{value:.4g} ± {error:.2g}"


def verdict(choice: Choice, objective: CheckedObjective, one_prompt: bool) -> str:
    """Which decoding won, by how much, and on which evidence.

    Args:
        choice: the check.
        objective: names the score and the number of tokens.
        one_prompt: whether all instances share one prompt.
    """
    tokens = objective.num_tokens
    winner = words(choice.decoding, choice.steps, tokens)
    other = words(choice.challenger.decoding, choice.steps, tokens)
    at = f" at {choice.steps} steps" if choice.steps is not None else ""
    score = plus_minus(choice.score, choice.standard_error)
    base = plus_minus(choice.baseline, choice.baseline_standard_error)
    found = finding(choice, f"{other} ({choice.challenger.origin})", one_prompt)
    if not choice.won:
        return f"{winner}{at} stays: {objective.metric} {score}. {found}"
    passes = "" if choice.passes is None else f" in {choice.passes:.3g} passes"
    # Show diversity beside the score, since a likelihood alone rewards collapse.
    beside = "".join(
        f"; {name} {value:.3g}, baseline {choice.baseline_extras.get(name, math.nan):.3g}"
        for name, value in choice.extras.items()
        if name != "nfe"
    )
    return (
        f"{winner}{at} ({choice.origin}): {objective.metric} {score}{passes}, baseline {base}"
        f"{beside}. {found}"
    )


def finding(choice: Choice, other: str, one_prompt: bool) -> str:
    """What the check says of the challenger, `other` in words, and on which evidence."""
    scope = (
        ". All instances share one prompt: this says nothing about others." if one_prompt else ""
    )
    return _finding(choice, other) + scope


def _finding(choice: Choice, other: str) -> str:
    gain, decided = choice.gain, choice.decided
    level = f"{100 * choice.level:.4g} %"
    held = f"on {decided.evidence('held-out ')}"
    if choice.finding == "better":
        if choice.fresh:
            where = f"on {gain.evidence()} that decided nothing; the check passed at {level} {held}"
        else:
            where = (
                f"{held}; the check passed at {level} on the same, so that the true gain is likely "
                "smaller"
            )
        return f"Better by {gain} {where}"
    if choice.finding == "one number":
        return f"Better by {gain}; one number per schedule has no error"
    if choice.finding == "unchecked":
        return f"Ahead by {gain} on the {gain.evidence()} that chose it, which is no check"
    if choice.finding == "best already":
        return "No candidate was ahead of it"
    if choice.finding == "too many passes":
        return f"{other} spent too many passes {held}"
    if choice.finding == "too few instances":
        if not choice.held_out:
            return f"Too few instances to check any candidate: give {choice.needed} or more"
        return (
            f"Too few instances: {choice.needed} more held-out ones would tell. {other} gained "
            f"{decided} {held}"
        )
    return f"No difference found at {level}: {other} gained {decided} {held}"
