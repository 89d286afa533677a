"""Position policies: which of the masked positions a step reveals.

There are two kinds. A ConfidencePolicy ranks positions by what the model says of them, in each
pass. An OrderPolicy knows the order without the model, which then gives logits of the revealed
positions only.

A new one is a class with a `name`, and an entry point in the group `mdm_schedules.policies`.
"""

from __future__ import annotations

from abc import ABC
from functools import lru_cache
from typing import ClassVar, Literal

import torch

from mdm_schedules.checks import shown
from mdm_schedules.errors import InvalidTypeError, UnknownNameError
from mdm_schedules.registry import Entry, Registry, check_named
from mdm_schedules.sampling.elsewhere import POLICY_NAMES
from mdm_schedules.sampling.noise import POSITION, SequenceNoise
from mdm_schedules.sampling.segments import SEGMENT, by_segment
from mdm_schedules.sampling.where import Where

# the names that ship, for editors; other packages add names that no type knows
PolicyName = Literal[
    "low_confidence",
    "margin",
    "entropy",
    "random",
    "ancestral",
    "left_to_right",
    "dilated",
    "pc",
]


# ----- What a policy is -----


class PositionPolicy(ABC):
    """Ranks masked positions; the highest scores are revealed first, ties from the left.

    Attributes:
        name: how it is asked for.
        random_order: the order is uniformly random, which is what information profiles speak of.
        random_counts: the counts are random too, and only their mean follows the plan.
    """

    name: ClassVar[str]
    random_order: ClassVar[bool] = False
    random_counts: ClassVar[bool] = False


