"""KLASS: tokens that are likely and whose distributions have come to rest (arXiv 2511.05664)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from mdm_schedules.checks import check_int, check_real
from mdm_schedules.sampling.commits import CommitRule
from mdm_schedules.sampling.rows import READ_IN_PLACE
from mdm_schedules.sampling.segments import SEGMENT, by_segment
from mdm_schedules.sampling.where import Where


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
        self.watch_parts([logits], probs, where)

    def watch_parts(
        self,
        parts: Sequence[torch.Tensor],
        probs: torch.Tensor,
        where: Where,
        largest: torch.Tensor | None = None,
    ) -> None:
        """See `CommitRule.watch_parts`."""
        slot = where.row * where.width + where.offset
        top, token = _best(probs, largest)
        matters = top >= self._needed
        calm = self._calm(where).view(-1)
        if not probs.is_cpu:
            self._compare(parts, probs, top, token, slot, None, where)
            calm[slot] = torch.where(matters, calm[slot], -1)
            return
        # the host knows which rows matter, and reads no others
        calm[slot] = torch.where(matters, calm[slot], -1)
        chosen = np.flatnonzero(matters.numpy())
        if len(chosen):
            self._compare(parts, probs, top, token, slot, torch.from_numpy(chosen), where)

    def _compare(
        self,
        parts: Sequence[torch.Tensor],
        probs: torch.Tensor,
        top: torch.Tensor,
        token: torch.Tensor,
        slot: torch.Tensor,
        chosen: torch.Tensor | None,
        where: Where,
    ) -> None:
        """Count on where rows [R] changed little since the pass before; None chooses all.

        `top` is the largest probability of each row, `token` whose that is, and `slot` the place
        where the row's logits are kept.
        """
        size, dtype = probs.shape[1], parts[0].dtype
        kept = where.remember("klass.logits", (size,), fill=None, dtype=dtype).view(-1, size)
        sums = where.remember("klass.log_sum", dtype=dtype).view(-1)
        calm = self._calm(where).view(-1)
        if chosen is not None:
            top, token, slot = top[chosen], token[chosen], slot[chosen]
        before = calm[slot]
        if chosen is not None and size >= READ_IN_PLACE:
            rows = Rows(chosen, slot, token, before)
            mean, logit = _change_by_row(parts, probs, kept, rows)
        else:
            logits = parts[0] if len(parts) == 1 else torch.cat([*parts])
            if chosen is not None:
                logits, probs = logits[chosen], probs[chosen]
            mean = _summed(kept[slot].sub_(logits).mul_(probs).nan_to_num_(nan=0.0))
            kept[slot] = logits
            logit = logits.gather(1, token[:, None])[:, 0]
        # log sum exp of the logits = one of them - its log-probability
        log_sum = logit - top.log()
        # KL(p || q) = sum p (x - y) - log sum exp x + log sum exp y, for logits x of p and y of q
        divergence = sums[slot] - log_sum - mean
        sums[slot] = log_sum
        # in a position's first pass there is nothing to compare with
        calm[slot] = torch.where((divergence < self.kl) & (before >= 0), before + 1, 0)


def _best(probs: torch.Tensor, largest: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest probability [R] of each row, and the first token that has it.

    `largest` has the largest of each segment, where that is known.
    """
    if not probs.is_cpu:
        best = probs.max(1)
        return best.values, best.indices
    # a CPU finds the largest of a long row faster than its place
    rows, size = probs.shape
    if largest is None:
        largest = probs.new_empty(rows, -(-size // SEGMENT))
        by_segment(probs, torch.amax, largest)
    top, segment = largest.max(1)
    width = min(SEGMENT, size)
    start = (segment * SEGMENT).clamp(max=size - width)
    inside = probs.unfold(1, width, 1)[torch.arange(rows), start]
    return top, start + (inside == top[:, None]).to(torch.uint8).argmax(1)


def _summed(values: torch.Tensor) -> torch.Tensor:
    """Sums [R] of rows, by segments, so that they do not depend on the other rows."""
    sums = values.new_empty(len(values), -(-values.shape[1] // SEGMENT))
    by_segment(values, torch.sum, sums)
    return sums.sum(1)


class Rows(NamedTuple):
    """Rows of a chunk [R]: their places in it, where theirs are kept, their best tokens, and the
    passes in a row that changed little, -1 where nothing is kept yet."""

    place: torch.Tensor
    slot: torch.Tensor
    token: torch.Tensor
    calm: torch.Tensor


def _change_by_row(
    parts: Sequence[torch.Tensor], probs: torch.Tensor, kept: torch.Tensor, rows: Rows
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean [R] of kept logits less the new ones, and the best token's new one [R].

    The new logits replace the kept ones. One long row at a time, so that it stays in the
    processor's cache from step to step.
    """
    logits = [row for part in parts for row in part]
    change, means, best = torch.empty_like(logits[0]), [], []
    for place, slot, token, calm in zip(*(one.tolist() for one in rows), strict=True):
        old, new = kept[slot], logits[place]
        if calm >= 0:
            torch.sub(old, new, out=change)
        old.copy_(new)
        mean = change.mul_(probs[place]).sum().item() if calm >= 0 else 0.0
        # a token of probability 0 with a logit of -inf: 0 * inf
        if not math.isfinite(mean):
            mean = change.nan_to_num_(nan=0.0).sum().item()
        means.append(mean)
        best.append(new[token].item())
    return change.new_tensor(means), change.new_tensor(best)
