"""Commit rules: reveal more than the plan asks where the model is sure; the plan is the least.

A new one is a class with a `name`, and an entry point in the group `mdm_schedules.commits`. Its
parameters are those of its constructor, so `commit="threshold(0.9)"` works.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from mdm_schedules.checks import check_real, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.registry import Entry, Registry
from mdm_schedules.sampling.policies import PositionPolicy


class CommitRule(ABC):
    """Says how many of the best-scored positions a pass reveals.

    Attributes:
        name: how it is asked for.
        policy: the policy whose scores it reads; None for any that looks at the model.
    """

    name: ClassVar[str]
    policy: ClassVar[str | None] = None

    @abstractmethod
    def count(self, scores: torch.Tensor) -> torch.Tensor:
        """Tokens to reveal, LongTensor [B].

        Args:
            scores: [B, W], the policy's scores in falling order, -inf where nothing is masked.
        """

    def check(self, policy: PositionPolicy, remask_fraction: float) -> None:
        """Raise InvalidValueError where the rule does not fit the other options."""
        if self.policy is not None and policy.name != self.policy:
            raise InvalidValueError(
                f"{self.name} needs remasking={self.policy!r}, got {policy.name!r}"
            )
        if remask_fraction:
            raise InvalidValueError(f"give {self.name} or remask_fraction, not both")


@dataclass(frozen=True)
class Threshold(CommitRule):
    """Every token whose probability is above `threshold`, in [0, 1]; at 1 there is none."""

    threshold: float
    name: ClassVar[str] = "threshold"
    policy: ClassVar[str | None] = "low_confidence"

    def __post_init__(self) -> None:
        check_real("threshold", self.threshold, 0, 1)

    def count(self, scores: torch.Tensor) -> torch.Tensor:
        """See `CommitRule.count`."""
        return (scores > self.threshold).sum(1)


@dataclass(frozen=True)
class EntropyBound(CommitRule):
    """The surest tokens whose joint entropy stays in a bound (arXiv 2505.24857).

    They are revealed as long as the sum of their entropies without the largest stays at or below
    `entropy_bound`, in nats, >= 0.
    """

    entropy_bound: float
    name: ClassVar[str] = "entropy_bound"
    policy: ClassVar[str | None] = "entropy"

    def __post_init__(self) -> None:
        check_real("entropy_bound", self.entropy_bound, 0)

    def count(self, scores: torch.Tensor) -> torch.Tensor:
        """See `CommitRule.count`."""
        entropy = (-scores).clamp(min=0).double()
        return ((entropy.cumsum(1) - entropy <= self.entropy_bound) & entropy.isfinite()).sum(1)


commits: Registry[CommitRule] = Registry(
    "mdm_schedules.commits",
    "commit rule",
    CommitRule,  # type: ignore[type-abstract]
    example="threshold(0.9)",
)


def list_commits() -> list[Entry]:
    """The names that `commit` takes, each with the package it comes from; loads none of them."""
    return commits.entries()


def get_commit(commit: str | CommitRule) -> CommitRule:
    """A commit rule by spec, such as "threshold(0.9)", or one of your own passed through.

    Raises:
        UnknownNameError, InvalidValueError: no such rule, or not with these parameters.
        InvalidTypeError: neither text nor a rule.
    """
    if isinstance(commit, str):
        return commits.read(commit)
    if isinstance(commit, CommitRule):
        return commit
    raise InvalidTypeError(f"commit must be a rule such as 'threshold(0.9)', got {shown(commit)}")


def choose_commit(
    commit: str | CommitRule | None, threshold: float | None, entropy_bound: float | None
) -> CommitRule | None:
    """The one rule that is asked for; `threshold` and `entropy_bound` are short forms."""
    given: list[CommitRule] = [] if commit is None else [get_commit(commit)]
    if threshold is not None:
        given.append(Threshold(threshold))
    if entropy_bound is not None:
        given.append(EntropyBound(entropy_bound))
    if len(given) > 1:
        raise InvalidValueError(
            f"give one commit rule, got {' and '.join(rule.name for rule in given)}"
        )
    return given[0] if given else None
