"""How many tokens each row reveals in each step of each block, known before the first pass.

The answer is one table [A, K] per block. A sequence of two blocks, filled by `steps=[3, 2]`:

    columns    . . [M] . [M] [M] [M] . | [M] [M] . [M]       4 masks, and 3
    tables           [1, 2, 1]         |    [2, 1]           5 passes

A row with fewer masks than another has smaller numbers or zeros in its row of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mdm_schedules.checks import check_int
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.plan import MAX_STEPS, check_plan, share_out
from mdm_schedules.sampling.noise import SequenceNoise
from mdm_schedules.sampling.policies import OrderPolicy, PositionPolicy
from mdm_schedules.sampling.remask import RemaskFraction, check_still
from mdm_schedules.schedules import Schedule

# ----- Blocks and their passes -----


def block_spans(ends: Sequence[int] | None, length: int) -> list[tuple[int, int]]:
    """Columns [start, end) of each block; the first one begins at column 0."""
    # each block begins where the one before ends
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
    """Share exactly `steps` passes among blocks in proportion to their masks, at least one each.

    No block gets more passes than masks while there are at least as many masks as passes. A block
    without masks gets one for form's sake, which is never run.
    """
    # blocks that have something to fill, each of which needs a pass
    filled = [block for block, count in enumerate(masks) if count]
    if steps < len(filled):
        raise InvalidValueError(
            f"steps must be at least the number of blocks, {len(filled)}, got {steps}"
        )
    # the passes are shared out among blocks as a schedule shares tokens among steps
    weights = torch.tensor([masks[block] for block in filled], dtype=torch.float64)
    shares = share_out(weights.cumsum(0) / weights.sum(), torch.tensor([steps]))[0].tolist()
    # blocks without masks were left out, and come back with their one
    given = dict(zip(filled, shares, strict=True))
    return [given.get(block, 1) for block in range(len(masks))]


def steps_per_block(steps: int | Sequence[int] | None, counts_AN: torch.Tensor) -> list[int]:
    """One number of passes for each block, from what the user gave and the blocks' masks."""
    blocks = counts_AN.shape[1]
    # by default one pass for each mask of the fullest row
    if steps is None:
        return [max(1, int(count)) for count in counts_AN.max(0).values]
    given = list(steps) if isinstance(steps, Sequence) and not isinstance(steps, str) else [steps]
    if len(given) != blocks:
        raise InvalidValueError(
            f"steps must be one number for each of the {blocks} blocks, got {steps!r}"
        )
    return [check_int("steps", step, 1, MAX_STEPS, example="steps=16") for step in given]


# ----- Tables -----


def plan_tables(
    schedule: Schedule,
    plan: Any,
    steps: int | Sequence[int] | None,
    policy: PositionPolicy,
    masked_AL: torch.Tensor,
    position_AL: torch.Tensor,
    spans: list[tuple[int, int]],
    counts_AN: torch.Tensor,
    noise: SequenceNoise,
    fraction: RemaskFraction,
) -> tuple[list[torch.Tensor], list[range]]:
    """A LongTensor [A, K] for each block, and the steps in which its plan stands still.

    Args:
        schedule, plan, steps, policy, counts_AN: see `count_tables`.
        masked_AL, position_AL, spans, noise: see `ancestral_tables`.
        fraction: says in which steps the plan stands still, while passes mask again.
    """
    shares = steps_per_block(steps, counts_AN)
    stills = [check_still(fraction, share) for share in shares] if fraction.fraction else []
    if any(stills):
        if steps is None or plan is not None:
            given = "a plan" if plan is not None else "no steps"
            raise InvalidValueError(
                f"remask_fraction={fraction.name!r} divides the steps, so give steps and a "
                f"schedule; got {given}"
            )
        steps = [share - len(still) for share, still in zip(shares, stills, strict=True)]
    tables = count_tables(schedule, plan, counts_AN, steps, policy)
    if isinstance(policy, OrderPolicy) and policy.random_counts:
        tables = ancestral_tables(
            schedule, steps, policy, masked_AL, position_AL, spans, counts_AN, noise
        )
    if not any(stills):
        return tables, [range(0)] * len(tables)
    # the steps in between reveal nothing more
    return [
        torch.cat(
            [table[:, : still.start], table.new_zeros(len(table), len(still)),
             table[:, still.start :]], 1,
        )
        for table, still in zip(tables, stills, strict=True)
    ], stills  # fmt: skip


