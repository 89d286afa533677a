"""Successive halving from many candidates to one, then a check on instances that chose nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mdm_schedules.schedules import Schedule
from mdm_schedules.tuning.scorebook import ScoreBook
from mdm_schedules.tuning.search import RACE_RISK, mean_scores
from mdm_schedules.tuning.statistics import Comparison, compare, standard_error

KEPT = 3  # one in KEPT candidates advances to twice the instances
LEAST = 10  # instances that a confidence above 0.5 needs
FINALISTS = 4  # minimum number of survivors, unless some are certainly worse than the best


# shows how far the work on candidates is, in a phase with a name
Bar = Callable[[Sequence["Candidate"], str], Iterable["Candidate"]]


@dataclass(frozen=True)
class Candidate:
    """A schedule that may win, and its origin, such as "baseline" or "trial 12"."""

    schedule: Schedule
    origin: str


@dataclass(frozen=True)
class Choice:
    """The winner at one number of steps, and its check.

    Attributes:
        steps: None for the mean over all numbers of steps, or for an objective without steps.
        schedule, origin: the winner; the baseline if the challenger failed the check.
        challenger: the best candidate on the instances that chose, confirmed by the check or not.
        gain: gain of the challenger over the baseline, in the check.
        score, standard_error, baseline, baseline_standard_error: means of the winner and of the
            baseline in the check.
        held_out: whether the check used instances that chose nothing.
        won: whether the challenger passed the check.
        extras, baseline_extras: further measurements of the winner and of the baseline, such as
            diversity.
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
    """Shorten the list by successive halving over instances (arXiv 2509.13866, Appendix E.1).

    All candidates are scored on the first `first` instances of the part "select", the best third
    on twice as many, and so on. At least FINALISTS candidates remain unless they are certainly
    worse than the best; such candidates leave at once. Schedules that the objective declares
    equal count as one.

    Returns:
        The finalists, best first.
    """
    sign, size, whole = book.objective.sign, first, book.size("select")
    left = list(_distinct(candidates, book, steps))
    while True:
        # Each round: score all, drop those certainly worse, keep a third, double the instances.
        for candidate in bar(left, f"{_at(steps)}comparing on {size or 1} instances"):
            for count in steps:
                book.extend("select", candidate.schedule, count, size, candidate.origin)
        means = {
            candidate: mean_scores(book, "select", candidate.schedule, steps) for candidate in left
        }
        left.sort(key=lambda candidate: -sign * float(np.mean(means[candidate])))
        # Scores are paired by instance and seed, so a few instances suffice to see who is hopeless.
        best = means[left[0]]
        left = [
            one
            for one in left
            if one is left[0] or compare(means[one], best, sign).confidence >= RACE_RISK
        ]
        on_round(len(left), size)
        # A single survivor needs no further instances: the check follows on its own ones.
        if size >= whole or len(left) == 1:
            return left
        # Rounded up.
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
    """Compare challenger and baseline, on held-out instances if there are any.

    The challenger wins if its gain is positive with at least this confidence. Confidences above
    0.5 need LEAST instances.
    """
    # The best of many candidates owes part of its score to luck on the instances that chose it.
    part = "held_out" if "held_out" in book.parts else "select"
    scores = []
    phase = f"{_at(steps)}checking on {book.size(part)} instances"
    for candidate in bar((challenger, baseline), phase):
        for count in steps:
            book.extend(part, candidate.schedule, count, book.size(part), candidate.origin)
        scores.append(mean_scores(book, part, candidate.schedule, steps))
    gain = compare(scores[0], scores[1], book.objective.sign)
    # Equal schedules, such as beta(0.5, 0.5) and linear, may differ by rounding: that is no gain.
    rounding = 1e-12 * max(1.0, abs(float(np.mean(scores[0]))))
    told = confidence <= 0.5 or (gain.instances >= LEAST and gain.confidence >= confidence)
    wins = gain.difference > rounding and told
    # Without proof of a gain the baseline stays.
    winner, own = (challenger, scores[0]) if wins else (baseline, scores[1])
    # For winner and baseline, each extra measurement as its mean over the numbers of steps.
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
        # The first candidate with a plan keeps its origin: the baselines stand in front.
        found.setdefault(
            tuple(book.objective.key(candidate.schedule, count) for count in steps), candidate
        )
    return list(found.values())
