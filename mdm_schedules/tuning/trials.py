"""The list of every schedule scored in a tuning run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mdm_schedules.schedules import Schedule
from mdm_schedules.tuning.decoding import Decoding
from mdm_schedules.tuning.proposals import predicted_cost
from mdm_schedules.tuning.scorebook import ScoreBook
from mdm_schedules.tuning.statistics import standard_error

if TYPE_CHECKING:
    from mdm_schedules.information import InformationProfile


@dataclass(frozen=True)
class Trial:
    """One scored schedule, on the instances that choose.

    Attributes:
        schedule, origin, options: the schedule, its source, and options beside it.
        state: "complete", or "pruned" if the schedule left before its first round ended.
        scores: steps -> (mean, standard error, instances).
        extras: steps -> further measurements, such as diversity.
        predicted: steps -> nats predicted by the information profile, if one was used.
        passes: sequences passed forward for this schedule.
        nfe: steps -> (mean forward passes of an instance, standard error); empty where the
            objective does not tell.
    """

    schedule: Schedule
    origin: str
    state: str
    scores: Mapping[int | None, tuple[float, float, int]]
    extras: Mapping[int | None, Mapping[str, float]]
    predicted: Mapping[int | None, float]
    passes: int
    options: tuple[tuple[str, Any], ...] = ()
    nfe: Mapping[int | None, tuple[float, float]] = field(default_factory=dict)

    @property
    def decoding(self) -> Decoding:
        """Schedule and options."""
        return Decoding(self.schedule, self.options)


def list_trials(
    book: ScoreBook,
    steps: Sequence[int | None],
    whole: int,
    profile: InformationProfile | None = None,
) -> list[Trial]:
    """Every scored schedule; those with fewer than `whole` instances are marked "pruned"."""
    rows, clusters = [], book.clusters("select")
    # In the order in which the schedules were first scored.
    for decoding, origin in book.origins.items():
        entries = {count: book.entry("select", decoding, count) for count in steps}
        # A schedule may leave the race before it is scored at every number of steps.
        entries = {count: entry for count, entry in entries.items() if entry.values}
        if not entries:
            continue
        costs = (
            {count: predicted_cost(profile, decoding.schedule, count) for count in entries}
            if profile and not decoding.options
            else {}
        )
        rows.append(
            Trial(
                schedule=decoding.schedule,
                origin=origin,
                state="complete"
                # Without instances `whole` is 1: a single score is complete.
                if min(len(entry.values) for entry in entries.values()) >= whole
                else "pruned",
                scores={
                    count: (
                        float(np.mean(entry.values)),
                        standard_error(entry.values, clusters),
                        len(entry.values),
                    )
                    for count, entry in entries.items()
                },
                extras={count: entry.extras for count, entry in entries.items()},
                # No prediction exists where the number of steps is unknown.
                predicted={count: cost for count, cost in costs.items() if cost is not None},
                passes=sum(entry.passes for entry in entries.values()),
                options=decoding.options,
                nfe={
                    count: (float(np.mean(entry.nfe)), standard_error(entry.nfe, clusters))
                    for count, entry in entries.items()
                    if entry.nfe
                },
            )
        )
    return rows
