"""How many tokens each row reveals in each step of each block, known before the first pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mdm_schedules.checks import check_int
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.plan import MAX_STEPS, check_plan, share_out
from mdm_schedules.sampling.noise import SequenceNoise
from mdm_schedules.sampling.policies import OrderPolicy, PositionPolicy
from mdm_schedules.schedules import Schedule


def block_spans(ends: Sequence[int] | None, length: int) -> list[tuple[int, int]]:
    """Columns [start, end) of each block; what lies left of the first end belongs to the first
    block.
    """
    ends = [length] if ends is None else list(ends)
    starts = [0, *ends[:-1]]
    if (
        not ends
        or ends[-1] != length
        or any(end <= start for start, end in zip(starts, ends, strict=True))
    ):
        raise InvalidValueError(
            f"block_ends must increase to the sequence length {length}, got {ends}"
        )
    return list(zip(starts, ends, strict=True))


def split_steps(steps: int, masks: Sequence[int]) -> list[int]:
    """Share `steps` passes among blocks in proportion to their masks, at least one each, exactly
    `steps` in all.

    No block gets more passes than masks while there are at least as many masks as passes. A block
    without masks gets one for form's sake, which is never run.
    """
    filled = [block for block, count in enumerate(masks) if count]
    if steps < len(filled):
        raise InvalidValueError(
            f"steps must be at least the number of blocks, {len(filled)}, got {steps}"
        )
    weights = torch.tensor([masks[block] for block in filled], dtype=torch.float64)
    shares = share_out(weights.cumsum(0) / weights.sum(), torch.tensor([steps]))[0].tolist()
    given = dict(zip(filled, shares, strict=True))
    return [given.get(block, 1) for block in range(len(masks))]


def steps_per_block(steps: int | Sequence[int] | None, counts: torch.Tensor) -> list[int]:
    """One number of passes for each block, from what the user gave and the masks [B, blocks]."""
    blocks = counts.shape[1]
    if steps is None:
        return [max(1, int(count)) for count in counts.max(0).values]
    given = list(steps) if isinstance(steps, Sequence) and not isinstance(steps, str) else [steps]
    if len(given) != blocks:
        raise InvalidValueError(
            f"steps must be one number for each of the {blocks} blocks, got {steps!r}"
        )
    return [check_int("steps", step, 1, MAX_STEPS, example="steps=16") for step in given]


def count_tables(
    schedule: Schedule,
    plan: Any,
    counts: torch.Tensor,
    steps: int | Sequence[int] | None,
    policy: PositionPolicy,
) -> list[torch.Tensor]:
    """Per block, the tokens that each row reveals in each step, LongTensor [B, K], from masks
    counts [B, blocks].
    """
    shares = steps_per_block(steps, counts)
    if plan is None:
        return [
            schedule.plan(count, share)
            for count, share in zip(counts.unbind(1), shares, strict=True)
        ]
    if steps is not None or policy.random_counts:
        random = f"remasking={policy.name!r}, whose counts are random"
        other = "steps" if steps is not None else random
        raise InvalidValueError(f"give a plan or {other}, not both")
    return [check_plan(plan, count) for count in counts.unbind(1)]


def ancestral_tables(
    schedule: Schedule,
    steps: int | Sequence[int] | None,
    policy: OrderPolicy,
    masked: torch.Tensor,
    position: torch.Tensor,
    spans: list[tuple[int, int]],
    counts: torch.Tensor,
    noise: SequenceNoise,
) -> list[torch.Tensor]:
    """As `count_tables`, with the random counts of ancestral sampling: a token goes when alpha
    passes its number.

    Without `steps` each row has its own grid of times, one per token of its own, so that its draw
    is the same in any batch; the grids of shorter rows end earlier.
    """
    tables = []
    row = torch.arange(len(masked), device=masked.device)[:, None]
    uniform = 1 - policy.score(row, position, noise)
    for (start, end), count, share in zip(
        spans, counts.unbind(1), steps_per_block(steps, counts), strict=True
    ):
        grids, grid_of_row = (
            count.clamp(min=1) if steps is None else torch.full_like(count, share)
        ).unique(return_inverse=True)
        times = torch.arange(1, share + 1, dtype=torch.float64) / grids[:, None]
        # 1 from a grid's own last step on, which every number is below
        grid = schedule.alpha(times.clamp(max=1)).to(masked.device)[grid_of_row.to(masked.device)]
        step = torch.searchsorted(grid, uniform[:, start:end].contiguous(), right=True)
        table = torch.zeros(len(masked), share, dtype=torch.long, device=masked.device)
        tables.append(table.scatter_add_(1, step, masked[:, start:end].long()).cpu())
    return tables
