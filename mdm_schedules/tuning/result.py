"""What a tuning found: the winner at each number of steps, every trial, pictures, a report, and
the way to the Hub.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdm_schedules.errors import InvalidValueError, shown
from mdm_schedules.hub import Evaluation, write_atomically
from mdm_schedules.hub.files import dump_json
from mdm_schedules.schedules import Schedule
from mdm_schedules.tuning.choose import Choice
from mdm_schedules.tuning.compare import compare, standard_error
from mdm_schedules.tuning.proposals import predicted_cost
from mdm_schedules.tuning.scores import Asked, ScoreBook
from mdm_schedules.tuning.search import mean_scores

if TYPE_CHECKING:
    from mdm_schedules.information import InformationProfile


@dataclass(frozen=True)
class Trial:
    """One schedule that was scored, on the instances that choose.

    Attributes:
        schedule, origin: what it is, and where it came from.
        state: "complete", or "pruned" where it was left before its first round ended.
        scores: steps -> (mean, standard error, instances).
        extras: steps -> what else the objective measured, such as diversity.
        predicted: steps -> nats by the information profile, where one was used.
        passes: sequences passed forward for it.
    """

    schedule: Schedule
    origin: str
    state: str
    scores: Mapping[int | None, tuple[float, float, int]]
    extras: Mapping[int | None, Mapping[str, float]]
    predicted: Mapping[int | None, float]
    passes: int


def list_trials(
    book: ScoreBook,
    steps: Sequence[int | None],
    whole: int,
    profile: InformationProfile | None = None,
) -> list[Trial]:
    """Every schedule that was scored; those with fewer than `whole` instances were left early."""
    rows = []
    for schedule, origin in book.origins.items():
        entries = {count: book.entry("select", schedule, count) for count in steps}
        entries = {count: entry for count, entry in entries.items() if entry.values}
        if not entries:
            continue
        costs = (
            {count: predicted_cost(profile, schedule, count) for count in entries}
            if profile
            else {}
        )
        rows.append(
            Trial(
                schedule=schedule,
                origin=origin,
                state="complete"
                if min(len(entry.values) for entry in entries.values()) >= whole
                else "pruned",
                scores={
                    count: (
                        float(np.mean(entry.values)),
                        standard_error(entry.values),
                        len(entry.values),
                    )
                    for count, entry in entries.items()
                },
                extras={count: entry.extras for count, entry in entries.items()},
                predicted={count: cost for count, cost in costs.items() if cost is not None},
                passes=sum(entry.passes for entry in entries.values()),
            )
        )
    return rows


@dataclass(frozen=True)
class TuningResult:
    """What `tune` returns.

    Attributes:
        choices: number of steps -> what won; under None the winner by the mean over several numbers
            of steps, or for an objective that is given none.
        trials: every candidate.
        profile: the information profile, if one was used.
    """

    choices: Mapping[int | None, Choice]
    trials: Sequence[Trial]
    objective: Asked = field(repr=False)
    method: str
    book: ScoreBook = field(repr=False)
    profile: InformationProfile | None
    bounds: tuple[float, float]

    @property
    def passes(self) -> int:
        """Sequences that this call passed forward, as far as the objective counts them, the
        profile's among them.
        """
        measured = (
            self.profile.measurement.passes if self.profile and self.profile.measurement else 0
        )
        return self.book.passes + measured

    @property
    def choice(self) -> Choice:
        """The winner over all numbers of steps, and the check that it passed."""
        return self.choices[None] if None in self.choices else next(iter(self.choices.values()))

    @property
    def best_schedule(self) -> Schedule:
        """The winner; the baseline where nothing was ahead of it in the check."""
        return self.choice.schedule

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the gain of the best candidate over the baseline, in the check."""
        return self.choice.gain.low, self.choice.gain.high

    def best(self, steps: int | None = None) -> Schedule:
        """The winner at one of the numbers of steps that were tuned; None is `best_schedule`."""
        return self.choice_at(steps).schedule

    def choice_at(self, steps: int | None = None) -> Choice:
        """The winner at one of the numbers of steps that were tuned, and the check that it
        passed.
        """
        if steps is None:
            return self.choice
        if steps not in self.choices:
            known = ", ".join(str(count) for count in self.choices if count is not None) or "none"
            raise InvalidValueError(f"{shown(steps)} steps were not tuned; known: {known}")
        return self.choices[steps]

    def region(self, steps: int | None = None) -> list[Trial]:
        """The trials that are not worse than the best candidate with 95 % confidence, the best
        first.
        """
        group = self._group(steps)
        sign = self.objective.sign
        scores = {
            trial.schedule: mean_scores(self.book, "select", trial.schedule, group)
            for trial in self.trials
        }
        best = scores[self.choice_at(steps).challenger.schedule]
        rows = [
            (trial, compare(scores[trial.schedule], best, sign))
            for trial in self.trials
            if scores[trial.schedule] and trial.state == "complete"
        ]
        near = [(trial, gap) for trial, gap in rows if gap.confidence >= 0.05]
        return [trial for trial, gap in sorted(near, key=lambda row: -row[1].difference)]

    def _group(self, steps: int | None) -> list[int | None]:
        if steps is not None or len(self.choices) == 1:
            return [steps if steps is not None else self.choice.steps]
        return [count for count in self.choices if count is not None]

    def verdict(self, steps: int | None = None) -> str:
        """In a sentence, what won by how much, and how sure that is."""
        choice = self.choice_at(steps)
        metric = self.objective.metric
        where = " on held-out instances" if choice.held_out else " on the instances that chose"
        where = where if choice.gain.instances > 1 else ""
        at = f" at {choice.steps} steps" if choice.steps is not None else ""
        score = _plus_minus(choice.score, choice.standard_error)
        base = _plus_minus(choice.baseline, choice.baseline_standard_error)
        if choice.won:
            beside = "".join(
                f"; {name} {value:.3g}, baseline {choice.baseline_extras.get(name, math.nan):.3g}"
                for name, value in choice.extras.items()
                if name != "nfe"
            )
            return (
                f"{_short(choice.schedule)}{at} ({choice.origin}): {metric} {score}, baseline "
                f"{base}; "
                f"gain {choice.gain}{where}{beside}"
            )
        if choice.challenger.schedule == choice.schedule:
            return f"{_short(choice.schedule)}{at}: {metric} {score}; no candidate was ahead of it"
        return (
            f"{_short(choice.schedule)}{at} stays: {metric} {score}; the best candidate, "
            f"{_short(choice.challenger.schedule)} ({choice.challenger.origin}), gained "
            f"{choice.gain}{where}"
        )

    def table(self, steps: int | None = None, rows: int | None = None) -> str:
        """The trials as Markdown, the best first, with all that was measured beside the score."""
        count = self._group(steps)[0]
        known = [trial for trial in self.trials if count in trial.scores]
        known.sort(
            key=lambda trial: (
                trial.state != "complete",
                -self.objective.sign * trial.scores[count][0],
            )
        )
        extras = list(dict.fromkeys(name for trial in known for name in trial.extras[count]))
        head = ["schedule", "origin", self.objective.metric, "instances", *extras]
        head += ["predicted nats"] if self.profile else []
        lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for trial in known[:rows]:
            mean, error, number = trial.scores[count]
            origin = trial.origin + (" (left early)" if trial.state == "pruned" else "")
            cells = [f"`{_short(trial.schedule)}`", origin, _plus_minus(mean, error), str(number)]
            cells += [
                f"{trial.extras[count][name]:.4g}" if name in trial.extras[count] else ""
                for name in extras
            ]
            cells += (
                [f"{trial.predicted[count]:.4g}" if count in trial.predicted else ""]
                if self.profile
                else []
            )
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        return {
            "objective": self.objective.settings,
            "metric": self.objective.metric,
            "direction": self.objective.direction,
            "method": self.method,
            "passes": self.passes,
            "best_schedule": self.best_schedule.spec,
            "choices": [
                {
                    "steps": choice.steps,
                    "schedule": choice.schedule.spec,
                    "origin": choice.origin,
                    "challenger": choice.challenger.schedule.spec,
                    "score": _number(choice.score),
                    "standard_error": _number(choice.standard_error),
                    "baseline": _number(choice.baseline),
                    "baseline_standard_error": _number(choice.baseline_standard_error),
                    "gain": {name: _number(value) for name, value in vars(choice.gain).items()},
                    "held_out": choice.held_out,
                    "extras": dict(choice.extras),
                    "baseline_extras": dict(choice.baseline_extras),
                    "verdict": self.verdict(choice.steps),
                }
                for choice in self.choices.values()
            ],
            "trials": [
                {
                    "schedule": trial.schedule.spec,
                    "origin": trial.origin,
                    "state": trial.state,
                    "passes": trial.passes,
                    "scores": [
                        {
                            "steps": count,
                            "mean": _number(mean),
                            "standard_error": _number(error),
                            "instances": number,
                            **(
                                {"extras": dict(trial.extras[count])} if trial.extras[count] else {}
                            ),
                            **(
                                {"predicted": trial.predicted[count]}
                                if count in trial.predicted
                                else {}
                            ),
                        }
                        for count, (mean, error, number) in trial.scores.items()
                    ],
                }
                for trial in self.trials
            ],
        }

    def plot(self, path: str | os.PathLike[str] | None = None, steps: int | None = None) -> Any:
        """A matplotlib Figure: the score over (a, b), with the winner and the region that is as
        good, and the scores by number of steps where several were tuned. Written to `path` if
        given. Needs the extra `tune` or `plot`."""
        from mdm_schedules.tuning.pictures import draw_result

        figure = draw_result(self, steps)
        if path is not None:
            figure.savefig(path, dpi=130)
        return figure

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one self-contained HTML file with verdicts, pictures and all trials."""
        from mdm_schedules.tuning.report import write_report

        return write_report(self, Path(path))

    def evaluation(
        self, steps: int | None = None, *, model: str | None = None, task: str | None = None
    ) -> Evaluation:
        """The winner's record for the Hub, by the check; `model` and `task` where the objective
        does not name them.
        """
        choice = self.choice_at(steps)
        source = self.objective.objective
        name = model or getattr(source, "model_name", None)
        if not name:
            raise InvalidValueError("which model was tuned is not known; give model='user/model'")
        count = choice.steps or getattr(source, "steps", None)
        if count is None:
            raise InvalidValueError("an evaluation is for one number of steps; give steps=...")
        return Evaluation(
            model=name,
            task=task or self.objective.name,
            steps=count,
            metric=self.objective.metric,
            value=choice.score,
            standard_error=_number(choice.standard_error),
            baseline=_number(choice.baseline),
            baseline_standard_error=_number(choice.baseline_standard_error),
            sampler=getattr(source, "sampler", {}),
            extra={"measured": dict(choice.extras)} if choice.extras else {},
        )

    def save_pretrained(
        self,
        path: str | os.PathLike[str],
        steps: int | None = None,
        *,
        model: str | None = None,
        task: str | None = None,
    ) -> None:
        """Write the winner into the folder `path` as `Schedule.save_pretrained` does, and
        tuning.json beside it.
        """
        source = self.objective.objective
        named = model or getattr(source, "model_name", None)
        record = self.evaluation(steps, model=model, task=task) if named else None
        self.best(steps).save_pretrained(path, evaluation=record)
        text = dump_json(self.to_json(), "the result")
        write_atomically(
            Path(path, "tuning.json"), lambda name: Path(name).write_text(text, encoding="utf-8")
        )

    def push_to_hub(
        self,
        repo_id: str,
        steps: int | None = None,
        *,
        model: str | None = None,
        task: str | None = None,
        **options: Any,
    ) -> Any:
        """Publish the winner with its evaluation filled in; `options` as in
        `Schedule.push_to_hub`.
        """
        record = self.evaluation(steps, model=model, task=task)
        return self.best(steps).push_to_hub(repo_id, evaluation=record, **options)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _plus_minus(value: float, error: float) -> str:
    return f"{value:.4g}" if np.isnan(error) else f"{value:.4g} ± {error:.2g}"


def _short(schedule: Schedule) -> str:
    return (
        schedule.spec
        if len(schedule.spec) <= 60
        else f"{schedule.name}({len(schedule.spec)} characters)"
    )
