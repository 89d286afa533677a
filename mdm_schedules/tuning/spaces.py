"""Where tuning searches: (a, b), with remasking or commit rules beside it, or whole plans."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, ClassVar

import numpy as np

from mdm_schedules.checks import did_you_mean, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from mdm_schedules.sampling import get_commit, get_policy
from mdm_schedules.schedules import Beta, Cosine, Schedule, Sine, Tabulated
from mdm_schedules.tuning.decoding import Decoding

GRID = tuple(round(0.1 * i, 1) for i in range(1, 11))  # of a and of b: the paper's, App. E.1
# linear, squared sine, what the paper found best on its tasks, and one that reveals much early
# (orders by confidence)
START = ((0.5, 0.5), (1.0, 1.0), (0.9, 0.3), (1.0, 0.2), (0.9, 0.9), (0.3, 0.3), (0.35, 0.7))
PIECES = 16  # of a searched plan, at most: each reveals a share of the tokens
WAVES = 5  # cosines that the logits of the shares are sums of, at most
REACH = 4.0  # their heights lie in [-REACH, REACH]
LEAST_SHARE = 1e-4  # of all tokens in a piece, so that a plan stays a schedule
SEEN_SHARE = 3e-3  # smaller shares of a given schedule count as this: their logits say little

Params = Mapping[str, Any]


class Space(ABC):
    """What is searched: parameters of a trial of Optuna <-> a decoding.

    Attributes:
        name: as `tune(space=...)` takes it.
        saves: whether decodings may spend fewer passes than their steps, so that the passes are a
            second axis.
    """

    name: ClassVar[str]
    saves: ClassVar[bool] = False

    @abstractmethod
    def suggest(self, trial: Any) -> None:
        """Ask the trial for every parameter."""

    @abstractmethod
    def read(self, params: Params) -> Decoding:
        """The decoding of a trial's parameters."""

    @abstractmethod
    def points(self) -> list[dict[str, Any]]:
        """What is tried before the sampler proposes anything."""


class ScheduleSpace(Space):
    """(a, b) of a Beta, on a logarithmic scale; or the paper's grid."""

    name = "schedule"

    def __init__(self, bounds: tuple[float, float], grid: bool = False) -> None:
        self.bounds, self.grid = bounds, grid

    def suggest(self, trial: Any) -> None:
        """See `Space.suggest`."""
        low, high = self.bounds
        # Wider where the grid asks for it.
        ends = (min(low, GRID[0]), max(high, GRID[-1])) if self.grid else (low, high)
        for name in ("a", "b"):
            trial.suggest_float(name, *ends, log=True)

    def read(self, params: Params) -> Decoding:
        """(a, b) to four digits, as they are written in the spec."""
        return Decoding(Beta(*(float(f"{params[name]:.4g}") for name in ("a", "b"))))

    def points(self) -> list[dict[str, Any]]:
        """See `Space.points`."""
        low, high = self.bounds
        inside = [point for point in START if low <= min(point) and max(point) <= high]
        # narrow bounds hold none of the usual pairs; their middle is then where a search begins
        inside = inside or [(math.sqrt(low * high),) * 2]
        return [{"a": a, "b": b} for a, b in (product(GRID, GRID) if self.grid else inside)]


class RemaskSpace(ScheduleSpace):
    """(a, b), the share of revealed tokens that each pass masks again, and which it takes."""

    name = "schedule+remask"
    starts = (0.0, 0.3, 0.3, 0.15, 0.3, 0.1, 0.2)

    def suggest(self, trial: Any) -> None:
        """See `Space.suggest`."""
        super().suggest(trial)
        trial.suggest_float("remask_fraction", 0.0, 0.9)
        trial.suggest_categorical("remask", ["uniform", "confidence"])

    def read(self, params: Params) -> Decoding:
        """See `Space.read`."""
        fraction = round(params["remask_fraction"], 2)
        options = {"remask_fraction": fraction, "remask": params["remask"]} if fraction else {}
        return Decoding.of(super().read(params).schedule, options)

    def points(self) -> list[dict[str, Any]]:
        """Each schedule with a fraction, and linear with none and with 30 %."""
        found = super().points()
        kinds = ["uniform", "confidence"]
        rows = [
            {**point, "remask_fraction": self.starts[i % len(self.starts)], "remask": kinds[i % 2]}
            for i, point in enumerate(found)
        ]
        return [*rows, *({**found[0], "remask_fraction": 0.3, "remask": kind} for kind in kinds)]


#: rule -> its parameters, as (name of the trial's parameter, low, high, logarithmic), and a start
RULES: dict[str, tuple[tuple[tuple[str, float, float, bool], ...], tuple[float, ...]]] = {
    "threshold": ((("threshold", 0.5, 0.99, False),), (0.9,)),
    "entropy_bound": ((("entropy_bound", 0.005, 2.0, True),), (0.1,)),
    "factor": ((("factor", 0.1, 3.0, True),), (1.0,)),
    "klass": (
        (("klass_confidence", 0.3, 0.95, False), ("klass_kl", 0.001, 0.3, True)),
        (0.6, 0.01),
    ),
    "local_leap": ((("anchor", 0.7, 0.99, False), ("relaxed", 0.4, 0.9, False)), (0.9, 0.75)),
}
STRETCHES = (1.0, 1.5, 2.0, 3.0)  # steps of a rule over the steps that were tuned for


