"""What an objective of tuning is, with every attribute that it may have.

A new objective is a class beside this one, or a function: nothing needs to be registered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdm_schedules.errors import InvalidValueError
from mdm_schedules.sampling import get_policy, policies
from mdm_schedules.schedules import Schedule


@dataclass(frozen=True)
class Scores:
    """The answer of an objective that says more than one number.

    Attributes:
        values: one score per instance, finite.
        extras: what else was measured, shown beside the score (diversity beside a likelihood, say).
        passes: forward passes of the model, counting every sequence of a batch.
    """

    values: Sequence[float]
    extras: Mapping[str, float] = field(default_factory=dict)
    passes: int = 0


class Objective(ABC):
    """schedule -> score. `tune` takes any callable; deriving from this class adds the defaults.

    A callable that takes keywords `steps` or `instances` is given the number of steps, or the
    indices (a list of ints in [0, num_instances)) to score.

    Attributes:
        name: of the task, for reports and the Hub.
        metric_name: what the score is called.
        direction: "maximize" or "minimize" the score; None leaves it to `tune`.
        num_instances: how many there are; None for an objective without instances.
        batch_size: instances that are asked for at once.
        asked_together: ask for a whole round at once (diversity is of many texts).
        steps: forward passes, where `tune` is given none.
        model_name: Hub id or folder name of the model, for the Hub.
    """

    name: str = ""
    metric_name: str = "score"
    direction: str | None = None
    num_instances: int | None = None
    batch_size: int = 32
    asked_together: bool = False
    steps: int | None = None
    model_name: str | None = None

    @property
    def remasking(self) -> str | None:
        """Name of the position policy; None where none is used."""
        return None

    @property
    def random_order(self) -> bool:
        """Whether that order is random, so that an information profile predicts the score."""
        return is_random_order(self.remasking)

    @property
    def sampler(self) -> dict[str, Any]:
        """Options of `generate` that were used, for the Hub."""
        return {}

    @property
    def settings(self) -> dict[str, Any]:
        """What a study that goes on is compared with, as JSON."""
        return {}

    @abstractmethod
    def __call__(self, schedule: Schedule) -> float | Sequence[float] | Scores:
        """The score of a schedule: a number, one per instance, or Scores."""

    def plan_key(self, schedule: Schedule, steps: int | None) -> str | None:
        """Equal for schedules that the objective cannot tell apart; None compares their specs."""
        return None

    # `estimate_profile(instances=None)`, if there is one, lets `tune(method="profile")` measure
    estimate_profile: Any = None


def is_random_order(remasking: str | None) -> bool:
    """What the policy of that name says; False where none is known."""
    return remasking in policies and get_policy(str(remasking)).random_order


def needed_steps(given: int | None, default: int | None, example: str) -> int:
    """The number of steps asked for, else the objective's own."""
    steps = default if given is None else given
    if steps is None:
        raise InvalidValueError(
            f"the objective needs a number of steps: {example}, or tune(..., steps=16)"
        )
    return steps


def model_name(model: Any) -> str | None:
    """The Hub id that a model was loaded by, or the name of its folder; None if neither is
    known.
    """
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    if not name:
        return None
    return Path(name).resolve().name if Path(name).exists() else str(name)
