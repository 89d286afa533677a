"""`tune`: one call from an objective to a schedule, with a measure of its quality."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from mdm_schedules.checks import check_int, check_real
from mdm_schedules.errors import (
    InvalidTypeError,
    InvalidValueError,
    MDMError,
    ObjectiveError,
    StorageError,
)
from mdm_schedules.schedules import Schedule
from mdm_schedules.tuning import proposals
from mdm_schedules.tuning.result import TuningResult
from mdm_schedules.tuning.scorebook import CheckedObjective, ScoreBook
from mdm_schedules.tuning.search import Search, check_bounds, check_method
from mdm_schedules.tuning.selection import Bar, Candidate, Choice, check, shortlist
from mdm_schedules.tuning.setup import (
    DEFAULT_METHODS,
    check_fit,
    check_passes,
    check_steps,
    split,
)
from mdm_schedules.tuning.spaces import GRID, check_space, make_space
from mdm_schedules.tuning.storage import check_same, open_storage, optuna_module
from mdm_schedules.tuning.trials import list_trials

if TYPE_CHECKING:
    from mdm_schedules.information import InformationProfile

SURE = 0.95


def tune(
    objective: Callable[..., Any],
    *,
    n_trials: int | None = None,
    seed: int = 0,
    method: str | None = None,
    space: str = "schedule",
    steps: int | Sequence[int] | None = None,
    direction: str | None = None,
    baselines: str | Schedule | Sequence[str | Schedule] = ("linear",),
    bounds: tuple[float, float] = (0.05, 5.0),
    max_passes: float | None = None,
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
    instances that chose nothing, and replaces it only if it is ahead there with 95 % confidence.
    The gain that is reported comes from instances that decided nothing either.

    Args:
        objective: schedule -> score. See `mdm_schedules.tuning.Objective` for objectives that take
            instances and steps; `GenerationObjective`, `TeacherForcedObjective`,
            `LikelihoodObjective` and `ProfileObjective` are ready-made.
        n_trials: number of trials, including those of earlier runs on the same storage; by default
            60, or the whole grid.
        seed: seed of the proposals and of the order of instances.
        method: search method: "tpe" (the default), "gp", "cmaes" (the default for plans), "random";
            "grid", the paper's 10 x 10 of (a, b); "reinforce", policy gradient, for plans; or
            "profile", which tries the predictions of an information profile instead and is by far
            the cheapest.
        space: what is searched. "schedule": (a, b). "schedule+remask": (a, b) and `remask_fraction`
            with `remask`, at the same number of passes. "schedule+commit": (a, b), a commit rule
            and its parameters, with the mean passes as a second axis (`result.front()`). "plan":
            the shares revealed in up to 16 pieces, as five waves. All but "schedule" take one
            number of steps, and all but "schedule" and "plan" need an objective that takes
            `options`.
        steps: forward passes, one number or several, passed to the objective as `steps`. Several
            are tuned together, for the mean of their scores, and `result.best(steps)` is the
            winner at each. None leaves the number to the objective.
        direction: "maximize" or "minimize" the score; by default the objective's own, else
            maximize.
        baselines: schedules to beat, such as the one in use; the first one stays unless a candidate
            is shown to be better.
        bounds: smallest and largest a and b, searched on a logarithmic scale.
        max_passes: for "schedule+commit", the mean passes that the winner may spend, and the steps
            of the baseline that it is compared with; by default `steps`.
        multi_objective: search for the Pareto front over `steps` instead of their mean.
        screening: instances in the first round. Each later round uses twice as many instances and
            a third of the candidates.
        held_out: share of the instances reserved for the check, in [0, 0.9]. Of the others, one in
            four is reserved for the report if these are 10 or more. Instances that share a prompt
            stay together. With 0 nothing is checked: the best on the instances that chose wins.
        confidence: confidence level of the check, in [0.5, 1): a one-sided paired t-test over
            prompts, 10 of them at least. Verdicts on several numbers of steps share it
            (Bonferroni). Default: 0.95. An objective without instances is taken at its word.
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
    checked, space = CheckedObjective(objective, direction), check_space(space)
    method = check_method(method if method is not None else DEFAULT_METHODS.get(space, "tpe"))
    counts = check_steps(checked, steps)
    if max_passes is not None:
        counts = check_passes(space, max_passes, counts)
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
        if not share:
            raise InvalidValueError(
                "without held-out instances there is no confidence; give held_out=0.5, or leave "
                "out confidence="
            )
    if multi_objective and method == "cmaes":
        raise InvalidValueError(
            "cmaes has one objective; use method='tpe' or 'gp' with multi_objective"
        )
    if multi_objective and len(counts) < 2:
        raise InvalidValueError(
            "multi_objective needs several numbers of steps, such as steps=[8, 16, 32]"
        )
    where = check_fit(
        checked,
        make_space(space, method, limits, counts, checked.remasking, checked.num_tokens),
        method,
        multi_objective,
    )
    # Report a missing extra before any work starts.
    optuna_module()
    # --- what is compared, on which instances, and where scores are kept
    base = proposals.baselines(baselines)
    # The seed alone decides the split, so every worker and every later run uses the same one.
    parts = split(checked, share, seed)
    kept, lasting = open_storage(storage)
    book = ScoreBook(checked, parts)
    book.unchecked = share == 0
    limit = None if counts[0] is None or not where.saves else float(max_passes or counts[0])
    # Few instances make the first round the only one.
    first = min(first, book.size("select"))
    with _quiet_optuna(), _keeping(lambda: list_trials(book, counts, first)):
        study = optuna_module().create_study(
            storage=kept,
            study_name=study_name,
            load_if_exists=True,
            directions=[checked.direction] * (len(counts) if multi_objective else 1)
            + ["minimize"] * where.saves,
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
        # Only a space of its own is written down, so that studies from before still open.
        settings |= {} if space == "schedule" else {"space": space}
        # Scores of another objective, seed or split must not be mixed into this study.
        check_same(study, settings)
        # A storage in memory ends with this process, so copies of the scores would be useless.
        if lasting:
            book.keep_in(
                lambda name: kept.get_study_user_attrs(study._study_id).get(name),
                lambda name, value: kept.set_study_user_attr(study._study_id, name, value),
            )
        found = [*base, *proposals.usual(counts, checked.sampler.get("remasking"))]
        if limit is not None:
            found += proposals.fewer_steps(base[0], counts[0])

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
                    where,
                    counts,
                    first,
                    multi_objective,
                    race,
                    trials.update,
                    limit,
                ).run(n_jobs)
                states = optuna_module().trial.TrialState
                # Trials of other workers and of earlier runs compete as well.
                whole = study.get_trials(deepcopy=False, states=(states.COMPLETE,))
                for trial in whole:
                    one = where.read(trial.params)
                    found.append(Candidate(one.schedule, f"trial {trial.number}", one.options))
        # --- a winner over all numbers of steps, then one at each
        choices = {}
        groups = [counts] if len(counts) == 1 else [counts, *([count] for count in counts)]
        # Each verdict may be wrong by chance; together they are wrong as rarely as asked.
        level = 1 - (1 - (SURE if confidence is None else confidence)) / len(groups)
        for group in groups:
            challenger = shortlist(found, book, group, first, bar=bar, limit=limit)[0]
            choice = check(challenger, base[0], book, group, level, bar, limit)
            choices[choice.steps] = _known_order(choice, base[0], book)
        trials_done = list_trials(book, counts, first, profile)
        result = TuningResult(
            choices, trials_done, checked, method, book, profile, limits, base[0], space
        )
        if limit is not None:
            _check_front(result, book, counts, bar)
    return result


def _known_order(choice: Choice, baseline: Candidate, book: ScoreBook) -> Choice:
    """Keep the baseline where one number alone speaks for a prediction for another order.

    A profile predicts random order; for any other order its prediction has to prove itself.
    """
    foretold = choice.challenger.origin.startswith(proposals.PREDICTED)
    if choice.finding != "one number" or not foretold or book.objective.random_order:
        return choice
    return replace(
        choice,
        finding="no difference",
        schedule=baseline.schedule,
        origin=baseline.origin,
        score=choice.baseline,
        standard_error=choice.baseline_standard_error,
        extras=choice.baseline_extras,
    )


def _check_front(
    result: TuningResult, book: ScoreBook, steps: Sequence[int | None], bar: Bar
) -> None:
    """Score what is on the front on held-out instances too, in pairs with the baseline."""
    if "held_out" not in book.parts:
        return
    candidates = [
        Candidate(point.schedule, point.origin, point.options) for point in result.front()
    ]
    for candidate in bar(candidates, "checking the front"):
        for count in steps:
            whole = book.size("held_out")
            book.extend("held_out", candidate.decoding, count, whole, candidate.origin)


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
