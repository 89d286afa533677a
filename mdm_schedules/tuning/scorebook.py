"""Checks a user's objective and records every score, so that nothing is sampled twice or lost."""

from __future__ import annotations

import hashlib
import inspect
import math
import numbers
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mdm_schedules.checks import check_int, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, ObjectiveError
from mdm_schedules.schedules import Schedule
from mdm_schedules.tuning.decoding import Decoding, as_decoding
from mdm_schedules.tuning.objectives.base import Scores, is_random_order

DIRECTIONS = ("maximize", "minimize")


class CheckedObjective:
    """Wraps a user's objective: validates it once, and every score it returns.

    Args:
        objective: schedule -> score; see `Objective` for its optional attributes.
        direction: "maximize" or "minimize"; None takes the objective's own, else "maximize".

    Raises:
        InvalidTypeError, InvalidValueError: not an objective; the message names the missing part.
    """

    def __init__(self, objective: Any, direction: str | None = None) -> None:
        if not callable(objective):
            raise InvalidTypeError(
                f"the objective must be a function schedule -> score, got {shown(objective)}; for "
                "example tune(lambda schedule: score(schedule), n_trials=50)"
            )
        self.objective = objective
        own = self._read("direction")
        for given in (direction, own):
            if given is not None and given not in DIRECTIONS:
                raise InvalidValueError(
                    f"direction must be 'maximize' or 'minimize', got {shown(given)}"
                )
        if direction is not None and own is not None and direction != own:
            raise InvalidValueError(
                f"the objective is to {own} its score, but direction={direction!r} was asked for"
            )
        self.direction = direction or own or "maximize"
        self.sign = 1.0 if self.direction == "maximize" else -1.0
        # Callables written in C have no signature; they are called with the schedule alone.
        try:
            parameters = dict(inspect.signature(objective).parameters)
        except (TypeError, ValueError):
            parameters = {}
        # Plain functions schedule -> score must work, so keywords are passed only if declared.
        self.takes_steps = "steps" in parameters
        # Without instances no schedule can be dropped early or checked on held-out data.
        self.takes_instances = "instances" in parameters
        # Without them only the schedule can be tuned.
        self.takes_options = "options" in parameters
        self._spread_options = (
            self.takes_options and parameters["options"].kind is inspect.Parameter.VAR_KEYWORD
        )
        self.num_instances: int | None = None
        if self.takes_instances:
            count = self._read("num_instances")
            if count is None and parameters["instances"].default is inspect.Parameter.empty:
                raise InvalidTypeError(
                    "an objective that takes `instances` must have an attribute num_instances"
                )
            self.num_instances = None if count is None else check_int("num_instances", count, 0)
            if self.num_instances == 0:
                raise InvalidValueError("the objective has no instances to score a schedule on")
        self.clusters = self._clusters()
        for about in ("sampler", "settings"):
            if not isinstance(self._read(about, {}), Mapping):
                raise InvalidTypeError(
                    f"{about} of an objective must be a dict, got {shown(self._read(about))}"
                )
        if self.num_tokens is not None:
            check_int("num_tokens of the objective", self.num_tokens, 1)
        self.batch_size = check_int("batch_size", self._read("batch_size") or 32, 1)
        # Measures such as diversity describe many texts at once, so no batch may split a round.
        if self._read("asked_together") and self.num_instances:
            self.batch_size = self.num_instances
        self.name = str(
            self._read("name") or getattr(objective, "__qualname__", type(objective).__name__)
        )
        self.metric = str(self._read("metric_name") or "score")
        for name in ("plan_key", "estimate_profile"):
            if self._read(name) is not None and not callable(self._read(name)):
                raise InvalidTypeError(f"{name} of an objective must be a method or None")

    def _clusters(self) -> list[Hashable] | None:
        given = self._read("clusters")
        if given is None or self.num_instances is None:
            return None
        if not isinstance(given, Iterable) or isinstance(given, str):
            raise InvalidTypeError(
                "clusters of an objective must be a list that names one for each instance, got "
                f"{shown(given)}"
            )
        clusters = list(given)
        if len(clusters) != self.num_instances:
            raise InvalidValueError(
                f"clusters of an objective must name one for each of its {self.num_instances} "
                f"instances, got {len(clusters)}"
            )
        return clusters if len(set(clusters)) < len(clusters) else None

    def _read(self, name: str, default: Any = None) -> Any:
        """An attribute of the objective, or the default where it has none."""
        return getattr(self.objective, name, default)

    @property
    def steps(self) -> int | None:
        """See `Objective`."""
        steps: int | None = self._read("steps")
        return steps

    @property
    def remasking(self) -> str | None:
        """See `Objective`."""
        name: str | None = self._read("remasking")
        return name

    @property
    def random_order(self) -> bool:
        """See `Objective`."""
        given = self._read("random_order")
        return is_random_order(self._read("remasking")) if given is None else bool(given)

    @property
    def model_name(self) -> str | None:
        """See `Objective`."""
        name: str | None = self._read("model_name")
        return name

    @property
    def sampler(self) -> Mapping[str, Any]:
        """See `Objective`."""
        sampler: Mapping[str, Any] = self._read("sampler", {})
        return sampler

    @property
    def estimate_profile(self) -> Callable[..., Any] | None:
        """See `Objective`; None if no profile can be measured."""
        estimate: Callable[..., Any] | None = self._read("estimate_profile")
        return estimate

    @property
    def settings(self) -> dict[str, Any]:
        """The objective's own settings, compared when a study is resumed."""
        about = {"name": self.name, "num_instances": self.num_instances}
        return about | dict(self._read("settings", {}))

    @property
    def num_tokens(self) -> int | None:
        """See `Objective`."""
        number: int | None = self._read("num_tokens")
        return number

    def key(self, decoding: Schedule | Decoding, steps: int | None) -> str:
        """A text that is equal for decodings with equal scores."""
        one = as_decoding(decoding)
        same = getattr(self.objective, "plan_key", None)
        found = same(one.schedule, one.steps(steps)) if same is not None else None
        key = one.schedule.spec if found is None else str(found)
        return key + "".join(f", {name}={value!r}" for name, value in one.options)

    def __call__(
        self,
        decoding: Schedule | Decoding,
        steps: int | None,
        instances: Sequence[int] | None,
    ) -> Scores:
        """Scores of the given instances.

        Raises:
            ObjectiveError: the objective raised, or returned something that is not a score.
        """
        one = as_decoding(decoding)
        schedule, steps = one.schedule, one.steps(steps)
        options: dict[str, Any] = {}
        if steps is not None:
            options["steps"] = steps
        if instances is not None:
            # A copy: the user's function may change its argument.
            options["instances"] = list(instances)
        if one.given:
            options |= one.given if self._spread_options else {"options": one.given}
        try:
            answer = self.objective(schedule, **options)
        except Exception as error:
            raise ObjectiveError(
                f"the objective failed for {shown(schedule)}: {type(error).__name__}: {error}"
            ) from error
        # Users may return a number or a list; the book knows Scores only.
        if not isinstance(answer, Scores):
            answer = Scores(answer if _is_many(answer) else [answer])
        for name, wanted, given in (
            ("values", "a list of scores", _is_many(answer.values)),
            ("extras", "a dict of numbers", isinstance(answer.extras, Mapping)),
            ("nfe", "a list of passes", _is_many(answer.nfe)),
        ):
            if not given:
                raise ObjectiveError(
                    f"{name} of the objective's Scores must be {wanted}, got "
                    f"{shown(getattr(answer, name))} for {shown(schedule)}"
                )
        values = [self._number(value, schedule) for value in answer.values]
        if not values or (instances is not None and len(values) != len(instances)):
            wanted = "at least one score" if instances is None else f"{len(instances)} scores"
            raise ObjectiveError(
                f"the objective must give {wanted} for {shown(schedule)}, got {len(values)}"
            )
        nfe = [self._passes(number, schedule) for number in answer.nfe]
        if nfe and len(nfe) != len(values):
            raise ObjectiveError(
                f"the objective must give passes (nfe) for each of {len(values)} scores, got "
                f"{len(nfe)}"
            )
        return Scores(
            values,
            {name: self._number(value, schedule) for name, value in answer.extras.items()},
            answer.passes,
            nfe,
        )

    def _passes(self, value: Any, schedule: Schedule) -> float:
        """Passes of one instance: 0 where nothing was masked."""
        try:
            number = math.nan if isinstance(value, str | bytes) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number) and number >= 0:
            return number
        raise ObjectiveError(
            f"the objective must give passes (nfe) that are finite numbers >= 0, got "
            f"{shown(value)} for {shown(schedule)}"
        )

    def _number(self, value: Any, schedule: Schedule) -> float:
        """A finite score, or the infinitely bad one, which linear's energy under gamma = t is."""
        if isinstance(value, numbers.Number) or getattr(value, "ndim", None) == 0:
            try:
                number = float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError, OverflowError):
                number = math.nan
            if math.isfinite(number) or number == -self.sign * math.inf:
                return number
        raise ObjectiveError(
            f"the objective must give finite numbers (or {-self.sign * math.inf} for the worst), "
            f"got {shown(value)} "
            f"for {shown(schedule)}"
        )


