"""`tune`: one call from an objective to a schedule, with a measure of its quality."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from mdm_schedules.checks import check_int, check_real
from mdm_schedules.errors import (
    InvalidTypeError,
    InvalidValueError,
    MDMError,
    ObjectiveError,
    StorageError,
)
from mdm_schedules.plan import MAX_STEPS
from mdm_schedules.schedules import Schedule
from mdm_schedules.tuning import proposals
from mdm_schedules.tuning.result import TuningResult
from mdm_schedules.tuning.scorebook import CheckedObjective, ScoreBook
from mdm_schedules.tuning.search import GRID, Search, check_bounds, check_method, schedule_of
from mdm_schedules.tuning.selection import Bar, Candidate, Choice, check, shortlist
from mdm_schedules.tuning.storage import check_same, open_storage, optuna_module
from mdm_schedules.tuning.trials import list_trials

if TYPE_CHECKING:
    from mdm_schedules.information import InformationProfile

SURE = 0.95  # confidence required of a schedule that was predicted for another order


def tune(
    objective: Callable[..., Any],
    *,
    n_trials: int | None = None,
    seed: int = 0,
    method: str = "tpe",
    steps: int | Sequence[int] | None = None,
    direction: str | None = None,
    baselines: str | Schedule | Sequence[str | Schedule] = ("linear",),
    bounds: tuple[float, float] = (0.05, 5.0),
    multi_objective: bool = False,
    screening: int = 64,
    held_out: float = 0.5,
    confidence: float | None = None,
    race: bool = True,
    profile: InformationProfile | None = None,
    storage: Any = None,
    study_name: str = "mdm-schedules",
    n_jobs: int = 1,
    progress: bool = False,
) -> TuningResult:
    """Find a schedule for a model, a task and a number of steps, without training.

    Candidates include the common schedules and the paper's. All are scored on some instances, and
    the best on more (arXiv 2509.13866, App. E.1). Every schedule sees the same instances and
    seeds, so that their common noise cancels. The winner is then checked against the baseline on
    instances that chose nothing.

    Args:
        objective: schedule -> score. See `mdm_schedules.tuning.Objective` for objectives that take
            instances and steps; `GenerationObjective`, `TeacherForcedObjective`,
            `LikelihoodObjective` and `ProfileObjective` are ready-made.
        n_trials: number of pairs (a, b) to try, including those of earlier runs on the same
            storage; by default 60, or the whole grid.
        seed: seed of the proposals and of the order of instances.
        method: search method for (a, b): "tpe", "gp", "cmaes", "random", or "grid", the paper's
            10 x 10; or "profile", which tries the predictions of an information profile instead
            and is by far the cheapest.
        steps: forward passes, one number or several, passed to the objective as `steps`. Several
            are tuned together, for the mean of their scores, and `result.best(steps)` is the
            winner at each. None leaves the number to the objective.
        direction: "maximize" or "minimize" the score; by default the objective's own, else
            maximize.
        baselines: schedules to beat; the first one wins unless a candidate is ahead of it.
        bounds: smallest and largest a and b, searched on a logarithmic scale.
        multi_objective: search for the Pareto front over `steps` instead of their mean.
        screening: instances in the first round. Each later round uses twice as many instances and
            a third of the candidates.
        held_out: share of the instances reserved for the check, in [0, 0.9]. With 0 the check uses
            the instances that chose.
        confidence: minimum probability, in [0.5, 1), that the winner beats the baseline; below it
            the baseline is kept. Default: 0.5 (the mean is ahead); 0.95 for a schedule predicted
            by a profile, unless the objective's `remasking` is a random order, since a prediction
            covers no other order. Values above 0.5 need 10 instances.
        race: drop a candidate before its first round ends if it can hardly be the best at any of
            the steps (paired t-test, 1 % at each look).
        profile: for method "profile"; by default estimated by the objective
            (`objective.estimate_profile()`).
        storage: where finished work is kept: None for memory; "study.db" (SQLite); "study.journal",
            for many processes; a database URL; an Optuna storage. The same call goes on after an
            interruption, and several processes (of `accelerate launch`, say) share the trials of
            one storage.
        study_name: in the storage.
        n_jobs: threads.
        progress: show a bar for each phase.

    Returns:
        A TuningResult: `.best_schedule`, `.best(steps)`, `.trials`, `.plot()`, `.report(path)`,
        `.push_to_hub(repo)`.

    Raises:
        InvalidTypeError, InvalidValueError, UnknownNameError: a wrong argument, or a storage that
            holds another study.
        ObjectiveError: the objective raised or returned no finite number; `.finished` has the
            earlier trials.
        StorageError: the storage can no longer be read or written; `.finished` as above.
        KeyboardInterrupt: Ctrl-C; `.finished` as above.
        MissingExtraError: optuna is not installed (extra `tune`).
    """
    # --- everything that can be wrong, before the first score
    checked, method = CheckedObjective(objective, direction), check_method(method)
    counts = _check_steps(checked, steps)
    seed, n_jobs = check_int("seed", seed, 0), check_int("n_jobs", n_jobs, 1, 256)
    n_trials = (
        check_int("n_trials", n_trials, 1)
        if n_trials is not None
        else (len(GRID) ** 2 if method == "grid" else 60)
    )
    limits, first = check_bounds(bounds), check_int("screening", screening, 2)
    share = check_real("held_out", held_out, 0, 0.9)
    if confidence is not None:
        check_real("confidence", confidence, 0.5, 1, high_open=True)
    if multi_objective and method == "cmaes":
        raise InvalidValueError(
            "cmaes has one objective; use method='tpe' or 'gp' with multi_objective"
        )
    if multi_objective and len(counts) < 2:
        raise InvalidValueError(
            "multi_objective needs several numbers of steps, such as steps=[8, 16, 32]"
        )
    # Report a missing extra before any work starts.
    optuna_module()
    # --- what is compared, on which instances, and where scores are kept
    base = proposals.baselines(baselines)
    # The seed alone decides the split, so every worker and every later run uses the same one.
    parts = _parts(checked, share, seed)
    kept, lasting = open_storage(storage)
    book = ScoreBook(checked, parts)
    # Few instances make the first round the only one.
    first = min(first, book.size("select"))
    with _quiet_optuna(), _keeping(lambda: list_trials(book, counts, first)):
        study = optuna_module().create_study(
            storage=kept,
            study_name=study_name,
            load_if_exists=True,
            directions=[checked.direction] * (len(counts) if multi_objective else 1),
        )
        settings = {
            "direction": checked.direction,
            "bounds": list(limits),
            "steps": list(counts),
            "seed": seed,
        }
        settings |= {
            "multi_objective": bool(multi_objective),
            "held_out": share,
            "objective": checked.settings,
        }
        # Scores of another objective, seed or split must not be mixed into this study.
        check_same(study, settings)
        # A storage in memory ends with this process, so copies of the scores would be useless.
        if lasting:
            book.keep_in(
                lambda name: kept.get_study_user_attrs(study._study_id).get(name),
                lambda name, value: kept.set_study_user_attr(study._study_id, name, value),
            )
        found = [*base, *proposals.usual(counts, checked.sampler.get("remasking"))]

        def bar(candidates: Sequence[Candidate], phase: str) -> Iterator[Candidate]:
            yield from tqdm(candidates, desc=phase, unit="schedule", disable=not progress)

        # --- candidates: predicted from a profile, or proposed by a search
        with tqdm(
            total=n_trials,
            desc="searching",
            unit="trial",
            disable=not progress or method == "profile",
        ) as trials:
            if method == "profile":
                if profile is None:
                    profile = _estimate(checked, parts["select"], progress)
                found += proposals.predicted(profile, counts)
            else:
                Search(
                    study,
                    book,
                    method,
                    n_trials,
                    seed,
                    limits,
                    counts,
                    first,
                    multi_objective,
                    race,
                    trials.update,
                ).run(n_jobs)
                states = optuna_module().trial.TrialState
                # Trials of other workers and of earlier runs compete as well.
                whole = study.get_trials(deepcopy=False, states=(states.COMPLETE,))
                found += [Candidate(schedule_of(trial), f"trial {trial.number}") for trial in whole]
        # --- a winner over all numbers of steps, then one at each
        choices = {}
        for group in [counts] if len(counts) == 1 else [counts, *([count] for count in counts)]:
            choice = _decide(found, base[0], book, group, first, confidence, bar)
            choices[choice.steps] = choice
    return TuningResult(
        choices, list_trials(book, counts, first, profile), checked, method, book, profile, limits
    )


def _check_steps(checked: CheckedObjective, steps: Any) -> list[int | None]:
    if steps is None:
        return [checked.steps] if checked.takes_steps else [None]
    if not checked.takes_steps:
        raise InvalidTypeError(
            "the objective takes no `steps`; write it as score(schedule, steps), or leave out "
            "steps="
        )
    given = list(steps) if isinstance(steps, Sequence) and not isinstance(steps, str) else [steps]
    # Sorted and distinct, so that the order of the argument does not make another study.
    counts = sorted({check_int("steps", count, 1, MAX_STEPS, "steps=[8, 16]") for count in given})
    if not counts:
        raise InvalidValueError("steps must hold at least one number, such as steps=[8, 16]")
    return [*counts]


def _parts(checked: CheckedObjective, share: float, seed: int) -> dict[str, Sequence[int] | None]:
    """The instances that choose and those reserved for the check, both in a seeded order."""
    if checked.num_instances is None:
        return {"select": None}
    order = np.random.default_rng(seed).permutation(checked.num_instances).tolist()
    kept = round(share * len(order))
    if kept < 2 or len(order) - kept < 2:  # a paired test needs two instances
        return {"select": order}
    return {"select": order[kept:], "held_out": order[:kept]}


def _decide(
    found: Sequence[Candidate],
    baseline: Candidate,
    book: ScoreBook,
    steps: Sequence[int | None],
    first: int,
    confidence: float | None,
    bar: Bar,
) -> Choice:
    """Check the best candidate, or the best other one if it was only predicted and fails."""
    # A profile predicts random order; for any other order its prediction has to prove itself.
    unsure = not book.objective.random_order
    challenger = shortlist(found, book, steps, first, bar=bar)[0]
    foretold = challenger.origin.startswith(proposals.PREDICTED)
    needed = confidence if confidence is not None else (SURE if foretold and unsure else 0.5)
    choice = check(challenger, baseline, book, steps, needed, bar)
    if choice.won or not foretold:
        return choice
    others = [
        candidate for candidate in found if not candidate.origin.startswith(proposals.PREDICTED)
    ]
    other = shortlist(others, book, steps, first, bar=bar)[0]
    again = check(other, baseline, book, steps, confidence or 0.5, bar)
    return again if again.won else choice


def _estimate(
    checked: CheckedObjective, instances: Sequence[int] | None, progress: bool
) -> InformationProfile:
    estimate = checked.estimate_profile
    if estimate is None:
        raise InvalidTypeError(
            "method='profile' needs a profile for this objective: tune(objective, "
            "method='profile', steps=16, "
            "profile=InformationProfile.estimate(model, sequences))"
        )
    # on instances that choose, so that the others stay unseen
    taken = inspect.signature(estimate).parameters
    options: dict[str, Any] = {"instances": instances} if "instances" in taken else {}
    if progress and ("progress" in taken or "options" in taken):
        options["progress"] = True
    return estimate(**options)  # type: ignore[no-any-return]


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Silence Optuna's message about each trial during the call; the progress bar replaces it."""
    optuna = optuna_module()
    # The caller's own setting returns afterwards.
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


@contextmanager
def _keeping(finished: Callable[[], Sequence[Any]]) -> Iterator[None]:
    """Attach the finished trials to an error, and turn storage failures into StorageError."""
    try:
        yield
    except (ObjectiveError, StorageError, KeyboardInterrupt) as error:
        error.finished = finished()  # type: ignore[union-attr]
        raise
    # Wrong arguments already carry their own message.
    except MDMError:
        raise
    except Exception as error:
        inner = (
            OSError,
            KeyError,
            JSONDecodeError,
            optuna_module().exceptions.StorageInternalError,
        )
        # Database drivers are optional, so their errors are recognised by module name.
        if not isinstance(error, inner) and type(error).__module__.partition(".")[0] not in (
            "sqlalchemy",
            "sqlite3",
        ):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        trouble = StorageError(f"the storage of the study can no longer be used: {reason}")
        trouble.finished = finished()
        raise trouble from error
