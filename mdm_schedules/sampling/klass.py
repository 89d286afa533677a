"""KLASS: tokens that are likely and whose distributions have come to rest (arXiv 2511.05664)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from mdm_schedules.checks import check_int, check_real
from mdm_schedules.sampling.commits import CommitRule
from mdm_schedules.sampling.rows import READ_IN_PLACE, runs
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
    16 MB a sequence at 126,464 tokens and blocks of 32.

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

    def watch(self, logits: torch.Tensor, probs: torch.Tensor, where: Where) -> None:
        """See `CommitRule.watch`."""
        slot = where.row * where.width + where.offset
        # KL(p || q) = sum p (x - y) - log sum exp x + log sum exp y, for logits x of p and y of q
        sums = where.remember("klass.log_sum", dtype=logits.dtype).view(-1)
        log_sum = logits.amax(1) - probs.amax(1).log()
        divergence = self._expected_change(logits, probs, slot, where) - log_sum + sums[slot]
        sums[slot] = log_sum
        calm = self._calm(where).view(-1)
        before = calm[slot]
        # in a position's first pass there is nothing to compare with
        small = (divergence < self.kl) & (before >= 0)
        calm[slot] = torch.where(small, before + 1, 0)

    def _expected_change(
        self, logits: torch.Tensor, probs: torch.Tensor, slot: torch.Tensor, where: Where
    ) -> torch.Tensor:
        """The mean [R] of logits less those of the pass before, which they replace."""
        size = logits.shape[1]
        kept = where.remember("klass.logits", (size,), fill=None, dtype=logits.dtype)
        kept = kept.view(-1, size)
        change = logits.new_empty(len(logits), -(-size // SEGMENT))
        if not (logits.is_cpu and size >= READ_IN_PLACE):
            product = kept[slot].sub_(logits).mul_(probs).nan_to_num_(nan=0.0)
            by_segment(product, torch.sum, change)
            kept[slot] = logits.clamp(min=-LOW)
            return -change.sum(1)
        # long rows, one run of neighbours at a time, in the memory where they are kept
        for start, stop in runs(slot.numpy()):
            first = int(slot[start])
            product = kept[first : first + stop - start]
            product.sub_(logits[start:stop]).mul_(probs[start:stop])
            by_segment(product, torch.sum, change[start:stop])
            # a token of probability 0 with a logit of -inf: 0 * inf
            if not bool(change[start:stop].isfinite().all()):
                by_segment(product.nan_to_num_(nan=0.0), torch.sum, change[start:stop])
            torch.clamp(logits[start:stop], min=-LOW, out=product)
        return -change.sum(1)
