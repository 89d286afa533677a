"""The result of a tuning run: winners, trials, pictures, a report, and the way to the Hub."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdm_schedules.checks import shown
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.files import dump_json, local_path, write_atomically
from mdm_schedules.hub import Evaluation
from mdm_schedules.plotting import save_picture
from mdm_schedules.schedules import Schedule
from mdm_schedules.tuning.decoding import words
from mdm_schedules.tuning.front import FrontPoint, find_front, measure_front
from mdm_schedules.tuning.notebook import NotebookView
from mdm_schedules.tuning.plots import CURVES, Front, Map, MapPoint, ScoreCurve, draw_result
from mdm_schedules.tuning.proposals import as_beta
from mdm_schedules.tuning.records import choice_record, number, point_record, trial_record
from mdm_schedules.tuning.report import Section, write_report
from mdm_schedules.tuning.scorebook import CheckedObjective, ScoreBook
from mdm_schedules.tuning.search import mean_scores
from mdm_schedules.tuning.selection import Candidate, Choice
from mdm_schedules.tuning.statistics import LEVEL, compare
from mdm_schedules.tuning.trials import Trial
from mdm_schedules.tuning.verdicts import plus_minus, verdict

if TYPE_CHECKING:
    from mdm_schedules.information import InformationProfile


@dataclass(frozen=True)
class TuningResult(NotebookView):
    """The return value of `tune`.

    Attributes:
        choices: number of steps -> winner and its check. The key None holds the winner by the mean
            over several numbers of steps, or that of an objective without steps.
        trials: every candidate.
        profile: the information profile, if one was used.
        baseline: what the candidates had to beat.
        space: what was searched.
    """

    choices: Mapping[int | None, Choice]
    trials: Sequence[Trial]
    objective: CheckedObjective = field(repr=False)
    method: str
    book: ScoreBook = field(repr=False)
    profile: InformationProfile | None
    bounds: tuple[float, float]
    baseline: Candidate
    space: str = "schedule"

    @property
    def passes(self) -> int:
        """Sequences passed forward by this call, including those of the profile.

        Only sequences that the objective counts are included.
        """
        # The profile is estimated outside the book of scores.
        measured = (
            self.profile.measurement.passes if self.profile and self.profile.measurement else 0
        )
        return self.book.passes + measured

    @property
    def choice(self) -> Choice:
        """The winner over all numbers of steps, and its check."""
        return self.choices[None] if None in self.choices else next(iter(self.choices.values()))

    @property
    def best_schedule(self) -> Schedule:
        """The winner; the baseline if no candidate was shown to be better."""
        return self.choice.schedule

    @property
    def best_options(self) -> dict[str, Any]:
        """The winner's options of `generate` beside the schedule: steps, commit, remask_fraction.

        `generate(..., schedule=found.best_schedule, **found.best_options)` decodes as it did.
        """
        given = {} if self.choice.steps is None else {"steps": self.choice.steps}
        return {**given, **dict(self.choice.options)}

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the best candidate's gain over the baseline, as reported."""
        return self.choice.gain.low, self.choice.gain.high

    def front(self) -> list[FrontPoint]:
        """The decodings that no other beats in both score and mean passes, by rising passes.

        Empty where the objective does not report the passes of each instance.
        """
        steps = next(iter(self.choices.values())).steps
        front = find_front(self.trials, steps, self.objective.sign)
        return measure_front(front, self.baseline.decoding, self.book, steps)

    def best(self, steps: int | None = None) -> Schedule:
        """The winner at one of the tuned numbers of steps; None returns `best_schedule`."""
        return self.choice_at(steps).schedule

    def choice_at(self, steps: int | None = None) -> Choice:
        """The winner at one of the tuned numbers of steps, and its check.

        Raises:
            InvalidValueError: `steps` was not tuned.
        """
        if steps is None:
            return self.choice
        if steps not in self.choices:
            known = ", ".join(str(count) for count in self.choices if count is not None) or "none"
            raise InvalidValueError(f"{shown(steps)} steps were not tuned; known: {known}")
        return self.choices[steps]

    def region(self, steps: int | None = None) -> list[Trial]:
        """The complete trials that are not worse than the best candidate at 95 %, best first."""
        group = self._group(steps)
        sign = self.objective.sign
        scores = {
            trial.decoding: mean_scores(self.book, "select", trial.decoding, group)
            for trial in self.trials
        }
        # The challenger, not the winner: the baseline may have stayed although a trial scored
        # higher, and the region shows where to search further.
        best = scores[self.choice_at(steps).challenger.decoding]
        rows = [
            (trial, compare(scores[trial.decoding], best, sign, self.book.clusters("select")))
            for trial in self.trials
            if scores[trial.decoding] and trial.state == "complete"
        ]
        # The p-value is one-sided: above 0.95 the trial is worse than the best at the 95 % level.
        near = [(trial, gap) for trial, gap in rows if gap.p_value <= LEVEL]
        return [trial for trial, gap in sorted(near, key=lambda row: -row[1].difference)]

    def _group(self, steps: int | None) -> list[int | None]:
        # Under None the scores are means over all numbers of steps, which the other keys list.
        if steps is not None or len(self.choices) == 1:
            return [steps if steps is not None else self.choice.steps]
        return [count for count in self.choices if count is not None]

    def verdict(self, steps: int | None = None) -> str:
        """One sentence or two: which decoding won, by how much, and on which evidence."""
        return verdict(self.choice_at(steps), self.objective, self.book.one_prompt)

    def rows(self, steps: int | None = None) -> tuple[list[str], list[list[str]]]:
        """The trials as a table of text, best first: column heads, and rows."""
        # Under None the table shows the first number of steps; `report` has one table for each.
        count = self._group(steps)[0]
        known = [trial for trial in self.trials if count in trial.scores]
        # Pruned trials saw fewer instances, so their means are not comparable; they come last.
        known.sort(
            key=lambda trial: (
                trial.state != "complete",
                -self.objective.sign * trial.scores[count][0],
            )
        )
        extras = list(dict.fromkeys(name for trial in known for name in trial.extras[count]))
        shown_passes = any(trial.options for trial in known) and all(trial.nfe for trial in known)
        extras = [name for name in extras if not (shown_passes and name == "nfe")]
        heads = ["schedule", "origin", self.objective.metric, "instances", *extras]
        heads += ["passes"] * shown_passes + ["predicted nats"] * (self.profile is not None)
        lines = []
        for trial in known:
            mean, error, number = trial.scores[count]
            origin = trial.origin + (" (left early)" if trial.state == "pruned" else "")
            name = words(trial.decoding, count, self.objective.num_tokens)
            cells = [name, origin, plus_minus(mean, error), str(number)]
            beside = [trial.extras[count].get(name) for name in extras]
            beside += [trial.predicted.get(count)] if self.profile else []
            told = ["" if value is None else f"{value:.4g}" for value in beside]
            if shown_passes:
                told.insert(len(extras), plus_minus(*trial.nfe[count]))
            lines.append([*cells, *told])
        return heads, lines

    def table(self, steps: int | None = None, rows: int | None = None) -> str:
        """The trials as Markdown, best first, with every extra measurement beside the score."""
        heads, lines = self.rows(steps)
        text = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        text += [f"| `{first}` | " + " | ".join(rest) + " |" for first, *rest in lines[:rows]]
        return "\n".join(text)

    def front_table(self) -> str:
        """The front as Markdown, with 95 % intervals and the gain over the baseline, in pairs."""
        heads = ["passes", self.objective.metric, "gain over the baseline", "decoding"]
        text = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for one in self.front():
            name = words(one.decoding, self.choice.steps, self.objective.num_tokens)
            passes = f"{one.passes:.3g} ({one.passes_low:.3g} to {one.passes_high:.3g})"
            score = f"{one.score:.4g} ({one.score_low:.3g} to {one.score_high:.3g})"
            text.append(f"| {passes} | {score} | {one.gain} | `{name}` |")
        return "\n".join(text)

    def to_json(self) -> dict[str, Any]:
        """The whole result as JSON-compatible data."""
        return {
            "objective": self.objective.settings,
            "metric": self.objective.metric,
            "direction": self.objective.direction,
            "method": self.method,
            "space": self.space,
            "passes": self.passes,
            "best_schedule": self.best_schedule.spec,
            "best_options": self.best_options,
            "choices": [
                {**choice_record(choice), "verdict": self.verdict(choice.steps)}
                for choice in self.choices.values()
            ],
            "front": [point_record(point) for point in self.front()] if self._saves else [],
            "trials": [trial_record(trial) for trial in self.trials],
        }

    @property
    def _saves(self) -> bool:
        """Whether passes are a second axis."""
        return any(dict(trial.options).get("commit") for trial in self.trials)

    def plot(self, path: str | os.PathLike[str] | None = None, steps: int | None = None) -> Any:
        """A matplotlib Figure of the scores over (a, b), with the winner and the region as good.

        If several numbers of steps were tuned, a second panel shows the scores by steps; if commit
        rules were tuned, it shows the front of scores and mean passes. The figure is written to
        `path` if given. Needs the extra `tune` or `plot`.
        """
        counts = sorted(count for count in self.choices if count is not None)
        curves = self._curves(counts) if len(counts) > 1 else []
        # `plots` sees plain numbers only, so a picture cannot start a measurement.
        front = None
        if self._saves:
            group = self._group(steps)[0]
            every = [
                (trial.nfe[group][0], trial.scores[group][0])
                for trial in self.trials
                if group in trial.nfe
            ]
            front = Front(every, self.front(), self.choice_at(steps).decoding)
        figure = draw_result(self._map(steps), curves, self.objective.metric, front)
        if path is not None:
            save_picture(figure, path)
        return figure

    def _map(self, steps: int | None) -> Map:
        group, choice = self._group(steps), self.choice_at(steps)
        region = {trial.decoding for trial in self.region(steps)}
        points = []
        for trial in self.trials:
            pair = as_beta(trial.schedule)
            if pair is not None and all(count in trial.scores for count in group):
                mean = float(np.mean([trial.scores[count][0] for count in group]))
                # An infinite score (linear's energy, say) has no colour.
                if np.isfinite(mean):
                    points.append(MapPoint(*pair, mean, trial.decoding in region))
        # A single tuned number of steps stands in the heading of its table already.
        title = ""
        if choice.steps is not None or len(group) > 1:
            title = "all steps" if choice.steps is None else f"{choice.steps} steps"
        # A second star in the same place would hide the winner's.
        other = choice.challenger.schedule
        return Map(
            points=points,
            winner=as_beta(choice.schedule),
            challenger=None if other == choice.schedule else as_beta(other),
            bounds=self.bounds,
            metric=self.objective.metric,
            higher_is_better=self.objective.sign > 0,
            title=title,
        )

    def _curves(self, counts: Sequence[int]) -> list[ScoreCurve]:
        """Scores of the baseline and of the best candidates, by number of steps."""
        wanted = [self.baseline.schedule]
        wanted += [choice.challenger.schedule for choice in self.choices.values()]
        trials = {trial.schedule: trial for trial in self.trials if trial.schedule in wanted}
        curves = []
        for schedule in list(dict.fromkeys(wanted))[:CURVES]:
            trial = trials[schedule]
            scores = {count: trial.scores[count][:2] for count in counts if count in trial.scores}
            scores = {count: score for count, score in scores.items() if np.isfinite(score[0])}
            spec = schedule.spec
            label = spec if len(spec) < 40 else f"{schedule.name}, {trial.origin}"
            if scores:
                curves.append(ScoreCurve(label, scores))
        return curves

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write one self-contained HTML file with verdicts, pictures and all trials."""
        # One section for each number of steps, or a single one if there is none.
        counts: list[int | None] = [steps for steps in self.choices if steps is not None]
        used = f"{self.passes:,} forward passes of a sequence" if self.passes else ""
        return write_report(
            local_path(path),
            title=f"Schedule for {self.objective.name}",
            summary=f"Method {self.method}; {len(self.trials)} schedules; "
            f"{used or 'passes not counted'}.",
            verdicts=[self.verdict(steps) for steps in self.choices],
            sections=[
                Section(
                    "All trials" if steps is None else f"{steps} steps",
                    self.plot(steps=steps),
                    *self.rows(steps),
                )
                for steps in counts or [None]
            ],
        )

    def evaluation(
        self, steps: int | None = None, *, model: str | None = None, task: str | None = None
    ) -> Evaluation:
        """The winner's record for the Hub, with the scores of the check.

        Args:
            steps: as for `best`.
            model: Hub id or name of the model; needed if the objective names none.
            task: replaces the objective's name.

        Raises:
            InvalidValueError: the model or the number of steps is unknown.
        """
        choice = self.choice_at(steps)
        source = self.objective
        name = model or source.model_name
        if not name:
            raise InvalidValueError("which model was tuned is not known; give model='user/model'")
        count = choice.steps or source.steps
        if count is None:
            raise InvalidValueError("an evaluation is for one number of steps; give steps=...")
        measured = {"measured": dict(choice.extras)} if choice.extras else {}
        return Evaluation(
            model=name,
            task=task or self.objective.name,
            steps=choice.decoding.steps(count) or count,
            metric=self.objective.metric,
            value=choice.score,
            standard_error=number(choice.standard_error),
            baseline=number(choice.baseline),
            baseline_standard_error=number(choice.baseline_standard_error),
            nfe=choice.passes,
            # The winner's own options replace those of the objective.
            sampler={**source.sampler, **choice.decoding.given},
            extra=measured,
        )

    def save_pretrained(
        self,
        path: str | os.PathLike[str],
        steps: int | None = None,
        *,
        model: str | None = None,
        task: str | None = None,
    ) -> None:
        """Write the winner as `Schedule.save_pretrained` does, with tuning.json beside it."""
        source = self.objective
        named = model or source.model_name
        # A folder may do without an evaluation; the Hub may not, since it is searched by model.
        record = self.evaluation(steps, model=model, task=task) if named else None
        self.best(steps).save_pretrained(path, evaluation=record)
        text = dump_json(self.to_json(), "the result")
        write_atomically(
            local_path(path) / "tuning.json",
            lambda name: Path(name).write_text(text, encoding="utf-8"),
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
        """Publish the winner with its evaluation; `options` are those of `Schedule.push_to_hub`."""
        record = self.evaluation(steps, model=model, task=task)
        return self.best(steps).push_to_hub(repo_id, evaluation=record, **options)