class ConfidencePolicy(PositionPolicy):
    """A policy that looks at what the model says, so it needs logits of every masked position.

    A subclass has `score`; or `score_at`, if it needs to know where the positions lie; or, with
    `token_only`, `token_score`.

    Attributes:
        token_only: of the distribution only the drawn token's probability is looked at; the draw
            then need not keep the others.
    """

    token_only: ClassVar[bool] = False

    @property
    def looks_at_places(self) -> bool:
        """Whether it overrides what is told `where`, without which places are not looked up."""
        own = type(self)
        return (
            own.score_at is not ConfidencePolicy.score_at
            or own.token_score is not ConfidencePolicy.token_score
        )

    def score(self, probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Scores [R] of drawn tokens.

        Args:
            probs: [R, V], before temperature and filters. The mask token, which is never drawn, has
                the probability that the model gives it.
            tokens: LongTensor [R], what was drawn.
        """
        raise NotImplementedError(f"{type(self).__name__} needs score, score_at or token_score")

    def score_at(self, probs: torch.Tensor, tokens: torch.Tensor, where: Where) -> torch.Tensor:
        """As `score`, for positions that are known; this is what the sampler calls.

        Args:
            probs, tokens: see `score`.
            where: the positions, as a list [R].
        """
        if self.token_only:
            return self.token_score(probs.gather(1, tokens[:, None])[:, 0], tokens, where)
        return self.score(probs, tokens)

    def token_score(
        self, probability: torch.Tensor, tokens: torch.Tensor, where: Where
    ) -> torch.Tensor:
        """Scores [R] from the drawn tokens' probabilities alone; by default these themselves.

        Args:
            probability: [R]. One that underflows its dtype is replaced by its logarithm, which is
                negative, so that the order stays.
            tokens: LongTensor [R].
            where: the positions, as a list [R].
        """
        return probability


class OrderPolicy(PositionPolicy):
    """A policy that knows the order beforehand, so that only revealed positions need logits.

    A subclass has `score`; or `score_at`, if it needs to know the block.
    """

    def score(
        self, row: torch.Tensor, position: torch.Tensor, noise: SequenceNoise, step: int = 0
    ) -> torch.Tensor:
        """Scores of positions.

        Args:
            row: LongTensor [B, 1], rows of the batch.
            position: LongTensor [B, W], counted from each sequence's own first token.
            noise: numbers that belong to the sequence, for a random order.
            step: 0 at the start; changes with each pass where revealed tokens are masked again.

        Returns:
            float64 [B, W].
        """
        raise NotImplementedError(f"{type(self).__name__} needs score or score_at")

    def score_at(self, where: Where, noise: SequenceNoise) -> torch.Tensor:
        """As `score`, with the block; this is what the sampler calls.

        Args:
            where: columns of the block, [B, W]; those that are no masks are scored in vain.
            noise: see `score`.
        """
        return self.score(where.row, where.position, noise, where.step)


# ----- Policies that ask the model -----


class LowConfidence(ConfidencePolicy):
    """Reveal where the drawn token is most probable (LLaDA's default; Dream's maskgit_plus)."""

    name = "low_confidence"
    token_only = True

    def score(self, probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The drawn token's probability."""
        return probs.gather(1, tokens[:, None])[:, 0]


class Margin(ConfidencePolicy):
    """Reveal where the best token is furthest ahead of the second (Dream's topk_margin)."""

    name = "margin"

    def score(self, probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """First minus second probability."""
        # a vocabulary of one token has no second
        best = probs.topk(min(2, probs.shape[1]), dim=1).values
        return best[:, 0] - best[:, 1] if best.shape[1] == 2 else best[:, 0]


class Entropy(ConfidencePolicy):
    """Reveal where the predictive entropy is least (Dream's entropy)."""

    name = "entropy"

    def score(self, probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Minus the entropy, in nats."""
        parts: torch.Tensor = torch.special.entr(probs.detach())
        # by segments, since torch sums one long row in other pieces than several, and a score must
        # not depend on the batch
        sums = parts.new_empty(len(parts), -(-parts.shape[1] // SEGMENT))
        by_segment(parts, torch.sum, sums)
        # certain is best
        return -sums.sum(1)


# ----- Policies that know the order -----


class Random(OrderPolicy):
    """Reveal in uniformly random order, with exactly the plan's counts."""

    name = "random"
    random_order = True

    def score(
        self, row: torch.Tensor, position: torch.Tensor, noise: SequenceNoise, step: int = 0
    ) -> torch.Tensor:
        """One uniform number per position."""
        # in (0, 1]; `ancestral_tables` takes it back
        return 1 - noise.uniform(POSITION, step, row, position)


class Ancestral(Random):
    """Reveal each masked token by a coin of its own, as MDLM's ancestral sampling does.

    Between times s and t its probability is (alpha(t) - alpha(s)) / (1 - alpha(s)). A position with
    uniform number u is revealed in the step whose alpha passes u, which is that process exactly.
    The counts are then random with the plan's mean, and a step that reveals nothing costs no pass.
    """

    name = "ancestral"
    random_counts = True


class LeftToRight(OrderPolicy):
    """Reveal from the left."""

    name = "left_to_right"

    def score(
        self, row: torch.Tensor, position: torch.Tensor, noise: SequenceNoise, step: int = 0
    ) -> torch.Tensor:
        """Minus the position."""
        # the highest score comes first
        return -position.double()


# ----- Finding one -----


policies: Registry[PositionPolicy] = Registry(
    "mdm_schedules.policies",
    "remasking policy",
    PositionPolicy,
    example="random",
)


def list_policies() -> list[Entry]:
    """The names that `remasking` takes, each with the package it comes from; loads none of them."""
    return policies.entries()


@lru_cache(maxsize=64)
def _built(name: str, cls: type[PositionPolicy]) -> PositionPolicy:
    """The policy of a plain name; one object for all runs, since policies keep no state."""
    return policies.build(name, [], {})


def get_policy(
    remasking: str | ConfidencePolicy | OrderPolicy,
) -> ConfidencePolicy | OrderPolicy:
    """A policy by name or spec, or one of your own passed through.

    Raises:
        UnknownNameError: no policy has this name; the message lists the nearest.
        InvalidTypeError: neither text nor a policy.
    """
    if isinstance(remasking, str):
        # a name or spec; the registry knows the names, and the nearest ones
        if remasking in POLICY_NAMES and remasking not in policies.names():
            where, ours = POLICY_NAMES[remasking]
            raise UnknownNameError(
                f"no remasking policy is named {remasking!r}; {where}'s {remasking} is {ours!r} "
                "here"
            )
        bare = "(" not in remasking
        found = _built(remasking, policies.get(remasking)) if bare else policies.read(remasking)
        if isinstance(found, ConfidencePolicy | OrderPolicy):
            return found
        raise InvalidTypeError(
            f"the policy {remasking!r} must derive from ConfidencePolicy or OrderPolicy"
        )
    if isinstance(remasking, ConfidencePolicy | OrderPolicy):
        check_named(remasking)
        return remasking
    raise InvalidTypeError(
        f"remasking must be one of {', '.join(policies.names())}, got {shown(remasking)}"
    )
