"""KLASS: tokens that are likely and whose distributions have come to rest (arXiv 2511.05664)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from mdm_schedules.checks import check_int, check_real
from mdm_schedules.sampling.commits import CommitRule
from mdm_schedules.sampling.rows import READ_IN_PLACE
from mdm_schedules.sampling.segments import SEGMENT, by_segment
from mdm_schedules.sampling.where import Where

#: logits are kept no lower than minus this, so that differences of them are numbers
LOW = 1e30


@dataclass(frozen=True)
class KLASS(CommitRule):
    """Tokens that are likely, in distributions that have not changed lately.

    Revealed are tokens with a probability above `confidence` where the Kullback-Leibler divergence
    of the distribution from that of the pass before was below `kl` in each of the last `history`
    passes. A history begins with its block, so that the first tokens of a block come by the plan.

    It keeps the logits of the block's masked positions: 4 bytes for each token of the vocabulary,
    16 MB a sequence at 126,464 tokens and blocks of 32. On a CPU positions that are too unsure to
    be revealed soon are neither compared nor kept.

    Attributes:
        confidence: in [0, 1].
        kl: in nats, >= 0.
        history: passes, >= 1.
    """

    confidence: float = 0.6
    kl: float = 0.01
    history: int = 2
    name: ClassVar[str] = "klass"
    policy: ClassVar[str | None] = "low_confidence"

    def __post_init__(self) -> None:
        check_real("confidence", self.confidence, 0, 1)
        check_real("kl", self.kl, 0)
        check_int("history", self.history, 1, 1 << 20)

    def select(self, scores: torch.Tensor, where: Where) -> torch.Tensor:
        """See `CommitRule.select`."""
        calm = self._calm(where).gather(1, where.offset.clamp(0, where.width - 1))
        return (scores > self.confidence) & (calm >= self.history)

    def _calm(self, where: Where) -> torch.Tensor:
        """Passes in a row [B, width] that changed little; -1 where the block began."""
        return where.remember("klass.calm", fill=-1, dtype=torch.int32)

    @property
    def _needed(self) -> float:
        """The largest probability of a distribution from which on it can matter.

        Distributions with a divergence below kl differ by less than sqrt(kl / 2) in every
        probability (Pinsker). So what is less likely than this cannot be above `confidence` after
        `history` such changes, and a larger change begins a new history.
        """
        return self.confidence - self.history * math.sqrt(self.kl / 2)

    def watch(self, logits: torch.Tensor, probs: torch.Tensor, where: Where) -> None:
        """See `CommitRule.watch`."""
        slot, top = where.row * where.width + where.offset, probs.amax(1)
        matters = top >= self._needed
        calm = self._calm(where).view(-1)
        if logits.is_cpu:
            # the host knows which rows matter, and reads no others
            chosen = torch.from_numpy(np.flatnonzero(matters.numpy()))
            calm[slot] = torch.where(matters, calm[slot], -1)
            if not len(chosen):
                return
            if len(chosen) < len(slot) or logits.shape[1] >= READ_IN_PLACE:
                return self._compare(logits, probs, top, slot, chosen, where)
        self._compare(logits, probs, top, slot, None, where)
        calm[slot] = torch.where(matters, calm[slot], -1)

    def _compare(
        self,
        logits: torch.Tensor,
        probs: torch.Tensor,
        top: torch.Tensor,
        slot: torch.Tensor,
        chosen: torch.Tensor | None,
        where: Where,
    ) -> None:
        """Count on where rows [R] changed little since the pass before; None chooses all."""
        size = logits.shape[1]
        kept = where.remember("klass.logits", (size,), fill=None, dtype=logits.dtype).view(-1, size)
        sums = where.remember("klass.log_sum", dtype=logits.dtype).view(-1)
        calm = self._calm(where).view(-1)
        if chosen is not None and size >= READ_IN_PLACE:
            mean = _change_in_place(logits, probs, kept, slot, chosen)
            slot, top, largest = slot[chosen], top[chosen], logits.amax(1)[chosen]
        else:
            if chosen is not None:
                logits, probs, slot, top = logits[chosen], probs[chosen], slot[chosen], top[chosen]
            change = kept[slot].sub_(logits).mul_(probs).nan_to_num_(nan=0.0)
            mean = _summed(change)
            kept[slot] = logits.clamp(min=-LOW)
            largest = logits.amax(1)
        # KL(p || q) = sum p (x - y) - log sum exp x + log sum exp y, for logits x of p and y of q
        log_sum = largest - top.log()
        divergence = sums[slot] - log_sum - mean
        sums[slot] = log_sum
        # in a position's first pass there is nothing to compare with
        before = calm[slot]
        calm[slot] = torch.where((divergence < self.kl) & (before >= 0), before + 1, 0)


def _summed(values: torch.Tensor) -> torch.Tensor:
    """Sums [R] of rows, by segments, so that they do not depend on the other rows."""
    sums = values.new_empty(len(values), -(-values.shape[1] // SEGMENT))
    by_segment(values, torch.sum, sums)
    return sums.sum(1)


def _change_in_place(
    logits: torch.Tensor,
    probs: torch.Tensor,
    kept: torch.Tensor,
    slot: torch.Tensor,
    chosen: torch.Tensor,
) -> torch.Tensor:
    """The mean [R] of the kept logits of the chosen rows less the new ones, which replace them.

    In the memory where they are kept, one long row at a time.
    """
    means = []
    for row in chosen.tolist():
        old, new = kept[int(slot[row])][None], logits[row][None]
        mean = _summed(old.sub_(new).mul_(probs[row][None]))
        # a token of probability 0 with a logit of -inf: 0 * inf
        if not bool(mean.isfinite()):
            mean = _summed(old.nan_to_num_(nan=0.0))
        torch.clamp(new, min=-LOW, out=old)
        means.append(mean)
    return torch.cat(means)