def _is_many(answer: Any) -> bool:
    return (
        isinstance(answer, Iterable)
        and not isinstance(answer, str | bytes)
        and getattr(answer, "ndim", 1) != 0
    )


@dataclass
class Entry:
    """The scores of one decoding at one number of steps, for the first instances of the study.

    `nfe` has the forward passes of each instance, and is empty where the objective gives none.
    """

    values: list[float] = field(default_factory=list)
    extras: dict[str, float] = field(default_factory=dict)
    passes: int = 0
    nfe: list[float] = field(default_factory=list)

    def add(self, more: Scores) -> Entry:
        """A new entry with the scores of the next instances; extras are averaged over all."""
        # Extras are means over their instances, hence weighted by instances.
        before, new = len(self.values), len(more.values)
        extras = {
            name: (self.extras.get(name, value) * before + value * new) / (before + new)
            for name, value in more.extras.items()
        }
        nfe = [*self.nfe, *more.nfe] if len(self.nfe) == before else []
        return Entry([*self.values, *more.values], extras, self.passes + more.passes, nfe)


class ScoreBook:
    """Every score of a study: requests missing ones from the objective and records each at once.

    Args:
        objective: the objective to call.
        parts: name -> indices of a disjoint set of instances, in the order they are scored; None
            for an objective without instances.
    """

    def __init__(
        self, objective: CheckedObjective, parts: Mapping[str, Sequence[int] | None]
    ) -> None:
        self.objective, self.parts = objective, parts
        # Whether the caller did without held-out instances, rather than had too few.
        self.unchecked = "held_out" not in parts
        self._read: Callable[[str], Any] = lambda name: None
        self._write: Callable[[str, Any], None] = lambda name, value: None
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()
        self.passes = 0  # spent by this process
        self.origins: dict[Decoding, str] = {}  # of every decoding that was scored

    def keep_in(self, read: Callable[[str], Any], write: Callable[[str, Any], None]) -> None:
        """Also keep scores in a storage, name -> JSON, which several workers may share."""
        self._read, self._write = read, write

    def _name(self, part: str, decoding: Schedule | Decoding, steps: int | None) -> str:
        # Keyed by content, not by trial: workers that propose equal schedules share their scores.
        digest = hashlib.sha256(self.objective.key(decoding, steps).encode()).hexdigest()[:24]
        return f"scores/{part}/{steps}/{digest}"

    def entry(self, part: str, decoding: Schedule | Decoding, steps: int | None) -> Entry:
        """The scores known to this process."""
        return self._entries.get(self._name(part, decoding, steps)) or Entry()

    def size(self, part: str) -> int:
        """Number of instances of a part; 1 for an objective without instances."""
        indices = self.parts[part]
        return 1 if indices is None else len(indices)

    def clusters(self, part: str) -> list[Hashable] | None:
        """The cluster of each instance of a part; None if each is its own."""
        named, indices = self.objective.clusters, self.parts[part]
        if named is None or indices is None or self.one_prompt:
            return None
        return [named[index] for index in indices]

    @property
    def one_prompt(self) -> bool:
        """Whether all instances share one prompt, so that nothing is known of other prompts."""
        named = self.objective.clusters
        return named is not None and len(set(named)) == 1

    def recall(
        self, part: str, decoding: Schedule | Decoding, steps: int | None, origin: str
    ) -> Entry:
        """The known scores, including those of other workers and of earlier runs."""
        self.origins.setdefault(as_decoding(decoding), origin)
        name = self._name(part, decoding, steps)
        entry, stored = self._entries.get(name) or Entry(), self._read(name)
        # Instances are scored in one fixed order, so the longer list contains the shorter one. A
        # study of an earlier version may have chosen on more instances than this part now has.
        if stored is not None and len(stored["values"]) > len(entry.values):
            whole = self.size(part)
            entry = self._entries[name] = Entry(
                stored["values"][:whole],
                stored["extras"],
                stored["passes"],
                stored.get("nfe", [])[:whole],
            )
        return entry

    def extend(
        self,
        part: str,
        decoding: Schedule | Decoding,
        steps: int | None,
        upto: int,
        origin: str = "",
    ) -> Entry:
        """Scores of the first `upto` instances of a part, measured and recorded where missing."""
        # Look into the shared storage only if this process knows too little.
        name, indices = self._name(part, decoding, steps), self.parts[part]
        entry = self.entry(part, decoding, steps)
        if len(entry.values) < (1 if indices is None else upto):
            entry = self.recall(part, decoding, steps, origin)
        else:
            self.origins.setdefault(as_decoding(decoding), origin)
        while len(entry.values) < (1 if indices is None else upto):
            wanted = (
                None
                if indices is None
                else indices[len(entry.values) : upto][: self.objective.batch_size]
            )
            # One batch at a time, each recorded at once: a killed run loses at most one batch.
            answer = self.objective(decoding, steps, wanted)
            entry = self._entries[name] = entry.add(answer)
            with self._lock:
                self.passes += answer.passes
            self._write(name, asdict(entry))
        return entry
