"""From many candidates to one: more instances for fewer candidates, then a check on instances that
chose nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mdm_schedules.schedules import Schedule
from mdm_schedules.tuning.scorebook import ScoreBook
from mdm_schedules.tuning.search import RACE_RISK, mean_scores
from mdm_schedules.tuning.statistics import Comparison, compare, standard_error

KEPT = 3  # one candidate of so many goes on to twice the instances
LEAST = 10  # instances that a confidence is told from
FINALISTS = 4  # are kept at least, unless they are certainly worse than the best


# shows how far the work on candidates is, in a phase with a name
Bar = Callable[[Sequence["Candidate"], str], Iterable["Candidate"]]


@dataclass(frozen=True)
class Candidate:
    """A schedule that may win, and where it comes from: "baseline", "trial 12", "preset
    llada-8b/mbpp", ...
    """

    schedule: Schedule
    origin: str


@dataclass(frozen=True)
class Choice:
    """What won at one number of steps.

    Attributes:
        steps: None for the mean over all numbers of steps, or for an objective that is given none.
        schedule, origin: the winner; the baseline if nothing is ahead of it by the check.
        challenger: the best on the instances that chose, whether or not the check confirmed it.
        gain: of the challenger over the baseline, in the check.
        score, standard_error, baseline, baseline_standard_error: means of the winner and of the
            baseline in the check.
        held_out: whether the check was made on instances that chose nothing.
        won: whether the challenger did.
        extras, baseline_extras: what else the objective measured of the winner and of the baseline,
            such as diversity.
    """

    steps: int | None
    schedule: Schedule
    origin: str
    challenger: Candidate
    gain: Comparison
    score: float
    standard_error: float
    baseline: float
    baseline_standard_error: float
    held_out: bool
    won: bool
    extras: Mapping[str, float]
    baseline_extras: Mapping[str, float]


def shortlist(
    candidates: Sequence[Candidate],
    book: ScoreBook,
    steps: Sequence[int | None],
    first: int,
    on_round: Callable[[int, int], None] = lambda left, size: None,
    bar: Bar = lambda candidates, phase: candidates,
) -> list[Candidate]:
    """Successive halving over instances (arXiv 2509.13866, App. E.1: a small sample first, the
    short list on more).

    All candidates are scored on the first `first` instances of the part "select", a third of them
    on twice as many, and so on; one that is certainly worse than the best is left at once.
    Schedules that are equal by the objective's own word go on as one.

    Returns:
        The finalists, the best first.
    """
    sign, size, whole = book.objective.sign, first, book.size("select")
    left = list(_distinct(candidates, book, steps))
    while True:
        for candidate in bar(left, f"{_at(steps)}comparing on {size or 1} instances"):
            for count in steps:
                book.extend("select", candidate.schedule, count, size, candidate.origin)
        means = {
            candidate: mean_scores(book, "select", candidate.schedule, steps) for candidate in left
        }
        left.sort(key=lambda candidate: -sign * float(np.mean(means[candidate])))
        best = means[left[0]]
        left = [
            one
            for one in left
            if one is left[0] or compare(means[one], best, sign).confidence >= RACE_RISK
        ]
        on_round(len(left), size)
        if size >= whole or len(left) == 1:
            return left
        left = left[: max(FINALISTS, -(-len(left) // KEPT))]
        size = min(2 * size, whole)


def check(
    challenger: Candidate,
    baseline: Candidate,
    book: ScoreBook,
    steps: Sequence[int | None],
    confidence: float,
    bar: Bar = lambda candidates, phase: candidates,
) -> Choice:
    """Whether the challenger is ahead of the baseline with at least this confidence, on held-out
    instances if any.
    """
    part = "held_out" if "held_out" in book.parts else "select"
    scores = []
    phase = f"{_at(steps)}checking on {book.size(part)} instances"
    for candidate in bar((challenger, baseline), phase):
        for count in steps:
            book.extend(part, candidate.schedule, count, book.size(part), candidate.origin)
        scores.append(mean_scores(book, part, candidate.schedule, steps))
    gain = compare(scores[0], scores[1], book.objective.sign)
    # beta(0.5, 0.5) is linear but for it
    rounding = 1e-12 * max(1.0, abs(float(np.mean(scores[0]))))
    told = confidence <= 0.5 or (gain.instances >= LEAST and gain.confidence >= confidence)
    wins = gain.difference > rounding and told
    winner, own = (challenger, scores[0]) if wins else (baseline, scores[1])
    extras = [
        {
            name: float(
                np.mean([book.entry(part, one.schedule, count).extras[name] for count in steps])
            )
            for name in book.entry(part, one.schedule, steps[0]).extras
        }
        for one in (winner, baseline)
    ]
    return Choice(
        steps=steps[0] if len(steps) == 1 else None,
        schedule=winner.schedule,
        origin=winner.origin,
        challenger=challenger,
        gain=gain,
        score=float(np.mean(own)),
        standard_error=standard_error(own),
        baseline=float(np.mean(scores[1])),
        baseline_standard_error=standard_error(scores[1]),
        held_out=part == "held_out",
        won=wins,
        extras=extras[0],
        baseline_extras=extras[1],
    )


def _at(steps: Sequence[int | None]) -> str:
    return "" if None in steps else f"steps {' '.join(map(str, steps))}: "


def _distinct(
    candidates: Sequence[Candidate], book: ScoreBook, steps: Sequence[int | None]
) -> list[Candidate]:
    found: dict[tuple[str, ...], Candidate] = {}
    for candidate in candidates:
        found.setdefault(
            tuple(book.objective.key(candidate.schedule, count) for count in steps), candidate
        )
    return list(found.values())