class CommitSpace(ScheduleSpace):
    """(a, b), a commit rule with its parameters, and the bound on the passes.

    Args:
        bounds: smallest and largest a and b.
        order: name of the position policy; rules that read another are left out.
        steps: number of steps that is tuned for. A rule saves passes of those that the plan asks
            for, so plans of more steps are tried with it.
    """

    name = "schedule+commit"
    saves = True

    def __init__(self, bounds: tuple[float, float], order: str | None, steps: int) -> None:
        super().__init__(bounds)
        self.steps, self.rules = steps, fitting_rules(order)
        if not self.rules:
            raise InvalidValueError(
                f"no commit rule reads the order {shown(order)}; give the objective "
                "remasking='low_confidence', or take another space"
            )

    def suggest(self, trial: Any) -> None:
        """See `Space.suggest`."""
        super().suggest(trial)
        trial.suggest_categorical("stretch", list(STRETCHES))
        rule = trial.suggest_categorical("rule", self.rules)
        for name, low, high, log in RULES[rule][0]:
            trial.suggest_float(name, low, high, log=log)

    def read(self, params: Params) -> Decoding:
        """See `Space.read`."""
        rule, values = params["rule"], dict(params)
        if "relaxed" in values:  # LocalLeap's second threshold lies below its first
            values["relaxed"] = min(values["relaxed"], values["anchor"])
        numbers = [f"{values[name]:.3g}" for name, *_ in RULES[rule][0]]
        steps = math.ceil(params["stretch"] * self.steps)
        options = {"commit": f"{rule}({', '.join(numbers)})", "steps": steps}
        return Decoding.of(super().read(params).schedule, options)

    def points(self) -> list[dict[str, Any]]:
        """Each rule as its authors run it, over linear, with as many steps as were asked for."""
        starts = {
            rule: dict(zip([name for name, *_ in form], start, strict=True))
            for rule, (form, start) in RULES.items()
        }
        first = super().points()[0]
        return [
            {**first, "stretch": stretch, "rule": rule, **starts[rule]}
            for stretch in (2.0, 1.0)
            for rule in self.rules
        ]


def fitting_rules(order: str | None) -> list[str]:
    """The commit rules of RULES that are installed and read the scores of an order."""
    found = []
    for rule, (_, start) in RULES.items():
        try:
            get_commit(f"{rule}({', '.join(map(str, start))})").check(
                get_policy(order or "low_confidence"), 0.0
            )
        except (UnknownNameError, InvalidValueError):
            continue
        found.append(rule)
    return found


class PlanSpace(Space):
    """Whole plans: the logits of the shares in a few pieces, as a sum of cosines.

    Good plans change little from one piece to the next, so that slow waves matter most: the j-th
    has 1/j of the first one's height for the same parameter.
    """

    name = "plan"

    def __init__(self, steps: int | None, num_tokens: int | None = None) -> None:
        self.pieces = min(PIECES, steps or PIECES, num_tokens or PIECES)
        if self.pieces < 2:
            raise InvalidValueError(
                f"space='plan' needs 2 steps and 2 tokens at least, got steps={steps}; in one step "
                "there is one plan"
            )
        wave = np.arange(1, min(WAVES, self.pieces - 1) + 1)[:, None]
        middle = (np.arange(self.pieces) + 0.5) / self.pieces
        self.waves = np.cos(np.pi * wave * middle) / wave

    @property
    def names(self) -> list[str]:
        """Of the parameters, one for each wave."""
        return [f"wave {i + 1}" for i in range(len(self.waves))]

    def suggest(self, trial: Any) -> None:
        """See `Space.suggest`."""
        for name in self.names:
            trial.suggest_float(name, -REACH, REACH)

    def read(self, params: Params) -> Decoding:
        """See `Space.read`."""
        shares = np.exp(np.array([params[name] for name in self.names]) @ self.waves)
        shares = np.maximum(shares / shares.sum(), LEAST_SHARE)
        alpha = np.cumsum(shares / shares.sum()).round(5)
        return Decoding(Tabulated([0.0, *alpha[:-1].tolist(), 1.0]))

    def points(self) -> list[dict[str, Any]]:
        """Linear, the plans of the usual Betas, sine and cosine."""
        return [self.point(one) for one in (*(Beta(*pair) for pair in START), Sine(), Cosine())]

    def point(self, schedule: Schedule) -> dict[str, float]:
        """The heights nearest to a schedule."""
        even = np.arange(self.pieces + 1) / self.pieces
        shares = np.diff([schedule.alpha(float(t)) for t in even])
        heights = np.log(np.maximum(shares, SEEN_SHARE)) @ np.linalg.pinv(self.waves)
        return dict(zip(self.names, np.clip(heights, -REACH, REACH).tolist(), strict=True))


SPACES = ("schedule", "schedule+remask", "schedule+commit", "plan")


def check_space(space: Any) -> str:
    """A name of SPACES."""
    if not isinstance(space, str):
        raise InvalidTypeError(f"space must be one of {', '.join(SPACES)}, got {shown(space)}")
    if space not in SPACES:
        raise UnknownNameError(f"no space is named {shown(space)}.{did_you_mean(space, SPACES)}")
    return space


def make_space(
    name: str,
    method: str,
    bounds: tuple[float, float],
    steps: Sequence[int | None],
    order: str | None,
    num_tokens: int | None,
) -> Space:
    """The space of that name, for an objective in an order.

    Raises:
        InvalidValueError: a space or method that does not fit the others.
    """
    if name == "schedule":
        return ScheduleSpace(bounds, grid=method == "grid")
    if len(steps) > 1:
        raise InvalidValueError(
            f"space={name!r} tunes one number of steps at a time, got {list(steps)}; call tune "
            "once for each"
        )
    if name == "plan":
        return PlanSpace(steps[0], num_tokens)
    if name == "schedule+remask":
        return RemaskSpace(bounds)
    if steps[0] is None:
        raise InvalidValueError("space='schedule+commit' needs a number of steps: steps=16")
    return CommitSpace(bounds, order, steps[0])
