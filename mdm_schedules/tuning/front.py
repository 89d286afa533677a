"""The Pareto front of score and mean passes, with intervals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdm_schedules.schedules import Schedule
from mdm_schedules.tuning.decoding import Decoding
from mdm_schedules.tuning.scorebook import ScoreBook
from mdm_schedules.tuning.statistics import LEVEL, Comparison, compare, standard_error
from mdm_schedules.tuning.trials import Trial


@dataclass(frozen=True)
class FrontPoint:
    """A decoding than which none has both a better score and fewer passes.

    The front is chosen on the instances that choose, and measured on held-out ones, if any.

    Attributes:
        schedule, origin, options: the decoding, and its source.
        score, score_low, score_high: mean score and its 95 % interval.
        passes, passes_low, passes_high: mean forward passes of an instance, and their interval.
        gain: over the baseline, in pairs on the same instances.
        held_out: whether these numbers are from instances that chose nothing.
    """

    schedule: Schedule
    origin: str
    options: tuple[tuple[str, Any], ...]
    score: float
    score_low: float
    score_high: float
    passes: float
    passes_low: float
    passes_high: float
    gain: Comparison
    held_out: bool

    @property
    def decoding(self) -> Decoding:
        """Schedule and options."""
        return Decoding(self.schedule, self.options)


def find_front(trials: Sequence[Trial], steps: int | None, sign: float) -> list[Trial]:
    """The complete trials that no other beats in both score and passes, by rising passes."""
    rows = [trial for trial in trials if trial.state == "complete" and steps in trial.nfe]
    # Among equal passes the best score comes first.
    rows.sort(key=lambda trial: (trial.nfe[steps][0], -sign * trial.scores[steps][0]))
    front: list[Trial] = []
    for trial in rows:
        if not front or sign * trial.scores[steps][0] > sign * front[-1].scores[steps][0]:
            front.append(trial)
    return front


def measure_front(
    front: Sequence[Trial], baseline: Decoding, book: ScoreBook, steps: int | None
) -> list[FrontPoint]:
    """The points with intervals, on held-out instances where all of them have been scored there."""
    part = "held_out"
    if part not in book.parts or not all(
        len(book.entry(part, one, steps).values) == book.size(part)
        for one in (baseline, *(trial.decoding for trial in front))
    ):
        part = "select"
    clusters = book.clusters(part)
    base = book.entry(part, baseline, steps).values
    points = []
    for trial in front:
        entry = book.entry(part, trial.decoding, steps)
        points.append(
            FrontPoint(
                trial.schedule,
                trial.origin,
                trial.options,
                *interval(entry.values, clusters),
                *interval(entry.nfe, clusters),
                compare(entry.values, base, book.objective.sign, clusters),
                part == "held_out",
            )
        )
    return points


def interval(
    values: Sequence[float], clusters: Sequence[Hashable] | None
) -> tuple[float, float, float]:
    """Mean, low and high end of the 95 % interval by Student's t; NaN ends for one cluster."""
    from scipy.special import stdtrit

    error = standard_error(values, clusters)
    groups = len(values) if clusters is None else len(set(clusters[: len(values)]))
    reach = math.nan if math.isnan(error) else error * float(stdtrit(groups - 1, (1 + LEVEL) / 2))
    mean = float(np.mean(values))
    return mean, mean - reach, mean + reach
