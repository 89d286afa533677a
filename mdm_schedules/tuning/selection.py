"""Successive halving from many candidates to one, then a check on instances that chose nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdm_schedules.schedules import Schedule
from mdm_schedules.tuning.decoding import Decoding
from mdm_schedules.tuning.scorebook import ScoreBook
from mdm_schedules.tuning.search import RACE_RISK, mean_passes, mean_scores
from mdm_schedules.tuning.statistics import Comparison, compare, more_clusters, standard_error

KEPT = 3  # one in KEPT candidates advances to twice the instances
LEAST = 10  # clusters of instances that a check needs
FINALISTS = 4  # minimum number of survivors, unless some are certainly worse than the best
SLACK = 1.02  # passes on held-out instances may exceed the bound by this factor: they vary


# shows how far the work on candidates is, in a phase with a name
Bar = Callable[[Sequence["Candidate"], str], Iterable["Candidate"]]


@dataclass(frozen=True)
class Candidate:
    """A schedule that may win, its origin, such as "baseline" or "trial 12", and its options."""

    schedule: Schedule
    origin: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def decoding(self) -> Decoding:
        """Schedule and options."""
        return Decoding(self.schedule, self.options)


@dataclass(frozen=True)
class Choice:
    """The winner at one number of steps, and its check.

    Attributes:
        steps: None for the mean over all numbers of steps, or for an objective without steps.
        schedule, origin, options: the winner; the baseline if the challenger failed the check.
        challenger: the best candidate on the instances that chose, confirmed by the check or not.
        finding: "better"; "no difference"; "too few instances"; "unchecked" without held-out
            instances, where the best on the instances that chose wins; "one number" for an
            objective without instances, which is taken at its word; "too many passes"; or "best
            already" where no candidate was ahead of the baseline.
        decided: gain of the challenger over the baseline on the instances that decided.
        gain: the same on instances that decided nothing, or `decided` where there are too few.
        fresh: whether `gain` is from instances that decided nothing.
        needed: for "too few instances", how many more would tell with a power of 80 %.
        score, standard_error, baseline, baseline_standard_error: means of the winner and of the
            baseline on the instances of `gain`.
        passes, baseline_passes: mean forward passes there; None if the objective does not tell.
        level: confidence level of the check, which several checks share.
        held_out: whether the check used instances that chose nothing.
        extras, baseline_extras: further measurements of the winner and of the baseline, such as
            diversity.
    """

    steps: int | None
    schedule: Schedule
    origin: str
    options: tuple[tuple[str, Any], ...]
    challenger: Candidate
    finding: str
    decided: Comparison
    gain: Comparison
    fresh: bool
    needed: int | None
    score: float
    standard_error: float
    baseline: float
    baseline_standard_error: float
    passes: float | None
    baseline_passes: float | None
    level: float
    held_out: bool
    extras: Mapping[str, float]
    baseline_extras: Mapping[str, float]

    @property
    def won(self) -> bool:
        """Whether the challenger replaced the baseline."""
        return self.finding in ("better", "unchecked", "one number")

    @property
    def decoding(self) -> Decoding:
        """The winner with its options."""
        return Decoding(self.schedule, self.options)


def shortlist(
    candidates: Sequence[Candidate],
    book: ScoreBook,
    steps: Sequence[int | None],
    first: int,
    on_round: Callable[[int, int], None] = lambda left, size: None,
    bar: Bar = lambda candidates, phase: candidates,
    limit: float | None = None,
) -> list[Candidate]:
    """Shorten the list by successive halving over instances (arXiv 2509.13866, Appendix E.1).

    All candidates are scored on the first `first` instances of the part "select", the best third
    on twice as many, and so on. At least FINALISTS candidates remain unless they are certainly
    worse than the best; such candidates leave at once. Schedules that the objective declares
    equal count as one. With a `limit`, those that spend more passes in the mean leave too.

    Returns:
        The finalists, best first.
    """
    sign, size, whole = book.objective.sign, first, book.size("select")
    left = list(_distinct(candidates, book, steps))
    while True:
        for candidate in bar(left, f"{_at(steps)}comparing on {size or 1} instances"):
            for count in steps:
                book.extend("select", candidate.decoding, count, size, candidate.origin)
        if limit is not None:
            spent = {one: mean_passes(book, "select", one.decoding, steps) for one in left}
            # The first is the baseline, which stays where nothing else is cheap enough.
            left = [one for one in left if (spent[one] or 0.0) <= limit] or left[:1]
        means = {
            candidate: mean_scores(book, "select", candidate.decoding, steps) for candidate in left
        }
        left.sort(key=lambda candidate: -sign * float(np.mean(means[candidate])))
        # Scores are paired by instance and seed, so a few instances suffice to see who is hopeless.
        best = means[left[0]]
        left = [
            one
            for one in left
            if one is left[0] or compare(means[one], best, sign).p_value <= 1 - RACE_RISK
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
    level: float,
    bar: Bar = lambda candidates, phase: candidates,
    limit: float | None = None,
) -> Choice:
    """Decide between challenger and baseline, and measure the gain.

    With held-out instances the challenger wins if it is ahead at the confidence level, by a
    one-sided paired t-test over clusters, LEAST of them at least. What is reported is measured on
    instances that did not decide, if there are any: the lead of a winner that had to be large to
    win is too large.

    Args:
        challenger, baseline: whom to compare.
        book: of scores, with the parts "select" and, if there are any, "held_out" and "report".
        steps: numbers of steps, over which scores are averaged.
        level: confidence level.
        bar: shows the progress.
        limit: mean passes that the challenger may spend.
    """

    def measure(part: str) -> tuple[list[float], list[float]]:
        phase = f"{_at(steps)}checking on {book.size(part)} instances"
        for candidate in bar((challenger, baseline), phase):
            for count in steps:
                book.extend(part, candidate.decoding, count, book.size(part), candidate.origin)
        first, second = (
            mean_scores(book, part, one.decoding, steps) for one in (challenger, baseline)
        )
        return first, second

    # The best of many candidates owes part of its score to luck on the instances that chose it.
    part = "held_out" if "held_out" in book.parts else "select"
    sign = book.objective.sign
    scores = measure(part)
    decided = compare(*scores, sign, book.clusters(part))
    spent = mean_passes(book, part, challenger.decoding, steps)
    affordable = limit is None or (spent is not None and spent <= limit * SLACK)
    same = challenger.decoding == baseline.decoding
    finding, needed = _find(decided, scores[0], part, book, level, same)
    if not affordable:
        finding, needed = "too many passes", None
    fresh = "report" in book.parts
    if fresh:
        part, scores = "report", measure("report")
    clusters = book.clusters(part)
    gain = compare(*scores, sign, clusters) if fresh else decided
    # Without proof of a gain the baseline stays.
    won = finding in ("better", "unchecked", "one number")
    winner, own = (challenger, scores[0]) if won else (baseline, scores[1])
    return Choice(
        steps=steps[0] if len(steps) == 1 else None,
        schedule=winner.schedule,
        origin=winner.origin,
        options=winner.options,
        challenger=challenger,
        finding=finding,
        decided=decided,
        gain=gain,
        fresh=fresh,
        needed=needed,
        score=float(np.mean(own)),
        standard_error=standard_error(own, clusters),
        baseline=float(np.mean(scores[1])),
        baseline_standard_error=standard_error(scores[1], clusters),
        passes=mean_passes(book, part, winner.decoding, steps),
        baseline_passes=mean_passes(book, part, baseline.decoding, steps),
        level=level,
        held_out="held_out" in book.parts,
        extras=_extras(book, part, winner, steps),
        baseline_extras=_extras(book, part, baseline, steps),
    )


def _find(
    gap: Comparison,
    scores: Sequence[float],
    part: str,
    book: ScoreBook,
    level: float,
    same: bool,
) -> tuple[str, int | None]:
    """What the instances that decide say, and how many more would tell if they are too few."""
    if same:
        return "best already", None
    # Equal schedules, such as beta(0.5, 0.5) and linear, may differ by rounding: that is no gain.
    if gap.difference <= 1e-12 * max(1.0, abs(float(np.mean(scores)))):
        return "no difference", None
    if book.parts["select"] is None:
        return "one number", None
    if part == "select":
        # Too few instances to hold any out, or the caller asked for none.
        return ("unchecked", None) if book.unchecked else ("too few instances", 2 * LEAST)
    # One prompt alone is tested over its seeds, and the verdict says that it is about that prompt.
    per_cluster = gap.instances / gap.clusters
    if gap.clusters < LEAST:
        return "too few instances", math.ceil((LEAST - gap.clusters) * per_cluster)
    if gap.p_value < 1 - level or (not gap.tested and gap.p_value == 0):
        return "better", None
    more = more_clusters(gap, level)
    if more is None:
        return "no difference", None
    return "too few instances", math.ceil(more * per_cluster)


def _extras(
    book: ScoreBook, part: str, one: Candidate, steps: Sequence[int | None]
) -> dict[str, float]:
    rows = [book.entry(part, one.decoding, count).extras for count in steps]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _at(steps: Sequence[int | None]) -> str:
    return "" if None in steps else f"steps {' '.join(map(str, steps))}: "


def _distinct(
    candidates: Sequence[Candidate], book: ScoreBook, steps: Sequence[int | None]
) -> list[Candidate]:
    found: dict[tuple[str, ...], Candidate] = {}
    for candidate in candidates:
        # The first candidate with a plan keeps its origin: the baselines stand in front.
        found.setdefault(
            tuple(book.objective.key(candidate.decoding, count) for count in steps), candidate
        )
    return list(found.values())
