"""Position policies: which of the masked positions a step reveals. A new one is a class here and a
line in POLICIES.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from mdm_schedules.errors import InvalidTypeError, UnknownNameError, did_you_mean
from mdm_schedules.sampling.noise import POSITION, SequenceNoise
from mdm_schedules.sampling.segments import SEGMENT, by_segment


class PositionPolicy(ABC):
    """Ranks masked positions; the highest scores are revealed first, ties from the left."""

    name: str


class ConfidencePolicy(PositionPolicy):
    """A policy that looks at what the model says, so it needs the logits of every masked
    position.
    """

    @abstractmethod
    def score(self, probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Scores [R] from the probabilities [R, V], before temperature and filters, and the drawn
        tokens [R].

        The mask token, which is never drawn, has the probability that the model gives it.
        """


class OrderPolicy(PositionPolicy):
    """A policy that knows the order beforehand, so logits are asked for the revealed positions
    only.
    """

    @abstractmethod
    def score(
        self, row: torch.Tensor, position: torch.Tensor, noise: SequenceNoise, step: int = 0
    ) -> torch.Tensor:
        """Scores [B, W] for rows [B, 1] and positions [B, W], counted from each sequence's own
        first token.

        `step` is 0 at the start, and changes with each pass where revealed tokens are masked again.
        """


class LowConfidence(ConfidencePolicy):
    """Reveal where the drawn token is most probable (LLaDA's low-confidence remasking; Dream's
    maskgit_plus).
    """

    name = "low_confidence"

    def score(self, probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The drawn token's probability."""
        return probs.gather(1, tokens[:, None])[:, 0]


class Margin(ConfidencePolicy):
    """Reveal where the best token is furthest ahead of the second (Dream's topk_margin)."""

    name = "margin"

    def score(self, probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """First minus second probability."""
        best = probs.topk(min(2, probs.shape[1]), dim=1).values
        return best[:, 0] - best[:, 1] if best.shape[1] == 2 else best[:, 0]


class Entropy(ConfidencePolicy):
    """Reveal where the predictive entropy is least (Dream's entropy)."""

    name = "entropy"

    def score(self, probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Minus the entropy, in nats."""
        parts: torch.Tensor = torch.special.entr(probs.detach())
        # torch sums one long row in other pieces than several
        sums = parts.new_empty(len(parts), -(-parts.shape[1] // SEGMENT))
        by_segment(parts, torch.sum, sums)
        return -sums.sum(1)


class Random(OrderPolicy):
    """Reveal in uniformly random order, with exactly the plan's counts."""

    name = "random"

    def score(
        self, row: torch.Tensor, position: torch.Tensor, noise: SequenceNoise, step: int = 0
    ) -> torch.Tensor:
        """One uniform number per position."""
        return 1 - noise.uniform(POSITION, step, row, position)


class Ancestral(Random):
    """Each masked token is revealed independently with probability (alpha(t) - alpha(s)) / (1 -
    alpha(s)) (MDLM).

    A position with uniform number u is revealed in the step whose alpha passes u, which is that
    process exactly. The counts are then random with the plan's mean, and a step that reveals
    nothing costs no pass.
    """

    name = "ancestral"


class LeftToRight(OrderPolicy):
    """Reveal from the left."""

    name = "left_to_right"

    def score(
        self, row: torch.Tensor, position: torch.Tensor, noise: SequenceNoise, step: int = 0
    ) -> torch.Tensor:
        """Minus the position."""
        return -position.double()


POLICIES: dict[str, ConfidencePolicy | OrderPolicy] = {
    policy.name: policy
    for policy in (LowConfidence(), Margin(), Entropy(), Random(), Ancestral(), LeftToRight())
}


def get_policy(remasking: str | ConfidencePolicy | OrderPolicy) -> ConfidencePolicy | OrderPolicy:
    """A policy by name, or one of your own passed through."""
    if isinstance(remasking, ConfidencePolicy | OrderPolicy):
        return remasking
    if not isinstance(remasking, str):
        raise InvalidTypeError(f"remasking must be one of {', '.join(POLICIES)}, got {remasking!r}")
    if remasking not in POLICIES:
        raise UnknownNameError(
            f"no remasking policy is named {remasking!r}.{did_you_mean(remasking, POLICIES)}"
        )
    return POLICIES[remasking]
