"""The search over (a, b): Optuna proposes, the score book scores.

What can no longer win is left early.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from mdm_schedules.checks import check_real, did_you_mean, missing_extra, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, StorageError, UnknownNameError
from mdm_schedules.tuning.decoding import Decoding
from mdm_schedules.tuning.scorebook import ScoreBook
from mdm_schedules.tuning.spaces import Space
from mdm_schedules.tuning.statistics import compare
from mdm_schedules.tuning.storage import (
    abandoned,
    beat,
    optuna_module,
    sign_trial,
    signed_here,
    taken_away,
    unsigned,
)

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

METHODS = ("tpe", "gp", "cmaes", "random", "grid", "reinforce")
RACE_FROM = 16  # instances before a candidate may be left
RACE_RISK = 0.01  # of leaving one that is as good


def check_method(method: Any) -> str:
    """A name of METHODS, or "profile"."""
    if not isinstance(method, str):
        raise InvalidTypeError(
            f"method must be one of {', '.join((*METHODS, 'profile'))}, got {shown(method)}"
        )
    if method not in (*METHODS, "profile"):
        raise UnknownNameError(
            f"no method is named {shown(method)}.{did_you_mean(method, (*METHODS, 'profile'))}"
        )
    return method


def check_bounds(bounds: Any) -> tuple[float, float]:
    """Least and largest a and b."""
    if not isinstance(bounds, Sequence) or isinstance(bounds, str) or len(bounds) != 2:
        raise InvalidTypeError(
            f"bounds must be two numbers such as (0.05, 5.0), got {shown(bounds)}"
        )
    low, high = (check_real("bounds", value, 0, low_open=True) for value in bounds)
    if low >= high:
        raise InvalidValueError(f"bounds must increase, got {shown(bounds)}")
    return low, high


def make_sampler(method: str, seed: int, trial: int, space: Space) -> BaseSampler:
    """A sampler for one proposal, seeded by the trial's number.

    So a resumed study goes on as it would have.
    """
    optuna = optuna_module()
    word = hashlib.sha256(f"{seed}/{trial}".encode()).digest()
    # A sampler anew for each trial: its state would differ between workers, the seed does not.
    number = int.from_bytes(word[:4], "big")
    if method == "gp":
        return optuna.samplers.GPSampler(seed=number)  # type: ignore[no-any-return]
    if method == "cmaes":
        if find_spec("cmaes") is None:
            raise missing_extra("cmaes", "tune")
        if space.name == "plan":
            from mdm_schedules.tuning.samplers import EvolutionSampler

            return EvolutionSampler(space, seed, trial)
        return optuna.samplers.CmaEsSampler(seed=number, warn_independent_sampling=False)  # type: ignore[no-any-return]
    if method == "reinforce":
        from mdm_schedules.tuning.samplers import ReinforceSampler

        return ReinforceSampler(space, seed, trial)
    if method == "random":
        return optuna.samplers.RandomSampler(seed=number)  # type: ignore[no-any-return]
    options: dict[str, Any] = {}
    # Since optuna 5 the trial itself is told.
    if space.saves and not hasattr(optuna.trial.Trial, "set_constraint"):
        options["constraints_func"] = lambda one: one.user_attrs.get(OVER, [0.0])
    return optuna.samplers.TPESampler(seed=number, n_startup_trials=10, **options)  # type: ignore[no-any-return]


OVER = "passes over the bound"  # of a trial
# by the study's name, the numbers of the trials that this process works on, in all its searches
_at_work: dict[str, set[int]] = {}


@dataclass
class Search:
    """One search on one study.

    Attributes:
        study: of Optuna.
        book: of scores.
        steps: numbers of steps; (None,) leaves it to the objective.
        upto: instances of the part "select" that each candidate is scored on.
        several: one objective for each number of steps (a Pareto search), instead of their mean.
        space: where it searches. Where decodings may save passes, those are a second objective.
        limit: mean passes that a decoding may spend; None where the space saves none.
    """

    study: Study
    book: ScoreBook
    method: str
    n_trials: int
    seed: int
    space: Space
    steps: Sequence[int | None]
    upto: int
    several: bool
    race: bool
    on_trial: Callable[[], None]
    limit: float | None = None
    _lock: Any = field(default_factory=threading.Lock)
    _active: set[int] = field(init=False)
    _stop: threading.Event = field(default_factory=threading.Event)
    # by steps; under None by their mean
    _leaders: dict[int | None, Decoding] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._active = _at_work.setdefault(self.study.study_name, set())

    def run(self, n_jobs: int) -> None:
        """Until `n_trials` have finished, those of earlier runs and of other workers among them."""
        states = optuna_module().trial.TrialState
        # Until no trial is in doubt, or the same point might be scored twice.
        while self._release(states):
            time.sleep(0.1)
        # What is known already enters the book, and decides who leads the race.
        for trial in self.study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED)):
            decoding = self.space.read(trial.params)
            for steps in self.steps:
                self.book.recall("select", decoding, steps, f"trial {trial.number}")
            if trial.state == states.COMPLETE:
                self._lead(decoding)
        if n_jobs == 1:
            self._work(states)
        else:
            with ThreadPoolExecutor(n_jobs, thread_name_prefix="tune") as pool:
                try:
                    for done in as_completed(
                        [pool.submit(self._work, states) for _ in range(n_jobs)]
                    ):
                        done.result()
                finally:  # after an error, or Ctrl-C, no thread begins another trial
                    self._stop.set()

    def _release(self, states: Any) -> bool:
        """Give up the trials that dead workers had begun; they are proposed again.

        The book keeps the scores that they had. Returns whether a look in a moment will show more.
        """
        running = self.study.get_trials(deepcopy=False, states=(states.RUNNING,))
        for trial in running:
            if abandoned(trial) or self._lost_here(trial):
                self._give_up(trial, states)
        return any(unsigned(trial) for trial in running)

    def _lost_here(self, trial: FrozenTrial) -> bool:
        """Whether this process began a trial and no longer works on it, as after a full disk."""
        return signed_here(trial) and trial.number not in self._active

    def _give_up(self, trial: FrozenTrial, states: Any) -> None:
        try:
            self.study.tell(trial.number, state=states.FAIL, skip_if_finished=True)
        except Exception as error:
            if not taken_away(error):
                raise

    def _work(self, states: Any) -> None:
        while not self._stop.is_set() and (trial := self._next(states)) is not None:
            try:
                self._try(trial, states)
            finally:
                self._active.discard(trial.number)

    def _try(self, trial: Trial, states: Any) -> None:
        begun = time.monotonic()
        try:
            values = self._score(trial)
        except BaseException as error:
            if taken_away(error):
                return  # another worker took this one for dead; its scores are in the book
            with suppress(Exception):  # the storage itself may be what failed
                self.study.tell(trial, state=states.FAIL)
            raise
        try:
            # --- the outcome, which another worker may have given up for dead meanwhile
            trial.set_user_attr("seconds", time.monotonic() - begun)
            if values is None:
                self.study.tell(trial, state=states.PRUNED)
            else:
                self.study.tell(trial, values)
        except Exception as error:
            if taken_away(error):
                return
            raise
        if values is not None:
            self._lead(self.space.read(trial.params))
        self.on_trial()

    def _check_storage(self, running: Sequence[FrozenTrial], states: Any) -> None:
        """Raise if the storage lists as unfinished a trial that this process has finished.

        The search would wait for that trial for ever.
        """
        done = {trial.number for trial in running if signed_here(trial)} - self._active
        if done and any(
            trial.number in done
            for trial in self.study.get_trials(deepcopy=False, states=(states.RUNNING,))
        ):
            raise StorageError(
                "the storage of the study can no longer be used: it does not tell of a trial that "
                "was finished; was "
                "its file deleted?"
            )

    def _next(self, states: Any) -> Trial | None:
        """The next trial; None once enough have finished.

        Waits for other workers' trials, which may yet fail.
        """
        while True:
            with self._lock:
                trials = self.study.get_trials(deepcopy=False)
                done = [
                    trial for trial in trials if trial.state in (states.COMPLETE, states.PRUNED)
                ]
                running = [trial for trial in trials if trial.state == states.RUNNING]
                if self._stop.is_set() or (len(done) >= self.n_trials and not running):
                    return None  # with nothing under way, so that all workers see the same trials
                # Fewer finished and under way than wanted: begin one, first of the fixed points not
                # yet taken.
                if len(done) + len(running) < self.n_trials:
                    self.study.sampler = make_sampler(
                        self.method, self.seed, len(done) + len(running), self.space
                    )
                    taken = [dict(trial.params) for trial in (*done, *running)]
                    # by a worker that died at once
                    queued = any(trial.state == states.WAITING for trial in trials)
                    fresh = [point for point in self.space.points() if point not in taken]
                    for point in fresh[: 0 if queued else 1]:
                        self.study.enqueue_trial(point)
                    trial = self._ask(len(trials))
                    if trial is not None:
                        return trial
                    continue
                self._release(states)
                self._check_storage(running, states)
            time.sleep(0.1)

    def _ask(self, known: int) -> Trial | None:
        """A new trial, signed; None if another worker has given it up meanwhile."""
        trial = self.study.ask()
        try:
            # another worker was quicker, with the same sampler
            if trial.number > known:
                self.study.sampler = make_sampler(
                    self.method, self.seed, trial.number + self.n_trials, self.space
                )
            self._active.add(trial.number)
            sign_trial(self.study._storage, trial._trial_id)
            self.space.suggest(trial)
            return trial
        except Exception as error:
            self._active.discard(trial.number)
            if taken_away(error):
                return None
            with suppress(Exception):  # the storage itself may be what failed
                self.study.tell(trial, state=optuna_module().trial.TrialState.FAIL)
            raise

    def _score(self, trial: Trial) -> list[float] | None:
        """The mean scores to report; None if the candidate cannot win, or was left on the way."""
        decoding, size = self.space.read(trial.params), self.book.objective.batch_size
        for upto in [*range(size, self.upto, size), self.upto]:
            for steps in self.steps:
                self.book.extend("select", decoding, steps, upto, f"trial {trial.number}")
            if self.space.saves:  # an objective without passes is told at once
                self._spent(decoding)
            beat(self.study._storage, trial._trial_id)
            if self.race and upto < self.upto and not self.several and not self.space.saves:
                trial.report(float(np.mean(self._mean(decoding))), upto)
                if self._lost(decoding):
                    return None
        means = [self._mean(decoding)]
        if self.several:
            means = [self.book.entry("select", decoding, steps).values for steps in self.steps]
        values = [float(np.mean(mean)) for mean in means]
        if self.space.saves:
            spent = self._spent(decoding)
            # How far it is over the bound on passes; 0 or less within it.
            over = spent - (math.inf if self.limit is None else self.limit)
            trial.set_user_attr(OVER, [over])
            if hasattr(trial, "set_constraint"):
                trial.set_constraint("passes", over)
            values.append(spent)
        return values if np.isfinite(values).all() else None  # infinitely bad

    def _spent(self, decoding: Decoding) -> float:
        """Mean forward passes so far, for a space that saves some."""
        spent = mean_passes(self.book, "select", decoding, self.steps)
        if spent is None:
            raise InvalidValueError(
                "a commit rule is tuned by the passes that it saves, but the objective gives "
                "none; return Scores(values, nfe=[passes of each instance])"
            )
        return spent

    def _mean(self, decoding: Decoding) -> list[float]:
        return mean_scores(self.book, "select", decoding, self.steps)

    def _lost(self, decoding: Decoding) -> bool:
        """Whether it is certainly worse than the best, in the mean and at each number of steps."""
        for key, leader in self._leaders.items():
            group = self.steps if key is None else [key]
            own = mean_scores(self.book, "select", decoding, group)
            against = compare(
                own, mean_scores(self.book, "select", leader, group), self.book.objective.sign
            )
            if leader == decoding or len(own) < RACE_FROM or against.p_value <= 1 - RACE_RISK:
                return False
        return bool(self._leaders)

    def _lead(self, decoding: Decoding) -> None:
        """Keep the best one that has all its scores, for later ones to race against."""
        for steps in self.steps:
            self.book.extend("select", decoding, steps, self.upto)
        with self._lock:
            for key in {None, *self.steps}:
                group = self.steps if key is None else [key]
                leader = self._leaders.setdefault(key, decoding)
                own, best = (
                    mean_scores(self.book, "select", one, group) for one in (decoding, leader)
                )
                if compare(own, best, self.book.objective.sign).difference > 0:
                    self._leaders[key] = decoding


def mean_scores(
    book: ScoreBook, part: str, decoding: Any, steps: Sequence[int | None]
) -> list[float]:
    """Per instance, the mean over numbers of steps, for the instances that have all of them."""
    rows = [book.entry(part, decoding, count).values for count in steps]
    shortest = min(map(len, rows))
    means: list[float] = (
        np.mean([row[:shortest] for row in rows], axis=0).tolist() if shortest else []
    )
    return means


def mean_passes(
    book: ScoreBook, part: str, decoding: Any, steps: Sequence[int | None]
) -> float | None:
    """Mean forward passes per instance and number of steps; None where none were reported."""
    rows = [book.entry(part, decoding, count).nfe for count in steps]
    return float(np.mean([np.mean(row) for row in rows])) if all(rows) else None
