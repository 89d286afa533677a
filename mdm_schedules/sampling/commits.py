"""Commit rules: reveal more than the plan asks where the model is sure; the plan is the least.

A new one is a class with a `name`, and an entry point in the group `mdm_schedules.commits`. Its
parameters are those of its constructor, so `commit="threshold(0.9)"` works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mdm_schedules.checks import check_int, check_real, shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError
from mdm_schedules.registry import Entry, Registry, check_named
from mdm_schedules.sampling.policies import ConfidencePolicy, PositionPolicy
from mdm_schedules.sampling.where import Where


class CommitRule:
    """Says which masked positions a pass reveals, where the plan asks for fewer.

    A subclass has `count`, if it takes the best-scored ones, or `select`.

    Attributes:
        name: how it is asked for.
        policy: the policy whose scores it reads; None for any that looks at the model.
    """

    name: ClassVar[str]
    policy: ClassVar[str | None] = None

    def count(self, scores: torch.Tensor) -> torch.Tensor:
        """Tokens to reveal, LongTensor [B]: the best-scored ones.

        Args:
            scores: [B, W], the policy's scores in falling order, -inf where nothing is masked.
        """
        raise NotImplementedError(f"{type(self).__name__} needs count or select")

    def select(self, scores: torch.Tensor, where: Where) -> torch.Tensor:
        """Bool [B, W], True on the positions to reveal; this is what the sampler calls.

        Args:
            scores: [B, W], the policy's scores of each row's masked positions from left to right,
                then -inf.
            where: these positions, [B, W]. Cells with a score of -inf hold any other column.
        """
        ordered, order = scores.sort(dim=1, descending=True, stable=True)
        rank = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
        count = self.count(ordered)
        _check_count(count, self, len(scores))
        return torch.empty_like(order).scatter_(1, order, rank) < count[:, None]

    def watch(self, logits: torch.Tensor, probs: torch.Tensor, where: Where) -> None:
        """See the distributions, a few positions at a time, each position once a pass.

        For a rule that overrides this, which keeps what it needs in `where.remember(...)`.

        Args:
            logits: [R, V], float32 or float64, in which suppressed tokens are -inf; only read it.
            probs: [R, V], their softmax, the mask token's share included; only read it.
            where: the positions, as a list [R].
        """

    def watch_parts(
        self,
        parts: Sequence[torch.Tensor],
        probs: torch.Tensor,
        where: Where,
        largest: torch.Tensor | None = None,
    ) -> None:
        """As `watch`, with the logits in pieces that lie apart; this is what the sampler calls.

        Args:
            parts: [r, V] each, together the R rows.
            probs, where: see `watch`.
            largest: [R, S], the largest probability in each segment of the vocabulary
                (`segments.py`), where that is known.
        """
        start = 0
        for part in parts:
            stop = start + len(part)
            self.watch(part, probs[start:stop], where.part(start, stop))
            start = stop

    @property
    def watches(self) -> bool:
        """Whether the rule overrides `watch`, without which the draw is faster."""
        return type(self).watch is not CommitRule.watch

    def check(self, policy: PositionPolicy, remask_fraction: float) -> None:
        """Raise InvalidValueError where the rule does not fit the other options."""
        own = type(self)
        if own.count is CommitRule.count and own.select is CommitRule.select:
            raise InvalidValueError(f"the commit rule {own.__name__} needs count or select")
        if self.policy is not None and policy.name != self.policy:
            raise InvalidValueError(
                f"the commit rule {self.name!r} needs remasking={self.policy!r}, got "
                f"{policy.name!r}"
            )
        if not isinstance(policy, ConfidencePolicy):
            raise InvalidValueError(
                f"{self.name} reads scores of a policy that looks at the model, such as "
                f"remasking='low_confidence'; {policy.name!r} knows its order beforehand"
            )
        if remask_fraction:
            raise InvalidValueError(f"give {self.name} or remask_fraction, not both")


def _check_count(count: Any, rule: CommitRule, rows: int) -> None:
    """Raise unless a rule counts in integers, one for each row; NaN would reveal nothing."""
    if not isinstance(count, torch.Tensor):
        found = type(count).__name__
    elif count.is_floating_point() or count.dtype == torch.bool or count.shape != (rows,):
        found = f"{str(count.dtype).removeprefix('torch.')} {list(count.shape)}"
    else:
        return
    raise InvalidTypeError(
        f"count of the commit rule {rule.name!r} ({type(rule).__name__}) must return a tensor of "
        f"integers [{rows}], the tokens of each row, got {found}"
    )


@dataclass(frozen=True)
class Threshold(CommitRule):
    """Every token whose probability is above `threshold`, in [0, 1]; at 1 there is none."""

    threshold: float = 0.9
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

    entropy_bound: float = 0.1
    name: ClassVar[str] = "entropy_bound"
    policy: ClassVar[str | None] = "entropy"

    def __post_init__(self) -> None:
        check_real("entropy_bound", self.entropy_bound, 0)

    def count(self, scores: torch.Tensor) -> torch.Tensor:
        """See `CommitRule.count`."""
        entropy = (-scores).clamp(min=0).double()
        return ((entropy.cumsum(1) - entropy <= self.entropy_bound) & entropy.isfinite()).sum(1)


@dataclass(frozen=True)
class Factor(CommitRule):
    """The n surest tokens, for the largest n with (n + 1) (1 - p_n) < factor.

    p_n is the n-th largest probability: the more tokens are revealed together, the surer each must
    be (Fast-dLLM, arXiv 2505.22618, section 3.3).

    Attributes:
        factor: > 0; 1 asks for p > 1/2 of one token, and p > 3/4 of three.
    """

    factor: float = 1.0
    name: ClassVar[str] = "factor"
    policy: ClassVar[str | None] = "low_confidence"

    def __post_init__(self) -> None:
        check_real("factor", self.factor, 0, low_open=True)

    def count(self, scores: torch.Tensor) -> torch.Tensor:
        """See `CommitRule.count`."""
        several = torch.arange(2, scores.shape[1] + 2, device=scores.device)
        # the left side rises with n, so that those below are the first
        return (several * (1 - scores.double()) < self.factor).sum(1)


@dataclass(frozen=True)
class LocalLeap(CommitRule):
    """Sure tokens, and less sure ones near them (arXiv 2510.07081).

    A masked position whose token has a probability above `anchor` is an anchor. Revealed are the
    anchors, and tokens above `relaxed` at most `radius` positions away from one.

    Attributes:
        anchor: in [0, 1].
        relaxed: in [0, anchor].
        radius: positions, >= 0.
    """

    anchor: float = 0.9
    relaxed: float = 0.75
    radius: int = 4
    name: ClassVar[str] = "local_leap"
    policy: ClassVar[str | None] = "low_confidence"

    def __post_init__(self) -> None:
        check_real("anchor", self.anchor, 0, 1)
        check_real("relaxed", self.relaxed, 0, self.anchor)
        check_int("radius", self.radius, 0, 1 << 20)

    def select(self, scores: torch.Tensor, where: Where) -> torch.Tensor:
        """See `CommitRule.select`."""
        anchor = scores > self.anchor
        # anchors by their place in the block, since revealed positions lie between masked ones
        place = where.offset.clamp(0, where.width - 1)
        line = torch.zeros(len(scores), where.width, dtype=torch.int32, device=scores.device)
        line.scatter_reduce_(1, place, anchor.int(), "amax")
        # how many anchors lie before each place; then in the window around each
        before = torch.nn.functional.pad(line.cumsum(1), (1, 0))
        low = (place - self.radius).clamp(min=0)
        high = (place + self.radius + 1).clamp(max=where.width)
        near = before.gather(1, high) > before.gather(1, low)
        return anchor | (near & (scores > self.relaxed))


commits: Registry[CommitRule] = Registry(
    "mdm_schedules.commits",
    "commit rule",
    CommitRule,
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
        check_named(commit)
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
