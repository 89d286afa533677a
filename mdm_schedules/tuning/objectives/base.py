"""The interface of a tuning objective, with all its optional attributes.

A new objective is a class beside this one, or a function; no registration is needed.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdm_schedules.errors import InvalidValueError
from mdm_schedules.sampling import get_policy, policies
from mdm_schedules.schedules import Schedule


@dataclass(frozen=True)
class Scores:
    """An objective's return value, for more than a single number.

    Attributes:
        values: one finite score per instance.
        extras: further measurements, shown beside the score (diversity beside a likelihood, say).
        passes: forward passes of the model, counting every sequence of a batch.
        nfe: forward passes of each instance; empty where they are not known. Commit rules are tuned
            by them.
    """

    values: Sequence[float]
    extras: Mapping[str, float] = field(default_factory=dict)
    passes: int = 0
    nfe: Sequence[float] = ()


class Objective(ABC):
    """A function schedule -> score, with defaults for every attribute that `tune` reads.

    `tune` accepts any callable; deriving from this class is optional. A callable that takes the
    keywords `steps` or `instances` receives the number of steps, or the indices to score (a list
    of ints in [0, num_instances)). One that takes `options` can be tuned in every space: it
    receives options of `generate`, such as {"commit": "threshold(0.9)"}.

    Attributes:
        name: name of the task, for reports and the Hub.
        metric_name: name of the score.
        direction: "maximize" or "minimize" the score; None leaves it to `tune`.
        num_instances: number of instances; None for an objective without instances.
        clusters: of each instance, what it shares with others (its prompt, say); errors are by
            cluster. None makes each instance its own.
        batch_size: instances per call.
        asked_together: score a whole round in one call (diversity describes many texts).
        steps: forward passes, if `tune` is given none.
        num_tokens: tokens that a plan reveals, to print plans; None where instances differ.
        model_name: Hub id or folder name of the model, for the Hub.
    """

    name: str = ""
    metric_name: str = "score"
    direction: str | None = None
    num_instances: int | None = None
    clusters: Sequence[Hashable] | None = None
    batch_size: int = 32
    asked_together: bool = False
    steps: int | None = None
    num_tokens: int | None = None
    model_name: str | None = None

    @property
    def remasking(self) -> str | None:
        """Name of the position policy; None where none is used."""
        return None

    @property
    def random_order(self) -> bool:
        """Whether `remasking` reveals in random order, so that an information profile applies."""
        return is_random_order(self.remasking)

    @property
    def sampler(self) -> dict[str, Any]:
        """Options passed to `generate`, for the Hub."""
        return {}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings, as JSON, that a resumed study must share."""
        return {}

    @abstractmethod
    def __call__(self, schedule: Schedule) -> float | Sequence[float] | Scores:
        """The score of a schedule: a number, one per instance, or Scores."""

    def plan_key(self, schedule: Schedule, steps: int | None) -> str | None:
        """Equal for schedules that score alike by construction; None compares their specs."""
        return None

    # A method `estimate_profile(instances=None)` lets `tune(method="profile")` measure a profile.
    # None is the default, since most objectives know no model.
    estimate_profile: Any = None


def is_random_order(remasking: str | None) -> bool:
    """Whether the named policy reveals in random order; False for an unknown name."""
    # An unknown order is treated as not random: a prediction then has to prove itself.
    return remasking in policies and get_policy(str(remasking)).random_order


def needed_steps(given: int | None, default: int | None, example: str) -> int:
    """The given number of steps, or else the objective's own."""
    # A number given to `tune` takes precedence over the objective's own.
    steps = default if given is None else given
    if steps is None:
        raise InvalidValueError(
            f"the objective needs a number of steps: {example}, or tune(..., steps=16)"
        )
    return steps


def model_name(model: Any) -> str | None:
    """The Hub id a model was loaded from, or the name of its folder; None if neither is known."""
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    if not name:
        return None
    # A local path is useless to other people and may reveal a user's name.
    return Path(name).resolve().name if os.path.exists(name) else str(name)
