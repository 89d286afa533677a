"""A result as JSON: choices, trials and the front as plain data."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdm_schedules.tuning.front import FrontPoint
from mdm_schedules.tuning.selection import Choice
from mdm_schedules.tuning.statistics import Comparison
from mdm_schedules.tuning.trials import Trial


def number(value: float | None) -> float | None:
    """JSON has no NaN and no infinity; both become null."""
    return None if value is None or not np.isfinite(value) else float(value)


def _comparison(gap: Comparison) -> dict[str, Any]:
    return {name: number(value) for name, value in vars(gap).items()}


def choice_record(choice: Choice) -> dict[str, Any]:
    """A choice and its check."""
    return {
        "steps": choice.steps,
        "schedule": choice.schedule.spec,
        "options": dict(choice.options),
        "origin": choice.origin,
        "challenger": choice.challenger.schedule.spec,
        "challenger_options": dict(choice.challenger.options),
        "finding": choice.finding,
        "level": choice.level,
        "needed": choice.needed,
        "decided": _comparison(choice.decided),
        "gain": _comparison(choice.gain),
        "fresh": choice.fresh,
        "score": number(choice.score),
        "standard_error": number(choice.standard_error),
        "baseline": number(choice.baseline),
        "baseline_standard_error": number(choice.baseline_standard_error),
        "passes": number(choice.passes),
        "baseline_passes": number(choice.baseline_passes),
        "held_out": choice.held_out,
        "extras": dict(choice.extras),
        "baseline_extras": dict(choice.baseline_extras),
    }


def point_record(point: FrontPoint) -> dict[str, Any]:
    """A point of the front."""
    names = ("score", "score_low", "score_high", "passes", "passes_low", "passes_high")
    return {
        "schedule": point.schedule.spec,
        "options": dict(point.options),
        "origin": point.origin,
        **{name: number(getattr(point, name)) for name in names},
        "gain": _comparison(point.gain),
        "held_out": point.held_out,
    }


def trial_record(trial: Trial) -> dict[str, Any]:
    """A trial."""
    rows = []
    for count, (mean, error, instances) in trial.scores.items():
        row: dict[str, Any] = {
            "steps": count,
            "mean": number(mean),
            "standard_error": number(error),
            "instances": instances,
        }
        if trial.extras[count]:
            row["extras"] = dict(trial.extras[count])
        if count in trial.predicted:
            row["predicted"] = trial.predicted[count]
        if count in trial.nfe:
            row["passes"] = trial.nfe[count][0]
        rows.append(row)
    return {
        "schedule": trial.schedule.spec,
        "options": dict(trial.options),
        "origin": trial.origin,
        "state": trial.state,
        "passes": trial.passes,
        "scores": rows,
    }
