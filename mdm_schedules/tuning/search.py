"""The search over (a, b): Optuna proposes, the score book scores.

What can no longer win is left early.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from mdm_schedules.checks import check_real, did_you_mean, missing_extra, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, StorageError, UnknownNameError
from mdm_schedules.schedules import Beta
from mdm_schedules.tuning.scorebook import ScoreBook
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

GRID = tuple(round(0.1 * i, 1) for i in range(1, 11))  # of a and of b: the paper's, App. E.1
METHODS = ("tpe", "gp", "cmaes", "random", "grid")
# linear, squared sine, what the paper found best on its tasks, and one that reveals much early
# (orders by confidence)
START = ((0.5, 0.5), (1.0, 1.0), (0.9, 0.3), (1.0, 0.2), (0.9, 0.9), (0.3, 0.3), (0.35, 0.7))
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


def make_sampler(method: str, seed: int, trial: int) -> BaseSampler:
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
        return optuna.samplers.CmaEsSampler(seed=number, warn_independent_sampling=False)  # type: ignore[no-any-return]
    if method == "random":
        return optuna.samplers.RandomSampler(seed=number)  # type: ignore[no-any-return]
    return optuna.samplers.TPESampler(seed=number, n_startup_trials=10)  # type: ignore[no-any-return]


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
    """

    study: Study
    book: ScoreBook
    method: str
    n_trials: int
    seed: int
    bounds: tuple[float, float]
    steps: Sequence[int | None]
    upto: int
    several: bool
    race: bool
    on_trial: Callable[[], None]
    _lock: Any = field(default_factory=threading.Lock)
    _active: set[int] = field(init=False)
    _stop: threading.Event = field(default_factory=threading.Event)
    # by steps; under None by their mean
    _leaders: dict[int | None, Beta] = field(default_factory=dict)

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
            schedule = schedule_of(trial)
            for steps in self.steps:
                self.book.recall("select", schedule, steps, f"trial {trial.number}")
            if trial.state == states.COMPLETE:
                self._lead(schedule)
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
            self._lead(schedule_of(trial))
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
                        self.method, self.seed, len(done) + len(running)
                    )
                    taken = [
                        (trial.params.get("a"), trial.params.get("b"))
                        for trial in (*done, *running)
                    ]
                    # by a worker that died at once
                    queued = any(trial.state == states.WAITING for trial in trials)
                    for a, b in [point for point in self._points() if point not in taken][
                        : 0 if queued else 1
                    ]:
                        self.study.enqueue_trial({"a": a, "b": b})
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
                    self.method, self.seed, trial.number + self.n_trials
                )
            self._active.add(trial.number)
            sign_trial(self.study._storage, trial._trial_id)
            for name in ("a", "b"):
                trial.suggest_float(name, *self._range(), log=True)
            return trial
        except Exception as error:
            self._active.discard(trial.number)
            if taken_away(error):
                return None
            with suppress(Exception):  # the storage itself may be what failed
                self.study.tell(trial, state=optuna_module().trial.TrialState.FAIL)
            raise

    def _points(self) -> list[tuple[float, float]]:
        """What is tried before the sampler proposes anything."""
        if self.method == "grid":
            return list(product(GRID, GRID))
        low, high = self.bounds
        return [point for point in START if low <= min(point) and max(point) <= high]

    def _range(self) -> tuple[float, float]:
        """The bounds, wider where the grid asks for it."""
        return (
            (min(self.bounds[0], GRID[0]), max(self.bounds[1], GRID[-1]))
            if self.method == "grid"
            else self.bounds
        )

    def _score(self, trial: Trial) -> list[float] | None:
        """The mean scores to report; None if the candidate cannot win, or was left on the way."""
        schedule, size = schedule_of(trial), self.book.objective.batch_size
        # A batch of instances at a time, so that a hopeless candidate costs few.
        for upto in [*range(size, self.upto, size), self.upto]:
            for steps in self.steps:
                self.book.extend("select", schedule, steps, upto, f"trial {trial.number}")
            beat(self.study._storage, trial._trial_id)
            if self.race and upto < self.upto and not self.several:
                trial.report(float(np.mean(self._mean(schedule))), upto)
                if self._lost(schedule):
                    return None
        means = [self._mean(schedule)]
        if self.several:
            means = [self.book.entry("select", schedule, steps).values for steps in self.steps]
        values = [float(np.mean(mean)) for mean in means]
        return values if np.isfinite(values).all() else None  # infinitely bad

    def _mean(self, schedule: Beta) -> list[float]:
        return mean_scores(self.book, "select", schedule, self.steps)

    def _lost(self, schedule: Beta) -> bool:
        """Whether it is certainly worse than the best, in the mean and at each number of steps."""
        for key, leader in self._leaders.items():
            group = self.steps if key is None else [key]
            own = mean_scores(self.book, "select", schedule, group)
            against = compare(
                own, mean_scores(self.book, "select", leader, group), self.book.objective.sign
            )
            # It stays if it may still win anywhere: in the mean, or at one number of steps.
            if leader == schedule or len(own) < RACE_FROM or against.confidence >= RACE_RISK:
                return False
        return bool(self._leaders)

    def _lead(self, schedule: Beta) -> None:
        """Keep the best one that has all its scores, for later ones to race against."""
        for steps in self.steps:
            self.book.extend("select", schedule, steps, self.upto)
        with self._lock:
            for key in {None, *self.steps}:
                group = self.steps if key is None else [key]
                leader = self._leaders.setdefault(key, schedule)
                own, best = (
                    mean_scores(self.book, "select", one, group) for one in (schedule, leader)
                )
                if compare(own, best, self.book.objective.sign).difference > 0:
                    self._leaders[key] = schedule


def schedule_of(trial: Trial | FrozenTrial) -> Beta:
    """The schedule of a trial, (a, b) to four digits as they are written in its spec."""
    return Beta(*(float(f"{trial.params[name]:.4g}") for name in ("a", "b")))


def mean_scores(
    book: ScoreBook, part: str, schedule: Any, steps: Sequence[int | None]
) -> list[float]:
    """Per instance, the mean over numbers of steps, for the instances that have all of them."""
    rows = [book.entry(part, schedule, count).values for count in steps]
    shortest = min(map(len, rows))
    means: list[float] = (
        np.mean([row[:shortest] for row in rows], axis=0).tolist() if shortest else []
    )
    return means