def count_tables(
    schedule: Schedule,
    plan: Any,
    counts_AN: torch.Tensor,
    steps: int | Sequence[int] | None,
    policy: PositionPolicy,
) -> list[torch.Tensor]:
    """A LongTensor [A, K] for each block: the tokens that each row reveals in each step.

    Args:
        schedule: from which counts follow where no plan is given.
        plan: what the user gave instead.
        counts_AN: masks of each row in each block.
        steps: what the user gave.
        policy: refuses a plan where its counts are random.
    """
    shares = steps_per_block(steps, counts_AN)
    # rows with equally many masks in a block get the same counts
    if plan is None:
        return [
            schedule.plan(count_A, share)
            for count_A, share in zip(counts_AN.unbind(1), shares, strict=True)
        ]
    if steps is not None or policy.random_counts:
        random = f"remasking={policy.name!r}, whose counts are random"
        other = "steps" if steps is not None else random
        raise InvalidValueError(f"give a plan or {other}, not both")
    # the plan is that of the fullest block; one with fewer masks, such as that in which the prompt
    # ends, follows it until they are filled
    done_AK = check_plan(plan, counts_AN.amax(1)).cumsum(1)
    tables = []
    for count_A in counts_AN.cpu().unbind(1):
        part_AK = torch.minimum(done_AK, count_A[:, None])
        tables.append(part_AK.diff(dim=1, prepend=torch.zeros_like(part_AK[:, :1])))
    return tables


def ancestral_tables(
    schedule: Schedule,
    steps: int | Sequence[int] | None,
    policy: OrderPolicy,
    masked_AL: torch.Tensor,
    position_AL: torch.Tensor,
    spans: list[tuple[int, int]],
    counts_AN: torch.Tensor,
    noise: SequenceNoise,
) -> list[torch.Tensor]:
    """As `count_tables`, with random counts: a token is revealed when alpha passes its number.

    Without `steps` each row has its own grid of times, one per token of its own, so that its draw
    is the same in any batch; the grids of shorter rows end earlier.

    Args:
        schedule: gives alpha.
        steps: what the user gave.
        policy: its scores are 1 less the numbers.
        masked_AL: bool, what is to be filled.
        position_AL: counted from the sequence's own first token.
        spans: columns of each block.
        counts_AN: masks of each row in each block.
        noise: of the rows.
    """
    tables = []
    row = torch.arange(len(masked_AL), device=masked_AL.device)[:, None]
    # the policy reveals the highest score first, so the smallest number, whose time comes first
    uniform_AL = 1 - policy.score(row, position_AL, noise)
    shares = steps_per_block(steps, counts_AN)
    for (start, end), count_A, share in zip(spans, counts_AN.unbind(1), shares, strict=True):
        # 1. The steps of each row's grid, and alpha on each distinct grid once.
        steps_A = count_A.clamp(min=1) if steps is None else torch.full_like(count_A, share)
        grids, grid_of_row_A = steps_A.unique(return_inverse=True)
        times = torch.arange(1, share + 1, dtype=torch.float64) / grids[:, None]
        # alpha is 1 from a grid's own last step on, and every number is below it
        alpha = schedule.alpha(times.clamp(max=1)).to(masked_AL.device)
        alpha_AK = alpha[grid_of_row_A.to(masked_AL.device)]
        # 2. The step of each position: the first whose alpha is above its number.
        uniform = uniform_AL[:, start:end].contiguous()
        step = torch.searchsorted(alpha_AK, uniform, right=True)
        # 3. Masked positions counted by step.
        table_AK = torch.zeros(len(masked_AL), share, dtype=torch.long, device=masked_AL.device)
        tables.append(table_AK.scatter_add_(1, step, masked_AL[:, start:end].long()).cpu())
    return tables
